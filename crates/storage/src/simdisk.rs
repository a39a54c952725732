//! A disk for tests that keeps only what was synced. It counts its steps, stops at any of them as a machine
//! without power does, and shows what could be there afterwards.
//!
//! Every unsynced write may be there, missing, or there in part; every unsynced change of a name may be there or
//! missing; and none of that depends on their order. A sync that fails may lose what it was for, and says so once.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile, Entry};

/// Writes are torn at these boundaries, or at any byte.
const BLOCK: usize = 512;

/// A disk that forgets what was not synced.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// What goes wrong at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The machine loses power: this step and all later ones do not happen.
    Crash,
    /// The step fails, once. What a failed sync was for may be lost.
    Error,
    /// The disk is full from this step on: nothing can grow.
    Full,
}

/// What could be there after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// Only what was synced.
    Synced,
    /// Everything.
    All,
    /// Of what was not synced a part, by this seed.
    Some(u64),
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    renames: Vec<NameChange>,
    steps: Vec<String>,
    fault: Option<(usize, Fault)>,
    crashed: bool,
    full: bool,
}

#[derive(Debug, Default, Clone)]
struct Inode {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Size(usize),
}

#[derive(Debug, Clone)]
enum NameChange {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, usize),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            NameChange::Link(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            NameChange::Unlink(path) => {
                names.remove(path);
            }
            NameChange::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            NameChange::Link(path, _) | NameChange::Unlink(path) | NameChange::Rename(_, path, _) => {
                path.parent() == Some(dir)
            }
        }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Size(size) => bytes.resize(*size, 0),
            Change::Write { at, bytes: new } => {
                if bytes.len() < at + new.len() {
                    bytes.resize(at + new.len(), 0);
                }
                if let Some(place) = bytes.get_mut(*at..at + new.len()) {
                    place.copy_from_slice(new);
                }
            }
        }
    }

    /// A part of it may be all that reached the disk.
    fn apply_torn(&self, bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
        let Change::Write { at, bytes: new } = self else { return self.apply(bytes) };
        if random.bool() {
            let cut = random.usize(..=new.len());
            let part = Change::Write { at: *at, bytes: new.get(..cut).unwrap_or_default().to_vec() };
            return part.apply(bytes);
        }
        for (n, block) in new.chunks(BLOCK).enumerate() {
            if random.bool() {
                Change::Write { at: at + n * BLOCK, bytes: block.to_vec() }.apply(bytes);
            }
        }
    }
}

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a step go wrong: the `step`th from now on, counted from 0.
    pub fn fail_at(&self, step: usize, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.steps.len() + step, fault));
    }

    /// What was done so far: a line per step that changes something.
    #[must_use]
    pub fn steps(&self) -> Vec<String> {
        self.state().steps.clone()
    }

    /// Whether the machine has lost power.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// Ends a time in which the disk was full.
    pub fn free_space(&self) {
        self.state().full = false;
    }

    /// The disk as it may be found when the machine starts again.
    #[must_use]
    pub fn after_crash(&self, aftermath: Aftermath) -> SimDisk {
        let state = self.state();
        let mut random =
            fastrand::Rng::with_seed(if let Aftermath::Some(seed) = aftermath { seed } else { 0 });
        let mut survives = |torn: bool| match aftermath {
            Aftermath::Synced => 0,
            Aftermath::All => 2,
            Aftermath::Some(_) => random.u8(..if torn { 3 } else { 2 }) * if torn { 1 } else { 2 },
        };
        let mut tearing = fastrand::Rng::with_seed(survives_seed(aftermath));
        let mut inodes = state.inodes.clone();
        for inode in &mut inodes {
            let mut bytes = std::mem::take(&mut inode.synced);
            for change in std::mem::take(&mut inode.unsynced) {
                match survives(true) {
                    0 => {}
                    1 => change.apply_torn(&mut bytes, &mut tearing),
                    _ => change.apply(&mut bytes),
                }
            }
            *inode = Inode { synced: bytes.clone(), bytes, unsynced: Vec::new() };
        }
        let mut names = state.synced_names.clone();
        for change in state.renames.iter() {
            if survives(false) > 0 {
                change.apply(&mut names);
            }
        }
        let state = State { inodes, synced_names: names.clone(), names, ..State::default() };
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }
}

fn survives_seed(aftermath: Aftermath) -> u64 {
    if let Aftermath::Some(seed) = aftermath { seed ^ 0x7ea2 } else { 0 }
}

impl State {
    /// Counts a step; `Err` if it does not happen. `Ok(true)` if it happens and fails.
    fn step(&mut self, what: &str, path: &Path, grows: bool) -> io::Result<bool> {
        if self.crashed {
            return Err(io::Error::other("the machine has lost power"));
        }
        let now = self.steps.len();
        self.steps.push(format!("{what} {}", kind(path)));
        match self.fault {
            Some((at, Fault::Crash)) if at == now => {
                self.crashed = true;
                return Err(io::Error::other("the machine loses power"));
            }
            Some((at, Fault::Error)) if at == now => return Ok(true),
            Some((at, Fault::Full)) if at == now => self.full = true,
            _ => {}
        }
        if self.full && grows { Err(io::ErrorKind::StorageFull.into()) } else { Ok(false) }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The name that a file has now, whichever it was opened by.
    fn name_of(&self, inode: usize) -> PathBuf {
        let named = self.names.iter().find(|(_, named)| **named == inode);
        named.map_or_else(|| "a removed file".into(), |(path, _)| path.clone())
    }

    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.renames.push(change);
    }
}

fn failed() -> io::Error {
    io::Error::from_raw_os_error(5)
}

/// The name without its number, so that steps of the same kind read alike.
fn kind(path: &Path) -> String {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.split_once('.') {
        Some((kind @ ("log" | "snapshot"), _)) => kind.to_owned(),
        _ => name.to_owned(),
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        if state.step("create", path, true)? {
            return Err(failed());
        }
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.rename(NameChange::Link(path.to_owned(), inode));
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.state().find(path)?;
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.state();
        let entry = |(path, inode): (&PathBuf, &usize)| {
            let name = path.file_name()?.to_str()?.to_owned();
            let len = state.inodes.get(*inode)?.bytes.len() as u64;
            (path.parent() == Some(dir)).then_some(Entry { name, len })
        };
        Ok(state.names.iter().filter_map(entry).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let fails = state.step("rename to", to, false)?;
        let inode = state.find(from)?;
        if fails {
            return Err(failed());
        }
        state.rename(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let fails = state.step("remove", path, false)?;
        state.find(path)?;
        if fails {
            return Err(failed());
        }
        state.rename(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.step("sync directory", dir, false)? {
            return Err(failed());
        }
        let (synced, left) = std::mem::take(&mut state.renames).into_iter().partition(|c| c.is_in(dir));
        state.renames = left;
        let synced: Vec<NameChange> = synced;
        synced.iter().for_each(|change| change.apply(&mut state.synced_names));
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl SimFile {
    fn change(&mut self, what: &str, change: Change) -> io::Result<()> {
        let mut state = self.disk.state();
        let grown = match &change {
            Change::Write { at, bytes } => at + bytes.len(),
            Change::Size(size) => *size,
        };
        let grows = state.inodes.get(self.inode).is_some_and(|inode| grown > inode.bytes.len());
        let name = state.name_of(self.inode);
        let fails = state.step(what, &name, grows)?;
        let Some(inode) = state.inodes.get_mut(self.inode) else { return Err(failed()) };
        if fails {
            // A write that fails may have happened in part.
            if let Change::Write { at, bytes } = &change {
                let half = bytes.get(..bytes.len() / 2).unwrap_or_default().to_vec();
                let part = Change::Write { at: *at, bytes: half };
                part.apply(&mut inode.bytes);
                inode.unsynced.push(part);
            }
            return Err(failed());
        }
        change.apply(&mut inode.bytes);
        inode.unsynced.push(change);
        Ok(())
    }
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes.get(self.inode).map_or(0, |inode| inode.bytes.len() as u64))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let bytes = state.inodes.get(self.inode).map_or(&[][..], |inode| &inode.bytes);
        let there = bytes.get(index(offset)?..).unwrap_or_default();
        let n = there.len().min(buf.len());
        buf.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
        Ok(n)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change("write", Change::Write { at: index(offset)?, bytes: bytes.to_vec() })
    }

    fn sync_data(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        let name = state.name_of(self.inode);
        let fails = state.step("sync", &name, false)?;
        let Some(inode) = state.inodes.get_mut(self.inode) else { return Err(failed()) };
        if fails {
            // The kernel drops what it could not write and takes it for clean: a later sync says yes to nothing.
            let lost = std::mem::take(&mut inode.unsynced);
            let half = lost.len() / 2;
            lost.iter().take(half).for_each(|change| change.apply(&mut inode.synced));
            return Err(failed());
        }
        std::mem::take(&mut inode.unsynced).iter().for_each(|change| change.apply(&mut inode.synced));
        Ok(())
    }

    fn set_size(&mut self, size: u64) -> io::Result<()> {
        self.change("cut", Change::Size(index(size)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_synced_is_sure() {
        let disk = SimDisk::default();
        let path = Path::new("/d/log.1");
        let mut file = disk.create(path).unwrap();
        file.write_at(b"synced", 0).unwrap();
        file.sync_data().unwrap();
        assert!(disk.after_crash(Aftermath::Synced).list(Path::new("/d")).unwrap().is_empty(), "no name yet");
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_at(&[b'x'; 2000], 6).unwrap();
        let len = |aftermath| disk.after_crash(aftermath).list(Path::new("/d")).unwrap()[0].len;
        assert_eq!((len(Aftermath::Synced), len(Aftermath::All)), (6, 2006));
        let seen: std::collections::BTreeSet<u64> = (0..50).map(|seed| len(Aftermath::Some(seed))).collect();
        assert!(seen.len() > 5, "torn in many ways: {seen:?}");
        disk.fail_at(0, Fault::Error);
        assert!(file.sync_data().is_err() && file.sync_data().is_ok());
        assert_eq!(len(Aftermath::All), 6, "what a failed sync lost does not come back");
        disk.fail_at(1, Fault::Crash);
        assert!(file.sync_data().is_ok() && file.sync_data().is_err() && disk.has_crashed());
        assert_eq!(disk.steps().last().unwrap(), "sync log");
    }
}

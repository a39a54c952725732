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
    /// Steps so far, and a line for each unless the disk is quiet.
    count: usize,
    steps: Vec<String>,
    quiet: bool,
    /// So many of the next syncs fail.
    failing_syncs: u32,
    /// So many of the next changes of a file's size fail.
    failing_cuts: u32,
    /// So many of the next reads fail.
    failing_reads: u32,
    /// So many of the next writes are said to be done and are not.
    lost_writes: u32,
    fault: Option<(usize, Fault)>,
    /// The step at which the machine lost power.
    lost_at: Option<String>,
    crashed: bool,
    full: bool,
}

#[derive(Debug, Default, Clone)]
struct Inode {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    /// Changes of `synced` that cut it or wrote over what was there, zeros apart.
    rewrites: u32,
}

impl Inode {
    /// Makes a change durable.
    fn keep(&mut self, change: &Change) {
        let rewrites = match change {
            Change::Write { at, bytes } => {
                self.synced.iter().skip(*at).take(bytes.len()).any(|byte| *byte != 0)
            }
            Change::Size(size) => self.synced.iter().skip(*size).any(|byte| *byte != 0),
            Change::Lost => false,
        };
        self.rewrites += u32::from(rewrites);
        change.apply(&mut self.synced);
    }
}

#[derive(Debug, Clone)]
enum Change {
    /// The disk said it was written.
    Lost,
    Write {
        at: usize,
        bytes: Vec<u8>,
    },
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
            Change::Lost => {}
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
        state.fault = Some((state.count + step, fault));
    }

    /// A disk that keeps no account of its steps, for runs of many of them.
    #[must_use]
    pub fn quiet() -> SimDisk {
        let disk = SimDisk::default();
        disk.state().quiet = true;
        disk
    }

    /// Takes back what [`SimDisk::fail_at`] has planned and has not happened.
    pub fn forget_fault(&self) {
        self.state().fault = None;
    }

    /// Whether the disk is full: nothing can grow while it is.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Has so many of the next syncs fail; each loses a part of what it was for and says so once.
    pub fn fail_syncs(&self, count: u32) {
        self.state().failing_syncs = count;
    }

    /// Has so many of the next changes of a file's size fail; nothing of them happens.
    pub fn fail_cuts(&self, count: u32) {
        self.state().failing_cuts = count;
    }

    /// Has so many of the next reads of a file fail.
    pub fn fail_reads(&self, count: u32) {
        self.state().failing_reads = count;
    }

    /// Has so many of the next writes be lost: read back as long as the machine runs, synced, and never stored.
    pub fn lose_writes(&self, count: u32) {
        self.state().lost_writes = count;
    }

    /// The disk after its process was killed while the machine went on: nothing is lost, and what was not synced is
    /// still not.
    #[must_use]
    pub fn after_kill(&self) -> SimDisk {
        let state = self.state();
        let state = State {
            inodes: state.inodes.clone(),
            names: state.names.clone(),
            synced_names: state.synced_names.clone(),
            renames: state.renames.clone(),
            quiet: state.quiet,
            full: state.full,
            failing_syncs: state.failing_syncs,
            failing_cuts: state.failing_cuts,
            failing_reads: state.failing_reads,
            lost_writes: state.lost_writes,
            ..State::default()
        };
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Flips a few bits of a file at rest, chosen by the seed; tells in which one, if there is one whose name begins
    /// so.
    pub fn rot(&self, prefix: &str, bits: usize, seed: u64) -> Option<PathBuf> {
        let mut state = self.state();
        let mut random = fastrand::Rng::with_seed(seed);
        let has_prefix =
            |path: &Path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix));
        let found: Vec<(PathBuf, usize)> = state
            .synced_names
            .iter()
            .filter(|(path, _)| has_prefix(path))
            .map(|(p, i)| (p.clone(), *i))
            .collect();
        let (path, inode) = random.choice(found)?;
        let inode = state.inodes.get_mut(inode)?;
        for _ in 0..bits {
            let at = random.usize(..inode.synced.len().max(1));
            let flip = 1 << random.u8(..8);
            for bytes in [&mut inode.synced, &mut inode.bytes] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= flip;
                }
            }
        }
        Some(path)
    }

    /// Writes over what is at rest in a file, as a disk does that loses or misplaces what it was given, or forgets.
    pub fn spoil(&self, inode: usize, at: usize, new: &[u8]) {
        let mut state = self.state();
        let Some(inode) = state.inodes.get_mut(inode) else { return };
        for bytes in [&mut inode.synced, &mut inode.bytes] {
            let there = bytes.iter_mut().skip(at);
            there.zip(new).for_each(|(byte, new)| *byte = *new);
        }
        inode.rewrites += 1;
    }

    /// The files that would be there after a loss of power, by whole path: which inode, and how long.
    #[must_use]
    pub fn durable_files(&self, dir: &Path) -> Vec<(String, usize, u64)> {
        let state = self.state();
        let file = |(path, inode): (&PathBuf, &usize)| {
            let name = path.file_name()?.to_str()?.to_owned();
            let len = state.inodes.get(*inode)?.synced.len() as u64;
            (path.parent() == Some(dir)).then_some((name, *inode, len))
        };
        state.synced_names.iter().filter_map(file).collect()
    }

    /// What would be there of a file after a loss of power, from an offset on.
    #[must_use]
    pub fn durable_bytes(&self, inode: usize, from: usize) -> Vec<u8> {
        let state = self.state();
        let bytes = state.inodes.get(inode).and_then(|inode| inode.synced.get(from..));
        bytes.unwrap_or_default().to_vec()
    }

    /// How often what is durable of a file changed in another way than by growing: cut, or written over.
    #[must_use]
    pub fn durable_rewrites(&self, inode: usize) -> u32 {
        self.state().inodes.get(inode).map_or(0, |inode| inode.rewrites)
    }

    /// What was done so far: a line per step that changes something.
    #[must_use]
    pub fn steps(&self) -> Vec<String> {
        self.state().steps.clone()
    }

    /// The step at which the machine lost power, if one was chosen for that: what, and of which kind of file.
    #[must_use]
    pub fn lost_power_at(&self) -> Option<String> {
        self.state().lost_at.clone()
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
            *inode =
                Inode { synced: bytes.clone(), bytes, unsynced: Vec::new(), rewrites: inode.rewrites + 1 };
        }
        let mut names = state.synced_names.clone();
        for change in state.renames.iter() {
            if survives(false) > 0 {
                change.apply(&mut names);
            }
        }
        let quiet = state.quiet;
        let state = State { inodes, synced_names: names.clone(), names, quiet, ..State::default() };
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
        let now = self.count;
        self.count += 1;
        if !self.quiet {
            self.steps.push(format!("{what} {}", kind(path)));
        }
        match self.fault {
            Some((at, Fault::Crash)) if at == now => {
                self.crashed = true;
                self.lost_at = Some(format!("{what} {}", kind(path)));
                return Err(io::Error::other("the machine loses power"));
            }
            Some((at, Fault::Error)) if at == now => return Ok(true),
            Some((at, Fault::Full)) if at == now => self.full = true,
            _ => {}
        }
        if what == "sync" && self.failing_syncs > 0 {
            self.failing_syncs -= 1;
            return Ok(true);
        }
        if what == "cut" && self.failing_cuts > 0 {
            self.failing_cuts -= 1;
            return Ok(true);
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
            // What is not written takes no space.
            Change::Size(_) | Change::Lost => 0,
        };
        let grows = state.inodes.get(self.inode).is_some_and(|inode| grown > inode.bytes.len());
        let name = state.name_of(self.inode);
        let fails = state.step(what, &name, grows)?;
        let lost = state.lost_writes > 0;
        state.lost_writes = state.lost_writes.saturating_sub(1);
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
        inode.unsynced.push(if lost { Change::Lost } else { change });
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
        let mut state = self.disk.state();
        if state.failing_reads > 0 {
            state.failing_reads -= 1;
            return Err(io::Error::other("a read fails"));
        }
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
            lost.iter().take(half).for_each(|change| inode.keep(change));
            return Err(failed());
        }
        std::mem::take(&mut inode.unsynced).iter().for_each(|change| inode.keep(change));
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

    fn log_on(disk: &SimDisk) -> Box<dyn DiskFile> {
        let file = disk.create(Path::new("/d/log.1")).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file
    }

    #[test]
    fn a_killed_process_leaves_what_it_wrote_and_a_later_loss_of_power_takes_it() {
        let disk = SimDisk::quiet();
        let mut file = log_on(&disk);
        file.write_at(b"kept by the machine", 0).unwrap();
        disk.fail_at(0, Fault::Crash);
        assert!(file.sync_data().is_err());
        let killed = disk.after_kill();
        let size = |disk: &SimDisk| disk.open(Path::new("/d/log.1")).unwrap().size().unwrap();
        assert_eq!((size(&killed), size(&killed.after_crash(Aftermath::Synced))), (19, 0));
        assert!(disk.steps().is_empty() && killed.open(Path::new("/d/log.1")).unwrap().sync_data().is_ok());
        assert_eq!(size(&killed.after_crash(Aftermath::Synced)), 19);
    }

    #[test]
    fn lost_writes_read_well_until_the_power_goes() {
        let disk = SimDisk::quiet();
        let mut file = log_on(&disk);
        disk.lose_writes(1);
        file.write_at(b"lost", 0).unwrap();
        file.write_at(b"kept", 4).unwrap();
        file.sync_data().unwrap();
        assert_eq!((file.size().unwrap(), disk.durable_bytes(0, 0)), (8, b"\0\0\0\0kept".to_vec()));
    }

    #[test]
    fn rot_changes_what_is_durable_and_rewriting_is_counted() {
        let disk = SimDisk::quiet();
        let mut file = log_on(&disk);
        file.write_at(&[1; 100], 0).unwrap();
        file.set_size(300).unwrap();
        file.sync_data().unwrap();
        assert_eq!(disk.durable_files(Path::new("/d")), [("log.1".to_owned(), 0, 300)]);
        file.write_at(&[2; 50], 100).unwrap();
        file.sync_data().unwrap();
        assert_eq!(disk.durable_rewrites(0), 0, "zeros were written over");
        file.set_size(120).unwrap();
        file.sync_data().unwrap();
        assert_eq!(disk.durable_rewrites(0), 1);
        assert_eq!(disk.rot("snapshot.", 1, 1), None);
        assert_eq!(disk.rot("log.", 1, 1), Some("/d/log.1".into()));
        assert_ne!(disk.durable_bytes(0, 0), [[1; 100].as_slice(), &[2; 20]].concat());
    }

    #[test]
    fn what_is_at_rest_can_be_spoilt_and_does_not_grow() {
        let disk = SimDisk::quiet();
        let mut file = log_on(&disk);
        file.write_at(b"abcdef", 0).unwrap();
        file.sync_data().unwrap();
        disk.spoil(0, 4, b"12345");
        assert_eq!(disk.after_crash(Aftermath::Synced).durable_bytes(0, 0), b"abcd12");
        assert_eq!(disk.durable_rewrites(0), 1);
    }

    #[test]
    fn syncs_fail_as_often_as_planned() {
        let disk = SimDisk::quiet();
        let mut file = log_on(&disk);
        disk.fail_syncs(2);
        assert!(file.sync_data().is_err() && file.sync_data().is_err() && file.sync_data().is_ok());
        disk.set_full(true);
        assert!(file.write_at(b"grows", 0).is_err());
        disk.set_full(false);
        file.write_at(b"grows", 0).unwrap();
    }
}

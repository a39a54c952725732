//! The files of a data directory: transactions, logs, snapshots.

use std::path::Path;
use std::sync::Arc;

use oxkeeper_proto::{TxnRecord, Zxid};
use oxkeeper_server::{RecoverOptions, Recovered, load_snapshot, recover};
use oxkeeper_storage::rawlog::{self, RawItem};
use oxkeeper_storage::{
    Candidate, Compression, Directories, Disk, EpochFile, LogReader, MemoryDisk, ReadLimits, SnapshotItem,
    SnapshotReader, SnapshotWriter, StorageError, Tear, candidates, cut, names, truncate,
};
use oxkeeper_tree::{OwnerRules, Rules, Tree};

use crate::bounds::within;

/// The longest record and field in these files; small, so that what is too long is met often.
const RECORD_BYTES_MAX: usize = 16 << 10;
const LIMITS: ReadLimits = ReadLimits { record_bytes_max: RECORD_BYTES_MAX };
const DIR: &str = "/d/version-2";
/// What a reader of logs holds however small its file.
const LOG_BUFFERS: usize = 64 << 10;
/// What a reader of snapshots holds: a chunk of the file, what unpacks it, and the longest fields.
const SNAPSHOT_BUFFERS: usize = (2 << 20) + 4 * RECORD_BYTES_MAX;

/// A record of the log as it is after its checksum was found right.
pub fn transactions(bytes: &[u8]) {
    round_trip!(bytes, |bytes| TxnRecord::decode(bytes));
}

fn put(disk: &MemoryDisk, name: &str, bytes: &[u8]) {
    let mut file = disk.create(&Path::new(DIR).join(name)).unwrap_or_else(|error| panic!("{error}"));
    file.write_at(bytes, 0).unwrap_or_else(|error| panic!("{error}"));
}

fn get(disk: &MemoryDisk, path: &Path) -> Vec<u8> {
    let Ok(file) = disk.open_to_read(path) else { return Vec::new() };
    let mut bytes = vec![0; file.size().unwrap_or(0) as usize];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    bytes.truncate(read);
    bytes
}

/// Zxids and contents of what was read, and where it ended torn.
type ReadLog = (Vec<(Zxid, u32)>, Option<Tear>);

fn read_all(disk: &MemoryDisk, after: Zxid) -> Result<ReadLog, StorageError> {
    let mut reader = LogReader::after(Arc::new(disk.clone()), Path::new(DIR), after, LIMITS)?;
    let mut all = Vec::new();
    while let Some(record) = reader.next_record()? {
        assert!(record.payload.len() <= RECORD_BYTES_MAX);
        assert_eq!(record.payload.get(12..20), Some(&record.zxid.0.to_be_bytes()[..]));
        all.push((record.zxid, simple_sum(record.payload)));
    }
    Ok((all, reader.tear().cloned()))
}

fn simple_sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(7, |sum, byte| sum.rotate_left(5) ^ u32::from(*byte))
}

/// Bytes until the next mark, and what is behind it.
fn split_at_mark(bytes: &[u8]) -> (&[u8], &[u8]) {
    const MARK: &[u8] = b"~~";
    match bytes.windows(2).position(|window| window == MARK) {
        Some(at) => (&bytes[..at], &bytes[at + 2..]),
        None => (bytes, &[]),
    }
}

/// One or two logs: as they are, or records sealed anew so that what is in them is met, then damaged.
///
/// Layout: flags, three numbers, then the files with a mark between them.
pub fn log(bytes: &[u8]) {
    let Some(([flags, after, flip_at, flip], content)) = bytes.split_first_chunk::<4>().map(|(a, b)| (*a, b))
    else {
        return;
    };
    let (first, second) = split_at_mark(content);
    let disk = MemoryDisk::default();
    for (n, part) in [first, second].into_iter().enumerate() {
        if n == 1 && flags & 1 == 0 {
            break;
        }
        let mut file = if flags & 2 == 0 { part.to_vec() } else { sealed(part) };
        if flags & 4 != 0 && !file.is_empty() {
            let at = usize::from(flip_at) % file.len();
            file[at] ^= flip;
        }
        if flags & 8 != 0 {
            file.truncate(file.len() * usize::from(flip) / 256);
        }
        if flags & 16 != 0 {
            file.resize(file.len() + 300, 0);
        }
        look_at(&file);
        put(&disk, &format!("log.{:x}", if n == 0 { 1 } else { i64::from(flip_at) }), &file);
    }
    let len = content.len() + 700;
    let after = if after == 255 { Zxid(i64::MAX) } else { Zxid(after.into()) };
    for after in [Zxid::ZERO, after] {
        // Two runs, so that the records kept by this target do not count.
        let _ = within(len, LOG_BUFFERS, || read_all(&disk, after).map(|_| ()));
        let Ok((mut records, mut tear)) = read_all(&disk, after) else { continue };
        assert!(records.iter().all(|(zxid, _)| *zxid > after));
        while let Some(torn) = tear {
            cut(&disk, &torn).unwrap_or_else(|error| panic!("{error}"));
            match read_all(&disk, after) {
                // Without a file that had not a single record, the one before it is the last, and may be torn itself, or
                // hold transactions that the name of the one that is gone denies.
                Ok((again, next)) => {
                    assert!(again == records || torn.offset <= 16, "the cut changed what is read");
                    assert!(next.is_none() || torn.offset <= 16, "{next:?} after {torn:?} was cut");
                    (records, tear) = (again, next);
                }
                Err(error) => {
                    assert!(torn.offset <= 16, "readable before the cut and not after it: {error}");
                    break;
                }
            }
        }
    }
    let dirs = Directories::new(Arc::new(disk.clone()), Path::new("/d"), Path::new("/d"));
    // Of two files the second one's name bounds what the first may hold, which nobody who makes them up observes.
    if flags & 1 == 0
        && let Ok((before, _)) = read_all(&disk, Zxid::ZERO)
        && truncate(&dirs, after, LIMITS).is_ok()
        && let Ok((left, _)) = read_all(&disk, Zxid::ZERO)
    {
        let kept: Vec<_> = before.into_iter().take_while(|(zxid, _)| *zxid <= after).collect();
        assert!(left.iter().all(|(zxid, _)| *zxid <= after), "more than {after} is left");
        assert!(kept.starts_with(&left) || left.starts_with(&kept), "what is before {after} has changed");
    }
    if let (Ok(a), Ok(b)) = (recovered(&disk), recovered(&disk)) {
        assert_eq!((a.tree.digest(), a.replayed), (b.tree.digest(), b.replayed));
    }
}

fn rules() -> Rules {
    let owners = OwnerRules { extended_types: true, emulate_353: false };
    Rules { owners, ..Rules::DEFAULT }
}

fn options() -> RecoverOptions {
    RecoverOptions { rules: rules(), record_bytes_max: RECORD_BYTES_MAX, trust_empty: true, seed: 5 }
}

fn recovered(disk: &MemoryDisk) -> Result<Recovered, StorageError> {
    let dirs = Directories::new(Arc::new(disk.clone()), Path::new("/d"), Path::new("/d"));
    recover(&dirs, &options())
}

/// Each run of bytes between lengths of one byte becomes a record.
fn sealed(mut bytes: &[u8]) -> Vec<u8> {
    let mut payloads = Vec::new();
    while let Some((len, rest)) = bytes.split_first() {
        let (payload, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        bytes = rest;
        payloads.push(payload);
    }
    rawlog::build(payloads.into_iter())
}

/// The view of the tools, and the repair that follows from it.
fn look_at(file: &[u8]) {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut ends = 0;
    for item in rawlog::items(file, RECORD_BYTES_MAX) {
        assert_eq!(ends, 0, "nothing follows what is no record");
        match item {
            RawItem::Record(record) if record.is_checksum_right => kept.push(record.payload),
            RawItem::Record(_) => {}
            RawItem::End { .. } | RawItem::Broken { .. } => ends += 1,
        }
    }
    assert_eq!(ends, 1, "a log has an end");
    let repaired = rawlog::build(kept.iter().copied());
    let again: Vec<&[u8]> = rawlog::items(&repaired, RECORD_BYTES_MAX)
        .filter_map(|item| if let RawItem::Record(record) = item { Some(record.payload) } else { None })
        .collect();
    assert_eq!(again, kept);
}

fn compression(byte: u8) -> Compression {
    [Compression::None, Compression::Gzip, Compression::Snappy][usize::from(byte) % 3]
}

fn read_snapshot(disk: &MemoryDisk, candidate: &Candidate) -> Result<usize, StorageError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut reader = SnapshotReader::open(&disk, candidate, RECORD_BYTES_MAX)?;
    let mut items = 0;
    while let Some(item) = reader.next_item()? {
        items += 1;
        if let SnapshotItem::Node { path, data, .. } = item {
            assert!(path.len() <= RECORD_BYTES_MAX && data.is_none_or(|data| data.len() <= RECORD_BYTES_MAX));
        }
    }
    Ok(items)
}

/// A snapshot's bytes as they are; or its content, packed and sealed as a server does, so that what is behind the seals
/// is met.
///
/// Layout: flags, then the bytes.
pub fn snapshot(bytes: &[u8]) {
    let Some((flags, content)) = bytes.split_first() else { return };
    let compression = compression(flags & 3);
    let zxid = Zxid(0x54);
    let disk = MemoryDisk::default();
    let name = names::snapshot(zxid, compression);
    let mut len = content.len();
    if flags & 4 == 0 {
        put(&disk, &name, content);
    } else {
        let writer = SnapshotWriter::create(Arc::new(disk.clone()), Path::new(DIR), zxid, compression);
        let digest = (flags & 8 != 0).then_some(7);
        let written = writer.and_then(|mut writer| {
            writer.write(content)?;
            writer.finish(digest, flags & 16 != 0)
        });
        assert_eq!(written.unwrap_or_else(|error| panic!("{error}")), name);
        len = get(&disk, &Path::new(DIR).join(&name)).len();
    }
    let candidate = Candidate { zxid, compression, path: Path::new(DIR).join(&name) };
    let read = within(len, SNAPSHOT_BUFFERS, || read_snapshot(&disk, &candidate));
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let Ok(found) = candidates(&disk, Path::new(DIR)) else { panic!("a disk in memory can be listed") };
    assert!(found.iter().all(|found| *found == candidate));
    let Ok((tree, _)) = load_snapshot(&shared, &candidate, &options()) else { return };
    assert!(read.is_ok(), "a snapshot that cannot be read was loaded");
    write_again(tree);
}

/// A tree that came of a snapshot makes a snapshot of which it comes again.
fn write_again(mut tree: Tree) {
    let disk = MemoryDisk::default();
    let before = summary(&tree);
    let Some(start) = tree.begin_snapshot() else { panic!("no snapshot is under way") };
    let written =
        SnapshotWriter::create(Arc::new(disk.clone()), Path::new(DIR), start.zxid, Compression::None)
            .and_then(|mut writer| {
                while let Some(slice) = tree.next_slice(1000) {
                    writer.write(&slice.bytes)?;
                    if slice.last {
                        break;
                    }
                }
                writer.finish(start.digest, true)
            });
    let name = written.unwrap_or_else(|error| panic!("{error}"));
    let candidate =
        Candidate { zxid: start.zxid, compression: Compression::None, path: Path::new(DIR).join(name) };
    let shared: Arc<dyn Disk> = Arc::new(disk);
    let options = RecoverOptions { record_bytes_max: 1 << 20, ..options() };
    match load_snapshot(&shared, &candidate, &options) {
        Ok((again, tail)) => {
            assert_eq!(summary(&again), before);
            assert_eq!(tail.digest.map(|(_, _, digest)| digest), Some(before.0));
        }
        Err(error) => panic!("what was loaded and written cannot be loaded: {error}"),
    }
}

fn summary(tree: &Tree) -> (i64, usize, usize, usize) {
    (tree.digest(), tree.len(), tree.ephemerals_len(), tree.sessions().count())
}

/// Names of files, and the small files beside logs and snapshots.
pub fn small_files(bytes: &[u8]) {
    let disk = MemoryDisk::default();
    put(&disk, EpochFile::Current.name(), bytes);
    let epoch = within(bytes.len(), 0, || EpochFile::Current.read(&disk, Path::new(DIR)));
    if let Ok(epoch) = epoch {
        let expected = std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok());
        assert_eq!(epoch.map(|epoch| epoch.0), expected, "all of the file and nothing else");
        assert!(epoch.is_some_and(|epoch| epoch.0 >= 0));
    }
    let text = String::from_utf8_lossy(bytes);
    within(text.len(), 0, || {
        if let Some(zxid) = names::parse_log(&text)
            && text.len() < 21
        {
            assert_eq!(names::parse_log(&names::log(zxid)), Some(zxid));
        }
        if let Some((zxid, compression)) = names::parse_snapshot(&text) {
            assert_eq!(names::parse_snapshot(&names::snapshot(zxid, compression)), Some((zxid, compression)));
        }
    });
}

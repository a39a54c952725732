//! Reads snapshots, record by record, and believes none whose seals do not fit.
//!
//! Source: `FileSnap.deserialize`, `SnapStream.isValidSnapshot`, 3.9.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::GzDecoder;
use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::{AclList, Reader, SessionId, Zxid};
use simd_adler32::Adler32;

use crate::disk::{Disk, DiskFile};
use crate::error::StorageError;
use crate::names::{self, Compression};
use crate::snapwrite::FILE_HEADER;
use crate::xerial;

/// How much is asked of the file at once.
const CHUNK: usize = 1 << 18;
/// Bytes of a stored stat.
const STAT: usize = 60;
/// How many of the newest files are looked at.
pub(crate) const CANDIDATES_MAX: usize = 100;

/// A file that may be a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The zxid in its name.
    pub zxid: Zxid,
    /// How it is packed.
    pub compression: Compression,
    /// Where it is.
    pub path: PathBuf,
}

/// A record of a snapshot, borrowed from the reader until the next one is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum SnapshotItem<'a> {
    /// An open session.
    Session(SessionId, i32),
    /// An access control list, encoded with its count, under its number.
    Acl(i64, &'a [u8]),
    /// A znode.
    Node {
        /// Its path, empty for the root.
        path: &'a [u8],
        /// Its data.
        data: Option<&'a [u8]>,
        /// Number of its list.
        acl: i64,
        /// The 60 bytes of its stat.
        stat: &'a [u8],
    },
}

/// What stands behind the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotTail {
    /// The digest: of which zxid, in which version, and its value.
    pub digest: Option<(Zxid, i32, i64)>,
    /// The newest zxid, as 3.9 writes it.
    pub last_zxid: Option<Zxid>,
}

/// The snapshots of a directory that look complete, newest first.
///
/// # Errors
/// The directory cannot be read.
pub fn candidates(disk: &dyn Disk, dir: &Path) -> Result<Vec<Candidate>, StorageError> {
    let mut all = all_candidates(disk, dir)?;
    all.truncate(CANDIDATES_MAX);
    Ok(all)
}

/// The same, however many there are.
pub(crate) fn all_candidates(disk: &dyn Disk, dir: &Path) -> Result<Vec<Candidate>, StorageError> {
    let entries = disk.list(dir).map_err(|error| StorageError::io("listing", dir, error))?;
    let mut all: Vec<Candidate> = entries
        .iter()
        .filter_map(|entry| {
            let (zxid, compression) = names::parse_snapshot(&entry.name)?;
            Some(Candidate { zxid, compression, path: dir.join(&entry.name) })
        })
        .collect();
    all.sort_by_key(|candidate| std::cmp::Reverse(candidate.zxid));
    all.retain(|candidate| is(Fault::PurgeCountsInvalid) || looks_complete(disk, candidate));
    Ok(all)
}

/// The newest file that is called a snapshot, whatever is in it, and its length in bytes.
///
/// # Errors
/// The directory cannot be read.
pub fn newest_named(disk: &dyn Disk, dir: &Path) -> Result<Option<(Candidate, u64)>, StorageError> {
    let entries = disk.list(dir).map_err(|error| StorageError::io("listing", dir, error))?;
    let named = entries.iter().filter_map(|entry| {
        let (zxid, compression) = names::parse_snapshot(&entry.name)?;
        Some((Candidate { zxid, compression, path: dir.join(&entry.name) }, entry.len))
    });
    Ok(named.max_by_key(|(candidate, _)| candidate.zxid))
}

/// Snapshots, by their zxids, that a start had to pass over, and whether the log goes through the state of each.
#[derive(Debug)]
pub struct PassedOver {
    /// Of which the log has not shown yet that it goes through them.
    waiting: Vec<Zxid>,
}

impl PassedOver {
    /// All that are newer than the one that was begun from, whatever is in them; of a snapshot of nothing there is
    /// nothing to miss.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn after(disk: &dyn Disk, dir: &Path, begun: Option<Zxid>) -> Result<PassedOver, StorageError> {
        let entries = disk.list(dir).map_err(|error| StorageError::io("listing", dir, error))?;
        let named = entries.iter().filter_map(|entry| Some(names::parse_snapshot(&entry.name)?.0));
        let newer = named.filter(|zxid| *zxid > Zxid::ZERO && Some(*zxid) > begun);
        Ok(PassedOver { waiting: newer.collect() })
    }

    /// A transaction of the log was replayed; whether the digest it carries is right, if it carries one. It is the last
    /// one of a snapshot, or, if an epoch began with that, a later one that leads to the state it should.
    pub fn replayed(&mut self, zxid: Zxid, fits: Option<bool>) {
        if !self.waiting.is_empty() {
            self.waiting.retain(|newer| {
                let shown = *newer == zxid || newer.counter() == 0 && zxid > *newer && fits == Some(true);
                !shown
            });
        }
    }

    /// One that the log does not go through: what is logged after it goes on from a state that is not there.
    #[must_use]
    pub fn missed(&self) -> Option<Zxid> {
        self.waiting.first().copied()
    }
}

/// A cheap look: the end mark of a plain file, the magic of a packed one.
fn looks_complete(disk: &dyn Disk, candidate: &Candidate) -> bool {
    let Ok(file) = disk.open_to_read(&candidate.path) else { return false };
    let size = file.size().unwrap_or(0);
    let read = |at: u64, expected: &[u8]| {
        let mut found = vec![0; expected.len()];
        file.read_at(&mut found, at).is_ok_and(|n| n == expected.len()) && found == expected
    };
    match candidate.compression {
        Compression::None => size >= 10 && read(size - 5, &[0, 0, 0, 1, b'/']),
        Compression::Gzip => read(0, &[0x1f, 0x8b]),
        Compression::Snappy => read(0, &[0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0]),
    }
}

/// Reads one snapshot.
pub struct SnapshotReader {
    stream: Stream,
    stage: Stage,
    tail: SnapshotTail,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Sessions(i32),
    Acls(i32),
    Nodes,
    Done,
}

impl SnapshotReader {
    /// Opens a snapshot and looks at its header. No field may be longer than `field_bytes_max`.
    ///
    /// # Errors
    /// The file cannot be read or is no snapshot.
    pub fn open(
        disk: &Arc<dyn Disk>,
        candidate: &Candidate,
        field_bytes_max: usize,
    ) -> Result<SnapshotReader, StorageError> {
        let path = &candidate.path;
        let file = disk.open_to_read(path).map_err(|error| StorageError::io("opening", path, error))?;
        let source = FileSource { file, at: 0 };
        let source: Box<dyn Read + Send> = match candidate.compression {
            Compression::None => Box::new(source),
            Compression::Gzip => Box::new(GzDecoder::new(source)),
            Compression::Snappy => Box::new(xerial::Decoder::new(source)),
        };
        let mut stream = Stream {
            source,
            path: path.clone(),
            buf: Vec::new(),
            at: 0,
            summed: 0,
            offset: 0,
            adler: Adler32::new(),
            field_bytes_max,
        };
        if stream.need(FILE_HEADER.len())? != FILE_HEADER {
            let header = stream.need(FILE_HEADER.len())?.to_vec();
            if !header.starts_with(&FILE_HEADER[..8]) {
                return Err(stream.damaged("this is no snapshot of version 2"));
            }
        }
        stream.skip(FILE_HEADER.len());
        let sessions = stream.int()?;
        Ok(SnapshotReader { stream, stage: Stage::Sessions(sessions), tail: SnapshotTail::default() })
    }

    /// The next record; `None` when all have come and every seal was found right.
    ///
    /// # Errors
    /// The file is damaged or cannot be read.
    pub fn next_item(&mut self) -> Result<Option<SnapshotItem<'_>>, StorageError> {
        loop {
            match self.stage {
                Stage::Sessions(left) if left > 0 => {
                    self.stage = Stage::Sessions(left - 1);
                    let id = SessionId(self.stream.long()?);
                    return Ok(Some(SnapshotItem::Session(id, self.stream.int()?)));
                }
                Stage::Sessions(_) => self.stage = Stage::Acls(self.stream.int()?),
                Stage::Acls(left) if left > 0 => {
                    self.stage = Stage::Acls(left - 1);
                    let id = self.stream.long()?;
                    return Ok(Some(SnapshotItem::Acl(id, self.stream.acls()?)));
                }
                Stage::Acls(_) => self.stage = Stage::Nodes,
                Stage::Nodes => {
                    if self.stream.at_end_mark()? {
                        self.stream.skip(5);
                        self.tail = self.stream.tail()?;
                        self.stage = Stage::Done;
                        return Ok(None);
                    }
                    return self.stream.node().map(Some);
                }
                Stage::Done => return Ok(None),
            }
        }
    }

    /// What stood behind the records, once all have come.
    #[must_use]
    pub fn tail(&self) -> SnapshotTail {
        self.tail
    }
}

impl std::fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotReader").field("path", &self.stream.path).field("stage", &self.stage).finish()
    }
}

#[derive(Debug)]
struct FileSource {
    file: Box<dyn DiskFile>,
    at: u64,
}

impl Read for FileSource {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// The unpacked bytes, with the running checksum over all that is consumed.
struct Stream {
    source: Box<dyn Read + Send>,
    path: PathBuf,
    buf: Vec<u8>,
    /// Consumed up to here.
    at: usize,
    /// In the checksum up to here.
    summed: usize,
    /// Offset of the buffer's start in the unpacked file.
    offset: u64,
    adler: Adler32,
    field_bytes_max: usize,
}

impl Stream {
    fn damaged(&self, what: impl Into<String>) -> StorageError {
        StorageError::damaged(&self.path, self.offset + self.at as u64, what)
    }

    /// Makes sure that `n` bytes are in the buffer; false at the end of the file.
    fn fill(&mut self, n: usize) -> Result<bool, StorageError> {
        while self.buf.len() - self.at < n {
            if self.at > CHUNK {
                self.sum();
                self.buf.drain(..self.at);
                self.offset += self.at as u64;
                self.at = 0;
                self.summed = 0;
            }
            let len = self.buf.len();
            // Grows as bytes come, never by what a length claims.
            self.buf.resize(len + CHUNK, 0);
            let read = self.source.read(self.buf.get_mut(len..).unwrap_or_default());
            let n = match read {
                Ok(n) => n,
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::InvalidData
                            | std::io::ErrorKind::UnexpectedEof
                            | std::io::ErrorKind::InvalidInput
                    ) =>
                {
                    self.buf.truncate(len);
                    return Err(self.damaged(format!("cannot be unpacked: {error}")));
                }
                Err(error) => return Err(StorageError::io("reading", &self.path, error)),
            };
            self.buf.truncate(len + n);
            if n == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn need(&mut self, n: usize) -> Result<&[u8], StorageError> {
        if !self.fill(n)? {
            return Err(self.damaged("the file ends too early"));
        }
        Ok(self.buf.get(self.at..self.at + n).unwrap_or_default())
    }

    fn skip(&mut self, n: usize) {
        self.at += n;
    }

    fn sum(&mut self) {
        self.adler.write(self.buf.get(self.summed..self.at).unwrap_or_default());
        self.summed = self.at;
    }

    fn int(&mut self) -> Result<i32, StorageError> {
        let value = self.need(4)?.first_chunk().map_or(0, |b| i32::from_be_bytes(*b));
        self.skip(4);
        Ok(value)
    }

    fn long(&mut self) -> Result<i64, StorageError> {
        let value = self.need(8)?.first_chunk().map_or(0, |b| i64::from_be_bytes(*b));
        self.skip(8);
        Ok(value)
    }

    /// The length of the buffer at `ahead` bytes from here, -1 for null.
    fn length(&mut self, ahead: usize) -> Result<Option<usize>, StorageError> {
        let bytes = self.need(ahead + 4)?.get(ahead..).and_then(|b| b.first_chunk().copied());
        let len = bytes.map_or(0, i32::from_be_bytes);
        match usize::try_from(len) {
            Ok(n) if n <= self.field_bytes_max => Ok(Some(n)),
            _ if len == -1 => Ok(None),
            _ => Err(self.damaged(format!("Unreasonable length = {len}"))),
        }
    }

    fn acls(&mut self) -> Result<&[u8], StorageError> {
        let mut want = 4;
        loop {
            let have = self.buf.len() - self.at;
            let mut reader = Reader::new(self.buf.get(self.at..).unwrap_or_default());
            if have >= want && AclList::decode(&mut reader).is_ok() {
                let len = reader.offset();
                self.at += len;
                return Ok(self.buf.get(self.at - len..self.at).unwrap_or_default());
            }
            want = have + 1;
            if want > self.field_bytes_max.saturating_mul(2) || !self.fill(want)? {
                return Err(self.damaged("a malformed access control list"));
            }
        }
    }

    fn at_end_mark(&mut self) -> Result<bool, StorageError> {
        Ok(self.need(5)? == [0, 0, 0, 1, b'/'])
    }

    fn node(&mut self) -> Result<SnapshotItem<'_>, StorageError> {
        let Some(path_len) = self.length(0)? else { return Err(self.damaged("a znode without a path")) };
        let data_len = self.length(4 + path_len)?;
        let data_end = 8 + path_len + data_len.unwrap_or(0);
        let whole = data_end + 8 + STAT;
        self.need(whole)?;
        let start = self.at;
        self.at += whole;
        let record = self.buf.get(start..self.at).unwrap_or_default();
        let part = |from: usize, to: usize| record.get(from..to).unwrap_or_default();
        Ok(SnapshotItem::Node {
            path: part(4, 4 + path_len),
            data: data_len.map(|_| part(8 + path_len, data_end)),
            acl: part(data_end, data_end + 8).first_chunk().map_or(0, |b| i64::from_be_bytes(*b)),
            stat: part(data_end + 8, whole),
        })
    }

    /// A checksum over everything before it, then the end mark.
    fn seal(&mut self) -> Result<(), StorageError> {
        self.sum();
        let expected = i64::from(self.adler.finish());
        let found = self.long()?;
        if found != expected && !is(Fault::SnapshotUnchecked) {
            return Err(self.damaged(format!("CRC corruption: {found:x} where {expected:x} is right")));
        }
        if !self.at_end_mark()? {
            return Err(self.damaged("a seal without its end mark"));
        }
        self.skip(5);
        Ok(())
    }

    /// The seals and what lies between them. Older servers end after the first or the second.
    fn tail(&mut self) -> Result<SnapshotTail, StorageError> {
        let mut tail = SnapshotTail::default();
        self.seal()?;
        if self.fill(20 + 13)? {
            let zxid = Zxid(self.long()?);
            tail.digest = Some((zxid, self.int()?, self.long()?));
            self.seal()?;
        }
        if self.fill(8 + 13)? {
            tail.last_zxid = Some(Zxid(self.long()?));
            self.seal()?;
        }
        Ok(tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::snapwrite::SnapshotWriter;
    use oxkeeper_proto::Put;

    const ZXID: Zxid = Zxid(0x54);

    /// A session, a list, and two znodes.
    fn content() -> Vec<u8> {
        let mut out = Vec::new();
        out.put_int(1);
        out.put_long(0x77);
        out.put_int(30_000);
        out.put_int(1);
        out.put_long(1);
        AclList::READ_ONLY.encode(&mut out);
        for (path, data) in [("", None), ("/a", Some(&b"some data"[..]))] {
            out.put_string(path);
            out.put_buffer(data);
            out.put_long(1);
            out.put_raw(&[3; STAT]);
        }
        out.put_string("/");
        out
    }

    fn file(compression: Compression) -> (MemoryDisk, Candidate, Vec<u8>) {
        let disk = MemoryDisk::default();
        let mut writer =
            SnapshotWriter::create(Arc::new(disk.clone()), Path::new("/d"), ZXID, compression).unwrap();
        writer.write(&content()).unwrap();
        let path = Path::new("/d").join(writer.finish(Some(99), true).unwrap());
        let read = disk.open(&path).unwrap();
        let mut bytes = vec![0; read.size().unwrap() as usize];
        read.read_at(&mut bytes, 0).unwrap();
        (disk, Candidate { zxid: ZXID, compression, path }, bytes)
    }

    fn read(disk: &MemoryDisk, candidate: &Candidate) -> Result<(Vec<String>, SnapshotTail), StorageError> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let mut reader = SnapshotReader::open(&disk, candidate, 1000)?;
        let mut items = Vec::new();
        while let Some(item) = reader.next_item()? {
            items.push(format!("{item:?}"));
        }
        Ok((items, reader.tail()))
    }

    #[test]
    fn no_flipped_byte_changes_what_is_read() {
        for compression in [Compression::None, Compression::Gzip, Compression::Snappy] {
            let (disk, candidate, whole) = file(compression);
            let sound = read(&disk, &candidate).unwrap();
            assert_eq!((sound.0.len(), sound.1.last_zxid), (4, Some(ZXID)));
            assert_eq!(sound.1.digest, Some((ZXID, 2, 99)));
            for at in 0..whole.len() {
                let mut flipped = whole.clone();
                flipped[at] ^= 0x10;
                disk.create(&candidate.path).unwrap().write_at(&flipped, 0).unwrap();
                match read(&disk, &candidate) {
                    // The head of a packed file says things that nobody asks for.
                    Ok(same) => assert!(compression != Compression::None && same == sound, "byte {at}"),
                    Err(error) => assert!(matches!(error, StorageError::Damaged { .. }), "{error}"),
                }
            }
        }
    }

    #[test]
    fn no_part_of_a_snapshot_is_taken_for_all_of_it() {
        let (disk, candidate, whole) = file(Compression::None);
        // Older servers end behind the first seal, so what is behind it may be missing.
        let sealed = whole.len() - (20 + 13) - (8 + 13);
        for len in 0..whole.len() {
            disk.create(&candidate.path).unwrap().write_at(&whole[..len], 0).unwrap();
            let read = read(&disk, &candidate);
            assert!(len >= sealed || read.is_err(), "{len} of {} bytes", whole.len());
            assert!(![sealed, sealed + 20 + 13].contains(&len) || read.is_ok(), "{read:?}");
        }
    }
}

//! What is durable in a server's log, read from the disk's own bytes by a reader that shares nothing with the real
//! one.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use oxkeeper_proto::Zxid;
use oxkeeper_storage::SimDisk;

/// One log file as far as it was read.
#[derive(Debug, Default)]
struct File {
    inode: usize,
    rewrites: u32,
    read: usize,
    last: Option<Zxid>,
    all: Vec<Zxid>,
}

/// The durable log of one server.
#[derive(Debug, Default)]
pub struct DurableLog {
    files: BTreeMap<Zxid, File>,
    newest_snapshot: Zxid,
}

const HEADER: usize = 16;

impl DurableLog {
    /// Reads everything anew next time.
    pub fn forget(&mut self) {
        self.files.clear();
        self.newest_snapshot = Zxid::ZERO;
    }

    /// The newest transaction that would be there after a loss of power.
    #[must_use]
    pub fn last(&self) -> Zxid {
        let logged = self.files.values().filter_map(|file| file.last).max();
        logged.unwrap_or(Zxid::ZERO).max(self.newest_snapshot)
    }

    /// Whether the transaction is in the log, or in a snapshot.
    #[must_use]
    pub fn holds(&self, zxid: Zxid) -> bool {
        zxid <= self.newest_snapshot || self.files.values().any(|file| file.all.binary_search(&zxid).is_ok())
    }

    /// Every transaction in the log.
    pub fn all(&self) -> impl Iterator<Item = &Zxid> {
        self.files.values().flat_map(|file| &file.all)
    }

    /// The first transaction of the log that lies between two others.
    #[must_use]
    pub fn between(&self, after: Zxid, before: Zxid) -> Option<Zxid> {
        self.all().copied().filter(|zxid| *zxid > after && *zxid < before).min()
    }

    /// The transactions in the log that no snapshot covers, in order.
    #[cfg(test)]
    pub(crate) fn after_snapshot(&self) -> Vec<Zxid> {
        self.all().copied().filter(|zxid| *zxid > self.newest_snapshot).collect()
    }

    /// Reads what has become durable since; gives those transactions.
    pub fn refresh(&mut self, disk: &SimDisk) -> Vec<(Zxid, Bytes)> {
        let mut fresh = Vec::new();
        let mut files = std::mem::take(&mut self.files);
        self.newest_snapshot = Zxid::ZERO;
        for (name, inode, len) in disk.durable_files(&Path::new(crate::process::DATA).join("version-2")) {
            if let Some(zxid) = number(&name, "snapshot.") {
                self.newest_snapshot = self.newest_snapshot.max(zxid);
            }
            let Some(first) = number(&name, "log.") else { continue };
            let rewrites = disk.durable_rewrites(inode);
            let mut file = files
                .remove(&first)
                .filter(|file| file.inode == inode && file.rewrites == rewrites)
                .unwrap_or(File { inode, rewrites, read: HEADER, last: None, all: Vec::new() });
            if (file.read as u64) < len {
                file.read_on(&disk.durable_bytes(inode, file.read), &mut fresh);
            }
            self.files.insert(first, file);
        }
        fresh
    }
}

impl File {
    /// Records are an 8-byte checksum, a 4-byte length, the payload, and a `B`; the zxid is 12 bytes into the payload.
    fn read_on(&mut self, bytes: &[u8], fresh: &mut Vec<(Zxid, Bytes)>) {
        let mut rest = bytes;
        while let Some((head, tail)) = rest.split_first_chunk::<12>() {
            let [_, _, _, _, c0, c1, c2, c3, l0, l1, l2, l3] = *head;
            let len = usize::try_from(i32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(0);
            let Some(payload) = tail.get(..len).filter(|payload| payload.len() >= 32) else { return };
            // What the end mark is does not matter, but it must be there.
            if tail.get(len).is_none() || adler32(payload) != u32::from_be_bytes([c0, c1, c2, c3]) {
                return;
            }
            let Some(zxid) = payload.get(12..20).and_then(|b| b.first_chunk::<8>()) else { return };
            let zxid = Zxid(i64::from_be_bytes(*zxid));
            fresh.push((zxid, Bytes::copy_from_slice(payload)));
            self.last = Some(zxid);
            self.all.push(zxid);
            self.read += 12 + len + 1;
            rest = tail.get(len + 1..).unwrap_or_default();
        }
    }
}

/// Where a record of a log file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its first byte.
    pub at: usize,
    /// Its bytes, the end mark included.
    pub len: usize,
    /// Its transaction.
    pub zxid: Zxid,
}

/// The whole records of a log file, up to the first that is none.
#[must_use]
pub fn records(bytes: &[u8]) -> Vec<Record> {
    let mut file = File { inode: 0, rewrites: 0, read: HEADER, last: None, all: Vec::new() };
    let (mut fresh, mut at) = (Vec::new(), HEADER);
    file.read_on(bytes.get(HEADER..).unwrap_or_default(), &mut fresh);
    let place = |(zxid, payload): (Zxid, Bytes)| {
        let len = 12 + payload.len() + 1;
        at += len;
        Record { at: at - len, len, zxid }
    };
    fresh.into_iter().map(place).collect()
}

fn number(name: &str, prefix: &str) -> Option<Zxid> {
    i64::from_str_radix(name.strip_prefix(prefix)?, 16).ok().map(Zxid)
}

/// The checksum of the log's records, as its definition has it.
fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    // So many sums stay below 32 bits.
    for part in bytes.chunks(5552) {
        for byte in part {
            a += u32::from(*byte);
            b += a;
        }
        a %= 65_521;
        b %= 65_521;
    }
    b << 16 | a
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use oxkeeper_storage::{Aftermath, LogOptions, TxnLog};

    use super::*;

    fn payload(zxid: i64) -> Vec<u8> {
        let mut bytes = vec![7; 40];
        bytes[12..20].copy_from_slice(&zxid.to_be_bytes());
        bytes
    }

    #[test]
    fn only_what_is_synced_counts_and_each_record_is_told_once() {
        let disk = SimDisk::quiet();
        let options = LogOptions { prepare_bytes: 0, sync: true, file_bytes_max: 100 };
        let dir = Path::new(crate::process::DATA).join("version-2");
        let mut log = TxnLog::new(Arc::new(disk.clone()), dir, options);
        let mut durable = DurableLog::default();
        for zxid in 1..20 {
            log.append(Zxid(zxid), &payload(zxid));
            assert_eq!(durable.last(), Zxid(zxid - 1));
            log.commit().unwrap();
            let fresh = durable.refresh(&disk);
            assert_eq!(fresh, [(Zxid(zxid), Bytes::from(payload(zxid)))]);
        }
        assert_eq!(durable.last(), Zxid(19));
        let later = disk.after_crash(Aftermath::Synced);
        durable.forget();
        assert_eq!(durable.refresh(&later).len(), 19);
    }

    #[test]
    fn checksum_is_the_known_one() {
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
    }
}

//! Disks that lie, found out when the power goes: a write of the log that was never stored, one that was stored in another
//! place, and bits that flipped.
//!
//! While a machine runs it reads what it wrote, so until then nobody can tell; that is why the damage is done at the
//! moment of the loss, to what is durable by then.
//!
//! The last record of an older file stays: without it the file ends as if nothing had ever followed, and if the next file
//! begins an epoch, no reader can know. Only digests tell, at whoever is sent what comes after.
//!
//! For the same reason the first record of an epoch is never stored in the place of an older one, but at the beginning of a
//! file, whose name tells. It may follow any record of an older epoch, so those that it has overwritten are missing without a
//! gap. What follows may be zeros, with which a log ends, or pieces that look like a batch that was cut short; and the first
//! record of an epoch often carries no digest. Java reads the former without a word as well, and stops at the latter, as it
//! does at every torn end. So nothing is spoilt at all in a file behind which another one begins an epoch, unless all of it
//! is still read: a session that was opened or closed in what is missing would show in no digest.

use std::path::Path;

use oxkeeper_proto::Zxid;
use oxkeeper_storage::SimDisk;

use crate::chance::Chance;
use crate::durable::{Record, records};
use crate::faults::FaultKind;

/// What a disk writes at once.
const BLOCK: usize = 512;

/// Spoils one of the logs on a disk; false if there is nothing to spoil, or nobody could know.
pub fn spoil_log(disk: &SimDisk, kind: FaultKind, chance: &mut Chance) -> bool {
    let files = disk.durable_files(&Path::new(crate::process::DATA).join("version-2"));
    let is_log = |name: &str| i64::from_str_radix(name.strip_prefix("log.")?, 16).ok();
    let mut logs: Vec<(i64, usize)> =
        files.iter().filter_map(|(name, inode, _)| Some((is_log(name)?, *inode))).collect();
    logs.sort_unstable();
    let newest = logs.last().map(|(_, inode)| *inode);
    let Some((first, inode)) = chance.pick(&logs).copied() else { return false };
    let next = logs.iter().map(|(first, _)| Zxid(*first)).find(|next| next.0 > first);
    let whole = disk.durable_bytes(inode, 0);
    let mut all = records(&whole);
    let mut end = whole.len();
    if newest != Some(inode)
        && let Some(last) = all.pop()
    {
        end = last.at;
    }
    let bytes = whole.get(..end).unwrap_or_default();
    let Some(record) = chance.pick(&all).copied() else { return false };
    let writes = writes(kind, &record, bytes, &all, chance);
    if hides(&whole, &writes, next) {
        return false;
    }
    writes.iter().for_each(|(at, what)| disk.spoil(inode, *at, what));
    true
}

/// What the disk puts where, in order.
fn writes(
    kind: FaultKind,
    record: &Record,
    bytes: &[u8],
    all: &[Record],
    chance: &mut Chance,
) -> Vec<(usize, Vec<u8>)> {
    match kind {
        FaultKind::LostWrite => {
            let (at, len) = written(record, bytes, chance);
            vec![(at, vec![0; len])]
        }
        FaultKind::MisdirectedWrite => {
            let (at, len) = written(record, bytes, chance);
            let moved = bytes.get(at..at + len).unwrap_or_default().to_vec();
            let to = match chance.pick(all) {
                Some(other) if chance.happens(0.5) => other.at,
                _ => chance.index(bytes.len()) / BLOCK * BLOCK,
            };
            vec![(at, vec![0; len]), (to, moved)]
        }
        _ => {
            let at = record.at + chance.index(record.len);
            let bits = 1 + chance.below(255);
            let old = bytes.get(at).copied().unwrap_or(0);
            vec![(at, vec![old ^ bits.to_le_bytes()[0]])]
        }
    }
}

/// Whether records before the first one of an epoch are gone and the rest reads as if they had never been. At the
/// beginning of a file its name tells; so it is with the first one of the next file, if there is one.
fn hides(whole: &[u8], writes: &[(usize, Vec<u8>)], next: Option<Zxid>) -> bool {
    let mut spoilt = whole.to_vec();
    for (at, what) in writes {
        let to = (at + what.len()).min(spoilt.len());
        let len = to.saturating_sub(*at);
        if let (Some(place), Some(what)) = (spoilt.get_mut(*at..to), what.get(..len)) {
            place.copy_from_slice(what);
        }
    }
    let pairs = |bytes: &[u8]| -> Vec<(Zxid, Zxid)> {
        let here = records(bytes).into_iter().map(|record| record.zxid);
        let zxids: Vec<Zxid> = here.chain(next).collect();
        zxids.iter().copied().zip(zxids.iter().copied().skip(1)).collect()
    };
    let before = pairs(whole);
    pairs(&spoilt).iter().any(|pair| pair.1.counter() == 1 && pair.0 != pair.1 && !before.contains(pair))
}

/// A record, or the blocks that it begins in.
fn written(record: &Record, bytes: &[u8], chance: &mut Chance) -> (usize, usize) {
    if chance.happens(0.5) {
        return (record.at, record.len);
    }
    let at = record.at / BLOCK * BLOCK;
    let len = BLOCK * (1 + chance.index(4));
    (at, len.min(bytes.len() - at))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use oxkeeper_storage::{LogOptions, TxnLog};

    use super::*;

    const DIR: &str = "/data/version-2";
    const EPOCH: i64 = 1 << 32;

    /// A log of one file: some records of one epoch and some of the next, all of one length.
    fn written() -> SimDisk {
        let disk = SimDisk::quiet();
        let options = LogOptions { prepare_bytes: 0, sync: true, file_bytes_max: 0 };
        let mut log = TxnLog::new(Arc::new(disk.clone()), DIR.into(), options);
        for zxid in (EPOCH + 1..EPOCH + 5).chain(2 * EPOCH + 1..2 * EPOCH + 3) {
            let mut payload = vec![7; 40];
            payload[12..20].copy_from_slice(&zxid.to_be_bytes());
            log.append(Zxid(zxid), &payload);
        }
        log.commit().unwrap();
        disk
    }

    fn bytes_of(disk: &SimDisk) -> Vec<u8> {
        let files = disk.durable_files(Path::new(DIR));
        disk.durable_bytes(files[0].1, 0)
    }

    #[test]
    fn an_epoch_in_the_place_of_an_older_record_would_hide_it() {
        let whole = bytes_of(&written());
        let all = records(&whole);
        let place = |from: usize, to: usize| {
            let moved = whole[all[from].at..all[from].at + all[from].len].to_vec();
            vec![(all[from].at, vec![0; all[from].len]), (all[to].at, moved)]
        };
        let hidden = |from, to| hides(&whole, &place(from, to), None);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|to| hidden(4, to)), [false, true, true, true, false, false]);
        assert_eq!([0, 1, 2, 4, 5].map(|to| hidden(3, to)), [false; 5], "a gap within an epoch shows");
        let broken = [(all[3].at, vec![0; 10])];
        assert!(!hides(&whole, &broken, None), "nor is what breaks off hidden");
        assert!(!hides(&whole, &broken, Some(Zxid(2 * EPOCH + 3))), "nor before more of the same epoch");
        assert!(hides(&whole, &broken, Some(Zxid(3 * EPOCH + 1))), "but it is before the next epoch");
    }

    #[test]
    fn what_is_spoilt_never_reads_as_a_whole_log_without_some_of_its_records() {
        let (mut spoilt, mut spared) = (0, 0);
        for seed in 0..2000 {
            let disk = written();
            let before: Vec<Zxid> = records(&bytes_of(&disk)).iter().map(|record| record.zxid).collect();
            let struck = spoil_log(&disk, FaultKind::MisdirectedWrite, &mut Chance::new(seed));
            let after: Vec<Zxid> = records(&bytes_of(&disk)).iter().map(|record| record.zxid).collect();
            assert!(struck || after == before, "seed {seed}");
            let begins = after.iter().position(|zxid| zxid.0 == 2 * EPOCH + 1);
            assert!(matches!(begins, None | Some(0 | 4)), "seed {seed}: {after:?}");
            spoilt += u32::from(struck);
            spared += u32::from(!struck);
        }
        assert!(spoilt > 1000 && spared > 20, "{spoilt} spoilt, {spared} spared");
    }
}

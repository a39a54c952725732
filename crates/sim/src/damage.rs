//! Disks that lie, found out when the power goes: a write of the log that was never stored, one that was stored in another
//! place, and bits that flipped.
//!
//! While a machine runs it reads what it wrote, so until then nobody can tell; that is why the damage is done at the
//! moment of the loss, to what is durable by then.
//!
//! The last record of an older file stays: without it the file ends as if nothing had ever followed, and if the next file
//! begins an epoch, no reader can know. Only digests tell, at whoever is sent what comes after.

use std::path::Path;

use oxkeeper_storage::SimDisk;

use crate::chance::Chance;
use crate::durable::{Record, records};
use crate::faults::FaultKind;

/// What a disk writes at once.
const BLOCK: usize = 512;

/// Spoils one of the logs on a disk; false if there is nothing to spoil.
pub fn spoil_log(disk: &SimDisk, kind: FaultKind, chance: &mut Chance) -> bool {
    let files = disk.durable_files(&Path::new(crate::process::DATA).join("version-2"));
    let is_log = |name: &str| i64::from_str_radix(name.strip_prefix("log.")?, 16).ok();
    let mut logs: Vec<(i64, usize)> =
        files.iter().filter_map(|(name, inode, _)| Some((is_log(name)?, *inode))).collect();
    logs.sort_unstable();
    let newest = logs.last().map(|(_, inode)| *inode);
    let Some((_, inode)) = chance.pick(&logs).copied() else { return false };
    let mut bytes = disk.durable_bytes(inode, 0);
    let mut all = records(&bytes);
    if newest != Some(inode)
        && let Some(last) = all.pop()
    {
        bytes.truncate(last.at);
    }
    let Some(record) = chance.pick(&all).copied() else { return false };
    match kind {
        FaultKind::LostWrite => {
            let (at, len) = written(&record, &bytes, chance);
            disk.spoil(inode, at, &vec![0; len]);
        }
        FaultKind::MisdirectedWrite => {
            let (at, len) = written(&record, &bytes, chance);
            let moved = bytes.get(at..at + len).unwrap_or_default().to_vec();
            let to = match chance.pick(&all) {
                Some(other) if chance.happens(0.5) => other.at,
                _ => chance.index(bytes.len()) / BLOCK * BLOCK,
            };
            disk.spoil(inode, at, &vec![0; len]);
            disk.spoil(inode, to, &moved);
        }
        _ => {
            let at = record.at + chance.index(record.len);
            let bits = 1 + chance.below(255);
            let old = bytes.get(at).copied().unwrap_or(0);
            disk.spoil(inode, at, &[old ^ bits.to_le_bytes()[0]]);
        }
    }
    true
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

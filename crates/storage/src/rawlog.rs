//! A log as it is, damage included: what tools look at and repair. Recovery reads through
//! [`LogReader`](crate::LogReader), which refuses what this shows.

use oxkeeper_proto::{Put, Zxid};

use crate::txnlog::{END_OF_RECORD, FILE_HEADER, RECORD_HEADER, adler};

/// One thing found in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawItem<'a> {
    /// A record that is whole, whatever its seals say.
    Record(RawRecord<'a>),
    /// Nothing but zeros from here on.
    End {
        /// Where they begin.
        offset: usize,
        /// How many there are.
        zeros: usize,
    },
    /// No record, and no end either. Nothing after it can be found.
    Broken {
        /// Where.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// A record and its seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// Where it begins in the file.
    pub offset: usize,
    /// The zxid in it.
    pub zxid: Zxid,
    /// The transaction.
    pub payload: &'a [u8],
    /// Whether its checksum is right.
    pub is_checksum_right: bool,
    /// Whether its end mark is there.
    pub is_end_marked: bool,
}

/// Everything in a log, in order. No record is longer than `record_bytes_max`.
///
/// After an item that is no record nothing follows.
pub fn items(file: &[u8], record_bytes_max: usize) -> impl Iterator<Item = RawItem<'_>> {
    let mut at = Some(FILE_HEADER.len());
    if file.len() < FILE_HEADER.len() || !file.starts_with(&FILE_HEADER[..4]) {
        at = None;
    }
    let mut headless = at.is_none();
    std::iter::from_fn(move || {
        if std::mem::take(&mut headless) {
            return Some(RawItem::Broken { offset: 0, what: "this is no transaction log" });
        }
        let item = item(file, at?, record_bytes_max);
        at = match item {
            RawItem::Record(record) => Some(record.offset + RECORD_HEADER + record.payload.len() + 1),
            RawItem::End { .. } | RawItem::Broken { .. } => None,
        };
        Some(item)
    })
}

fn item(file: &[u8], offset: usize, record_bytes_max: usize) -> RawItem<'_> {
    let rest = file.get(offset..).unwrap_or_default();
    let broken = |what| RawItem::Broken { offset, what };
    let Some((header, body)) = rest.split_first_chunk::<RECORD_HEADER>() else {
        let is_end = rest.iter().all(|b| *b == 0);
        return if is_end {
            RawItem::End { offset, zeros: rest.len() }
        } else {
            broken("the header is cut short")
        };
    };
    if header.iter().all(|b| *b == 0) {
        let is_end = body.iter().all(|b| *b == 0);
        return if is_end {
            RawItem::End { offset, zeros: rest.len() }
        } else {
            broken("bytes behind what should be the end")
        };
    }
    let [_, _, _, _, c0, c1, c2, c3, l0, l1, l2, l3] = *header;
    let len = usize::try_from(i32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if !(32..=record_bytes_max).contains(&len) {
        return broken("the length is unreasonable");
    }
    let (Some(payload), Some(mark)) = (body.get(..len), body.get(len)) else {
        return broken("the record is cut short");
    };
    let zxid = payload
        .get(12..20)
        .and_then(|b| b.first_chunk())
        .map_or(Zxid::ZERO, |b| Zxid(i64::from_be_bytes(*b)));
    RawItem::Record(RawRecord {
        offset,
        zxid,
        payload,
        is_checksum_right: adler(payload) == u32::from_be_bytes([c0, c1, c2, c3]),
        is_end_marked: *mark == END_OF_RECORD,
    })
}

/// A log of these transactions, sealed anew.
#[must_use]
pub fn build<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = FILE_HEADER.to_vec();
    for payload in payloads {
        out.put_long(i64::from(adler(payload)));
        out.put_length(payload.len());
        out.put_raw(payload);
        out.put_byte(END_OF_RECORD);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_is_there_and_where_it_breaks() {
        let payloads: Vec<Vec<u8>> = (1..5u8).map(|n| vec![n; 40]).collect();
        let whole = build(payloads.iter().map(Vec::as_slice));
        let sound = |item: &RawItem<'_>| matches!(item, RawItem::Record(record) if record.is_checksum_right && record.is_end_marked);
        let all: Vec<RawItem<'_>> = items(&whole, 1000).collect();
        assert_eq!(all.iter().filter(|item| sound(item)).count(), 4);
        assert_eq!(all.last(), Some(&RawItem::End { offset: 16 + 4 * 53, zeros: 0 }));
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x20;
            let left = items(&flipped, 1000).filter(|item| sound(item)).count();
            assert!(
                left < 4 || (4..16).contains(&at) || (16..20).contains(&((at - 16) % 53 + 16)),
                "byte {at}"
            );
        }
        assert_eq!(items(b"ZKSN", 10).collect::<Vec<_>>().len(), 1);
    }
}

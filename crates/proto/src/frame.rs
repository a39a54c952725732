//! Frames out of a stream: a length of four bytes, then that many bytes, however the stream cuts them up.

use crate::wire::{DecodeError, DecodeErrorKind};

/// Bytes of the length before a frame.
pub const PREFIX: usize = 4;

/// The frame that `bytes` begin with, without its length; `None` if its end has not come.
///
/// # Errors
/// The length is negative or above `bytes_max`.
#[inline]
pub fn first(bytes: &[u8], bytes_max: usize) -> Result<Option<&[u8]>, DecodeError> {
    let Some((prefix, body)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let claimed = i32::from_be_bytes(*prefix);
    match usize::try_from(claimed) {
        Ok(len) if len <= bytes_max => Ok(body.get(..len)),
        _ => Err(DecodeError { kind: DecodeErrorKind::Length(claimed), offset: 0 }),
    }
}

/// The beginning of a frame whose end has not come. Holds what has come, never what a length claims.
#[derive(Debug, Default)]
pub struct Unfinished(Vec<u8>);

impl Unfinished {
    /// Shows `use_up` the bytes that have come, those kept from before first; keeps what it does not use. It tells
    /// how many it used, from the start.
    ///
    /// Bytes that are all used never move. Where something was kept, `is_incomplete` may say that there is still
    /// nothing to look at.
    #[inline]
    pub fn add(
        &mut self,
        bytes: &[u8],
        is_incomplete: impl FnOnce(&[u8]) -> bool,
        use_up: impl FnOnce(&[u8]) -> usize,
    ) {
        if self.0.is_empty() {
            let used = use_up(bytes);
            self.0.extend_from_slice(bytes.get(used..).unwrap_or_default());
            return;
        }
        self.0.extend_from_slice(bytes);
        if is_incomplete(&self.0) {
            return;
        }
        let gathered = std::mem::take(&mut self.0);
        let used = use_up(&gathered);
        self.0.extend_from_slice(gathered.get(used..).unwrap_or_default());
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lets go of what is kept: nothing more is wanted from this stream.
    pub fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked_before_anything_is_waited_for() {
        assert_eq!(first(b"\0\0\0\x02abc", 2).unwrap(), Some(&b"ab"[..]));
        assert_eq!(first(b"\0\0\0\x02a", 2).unwrap(), None);
        assert_eq!(first(b"\0\0\0", 2).unwrap(), None);
        assert_eq!(first(b"\0\0\0\0", 0).unwrap(), Some(&b""[..]));
        for bad in [3, i32::MAX, -1, i32::MIN] {
            assert_eq!(first(&bad.to_be_bytes(), 2).unwrap_err().kind, DecodeErrorKind::Length(bad));
        }
    }

    #[test]
    fn every_way_to_cut_a_stream_gives_the_same_frames() {
        let stream = b"\0\0\0\x01a\0\0\0\0\0\0\0\x03bcd\0\0\0\x02e";
        for cuts in 0u32..1 << (stream.len() - 1) {
            let mut unfinished = Unfinished::default();
            let mut frames = Vec::new();
            let mut from = 0;
            for to in (1..=stream.len()).filter(|to| *to == stream.len() || cuts >> (to - 1) & 1 == 1) {
                let piece = &stream[from..to];
                from = to;
                let incomplete = |kept: &[u8]| matches!(first(kept, 9), Ok(None));
                unfinished.add(piece, incomplete, |bytes| {
                    let mut used = 0;
                    while let Some(frame) = first(&bytes[used..], 9).unwrap() {
                        frames.push(frame.to_vec());
                        used += PREFIX + frame.len();
                    }
                    used
                });
            }
            assert_eq!(frames, [&b"a"[..], b"", b"bcd"]);
            assert_eq!(unfinished.len(), 5);
        }
    }
}

//! The primitive encodings: big-endian integers, and strings, buffers and vectors behind an `i32` length
//! of which -1 means null. Every length is checked against what is there before anything is allocated.
//!
//! Source: `org.apache.jute.BinaryInputArchive` and `BinaryOutputArchive`, 3.9.

use std::borrow::Cow;

use thiserror::Error;

/// Java's default for `jute.maxbuffer`.
pub const JUTE_MAXBUFFER: usize = 0xf_ffff;

/// Bytes that are not the record they should be, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{kind} at byte {offset}")]
pub struct DecodeError {
    /// What is wrong.
    pub kind: DecodeErrorKind,
    /// Where, counted from the start of the bytes given to the reader.
    pub offset: usize,
}

/// The ways in which bytes fail to be a record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The bytes end inside a field.
    #[error("{needed} more bytes expected")]
    Truncated {
        /// How many bytes the field lacks.
        needed: usize,
    },
    /// A length that is negative or above the bound.
    #[error("Unreasonable length = {0}")]
    Length(i32),
    /// A null where the record needs a value.
    #[error("null where a value is required")]
    Null,
    /// A number that names no known kind of thing.
    #[error("unknown {what} {value}")]
    Unknown {
        /// What the number should name.
        what: &'static str,
        /// The number.
        value: i64,
    },
}

/// Reads primitives from a slice; strings and buffers are slices of it.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    length_max: usize,
    nulls_are_empty: bool,
}

impl<'a> Reader<'a> {
    /// A reader whose strings and buffers may be as long as the bytes there are.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0, length_max: bytes.len(), nulls_are_empty: false }
    }

    /// The same, but a null where a string is required reads as empty: tells a record that is complete but
    /// for its nulls from one that is cut short.
    #[must_use]
    pub fn with_nulls_as_empty(mut self) -> Reader<'a> {
        self.nulls_are_empty = true;
        self
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Bytes read so far.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The bytes read since `from`, an earlier [`Reader::offset`].
    #[must_use]
    pub fn since(&self, from: usize) -> &'a [u8] {
        self.bytes.get(from..self.at).unwrap_or_default()
    }

    /// The bytes not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// An error of `kind` at the current place.
    #[must_use]
    pub fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError { kind, offset: self.at }
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// Fewer than `n` are left.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        match self.bytes.get(self.at..self.at.saturating_add(n)) {
            Some(taken) => {
                self.at += n;
                Ok(taken)
            }
            None => Err(self.error(DecodeErrorKind::Truncated { needed: n - self.remaining() })),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(self.error(DecodeErrorKind::Truncated { needed: N - self.remaining() })),
        }
    }

    /// One byte.
    ///
    /// # Errors
    /// The bytes end.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// A boolean: any byte but zero is true.
    ///
    /// # Errors
    /// The bytes end.
    pub fn boolean(&mut self) -> Result<bool, DecodeError> {
        Ok(self.byte()? != 0)
    }

    /// A 32-bit integer.
    ///
    /// # Errors
    /// The bytes end.
    #[inline]
    pub fn int(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// A 64-bit integer.
    ///
    /// # Errors
    /// The bytes end.
    #[inline]
    pub fn long(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// A buffer; null stays apart from empty.
    ///
    /// # Errors
    /// The bytes end, or the length is negative (other than -1) or more than there is.
    #[inline]
    pub fn buffer(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        let len = self.int()?;
        if len == -1 {
            return Ok(None);
        }
        match usize::try_from(len) {
            Ok(n) if n <= self.length_max => self.take(n).map(Some),
            _ => Err(self.error(DecodeErrorKind::Length(len))),
        }
    }

    /// A string. Malformed UTF-8 is replaced, as Java's decoder does.
    ///
    /// # Errors
    /// As [`Reader::buffer`].
    #[inline]
    pub fn string_or_null(&mut self) -> Result<Option<Cow<'a, str>>, DecodeError> {
        Ok(self.buffer()?.map(text))
    }

    /// A string that may not be null.
    ///
    /// # Errors
    /// As [`Reader::buffer`], or the string is null.
    #[inline]
    pub fn string(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        match self.buffer()? {
            Some(bytes) => Ok(text(bytes)),
            None if self.nulls_are_empty => Ok(Cow::Borrowed("")),
            None => Err(self.error(DecodeErrorKind::Null)),
        }
    }

    /// The number of elements of a vector, `None` for a null one. `element_min` is the least number of
    /// bytes an element takes: a count that could not fit into the rest is refused before any allocation.
    ///
    /// # Errors
    /// The bytes end, or could not hold that many elements.
    pub fn count(&mut self, element_min: usize) -> Result<Option<usize>, DecodeError> {
        let count = self.int()?;
        if count == -1 {
            return Ok(None);
        }
        // Java reads any other negative count as an empty vector.
        let n = usize::try_from(count).unwrap_or(0);
        if n.saturating_mul(element_min.max(1)) > self.remaining() {
            return Err(self.error(DecodeErrorKind::Length(count)));
        }
        Ok(Some(n))
    }
}

#[inline]
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Writes primitives at the end of a buffer.
pub trait Put {
    /// One byte.
    fn put_byte(&mut self, value: u8);
    /// A boolean, one byte.
    fn put_boolean(&mut self, value: bool);
    /// A 32-bit integer.
    fn put_int(&mut self, value: i32);
    /// A 64-bit integer.
    fn put_long(&mut self, value: i64);
    /// Bytes as they are.
    fn put_raw(&mut self, bytes: &[u8]);
    /// A length or count.
    ///
    /// # Panics
    /// Above `i32::MAX`, which the wire cannot say; frames are bounded far below it.
    fn put_length(&mut self, length: usize);
    /// A buffer behind its length, or null.
    fn put_buffer(&mut self, value: Option<&[u8]>);
    /// A string behind its length.
    fn put_string(&mut self, value: &str);
}

impl Put for Vec<u8> {
    #[inline]
    fn put_byte(&mut self, value: u8) {
        self.push(value);
    }

    #[inline]
    fn put_boolean(&mut self, value: bool) {
        self.push(u8::from(value));
    }

    #[inline]
    fn put_int(&mut self, value: i32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    #[inline]
    fn put_long(&mut self, value: i64) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    #[inline]
    fn put_raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn put_length(&mut self, length: usize) {
        match i32::try_from(length) {
            Ok(n) => self.put_int(n),
            Err(_) => panic!("a length of {length} does not fit the wire's 31 bits"),
        }
    }

    #[inline]
    fn put_buffer(&mut self, value: Option<&[u8]>) {
        match value {
            Some(bytes) => {
                self.put_length(bytes.len());
                self.put_raw(bytes);
            }
            None => self.put_int(-1),
        }
    }

    #[inline]
    fn put_string(&mut self, value: &str) {
        self.put_buffer(Some(value.as_bytes()));
    }
}

/// Writes a frame: `fill` appends the payload, its length is put before it.
pub fn put_frame(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.put_int(0);
    fill(out);
    let Ok(len) = i32::try_from(out.len() - at - 4) else {
        panic!("a frame of {} bytes does not fit the wire's 31 bits", out.len() - at - 4)
    };
    if let Some(prefix) = out.get_mut(at..at + 4) {
        prefix.copy_from_slice(&len.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_empty_stay_apart() {
        let mut out = Vec::new();
        out.put_buffer(None);
        out.put_buffer(Some(b""));
        out.put_string("x");
        assert_eq!(out, [255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 1, b'x']);
        let mut r = Reader::new(&out);
        assert_eq!(r.buffer().unwrap(), None);
        assert_eq!(r.buffer().unwrap(), Some(&b""[..]));
        assert_eq!(r.string().unwrap(), "x");
        assert_eq!(r.remaining(), 0);
    }

    #[test]
    fn lengths_are_checked_before_use() {
        for len in [-2, i32::MIN, 5, i32::MAX] {
            let mut out = Vec::new();
            out.put_int(len);
            out.put_raw(b"abcd");
            let kind = Reader::new(&out).buffer().unwrap_err().kind;
            assert!(matches!(kind, DecodeErrorKind::Length(_) | DecodeErrorKind::Truncated { .. }), "{len}");
        }
        let mut out = Vec::new();
        out.put_int(i32::MAX);
        assert_eq!(Reader::new(&out).count(4).unwrap_err().kind, DecodeErrorKind::Length(i32::MAX));
    }

    #[test]
    fn malformed_utf8_is_replaced() {
        let mut out = Vec::new();
        out.put_buffer(Some(&[b'a', 0xff, b'b']));
        assert_eq!(Reader::new(&out).string().unwrap(), "a\u{fffd}b");
    }

    #[test]
    fn frames_carry_their_length() {
        let mut out = Vec::new();
        put_frame(&mut out, |o| o.put_raw(b"abc"));
        assert_eq!(out, [0, 0, 0, 3, b'a', b'b', b'c']);
    }
}

//! Bytes as they come, cut into frames.

use oxkeeper_proto::wire::JUTE_MAXBUFFER;

/// Bytes that wait for the end of their frame.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    at: usize,
}

/// A length that no frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadLength(pub i32);

impl Frames {
    /// Adds what came.
    pub fn add(&mut self, bytes: &[u8]) {
        if self.at > 1 << 14 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame that is whole.
    ///
    /// # Errors
    /// A length below zero or above what is allowed.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, BadLength> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some((len, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let len = i32::from_be_bytes(*len);
        let size = usize::try_from(len).map_err(|_| BadLength(len))?;
        if size > 2 * JUTE_MAXBUFFER {
            return Err(BadLength(len));
        }
        let Some(frame) = rest.get(..size) else { return Ok(None) };
        let frame = frame.to_vec();
        self.at += 4 + size;
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_the_same_however_they_come() {
        let bytes = b"\0\0\0\x03abc\0\0\0\0\0\0\0\x02de";
        for size in 1..=bytes.len() {
            let mut frames = Frames::default();
            let mut all = Vec::new();
            for piece in bytes.chunks(size) {
                frames.add(piece);
                while let Some(frame) = frames.take().unwrap() {
                    all.push(frame);
                }
            }
            assert_eq!(all, [b"abc".to_vec(), Vec::new(), b"de".to_vec()]);
        }
        let mut frames = Frames::default();
        frames.add(b"\xff\xff\xff\xff");
        assert_eq!(frames.take(), Err(BadLength(-1)));
    }
}

//! The framing in which Java writes snappy: a header of 16 bytes, then chunks of at most 32 KiB, each
//! compressed for itself behind its compressed length. Not the official framing format.
//!
//! Source: `org.xerial.snappy.SnappyOutputStream`.

use std::io::{self, Read, Write};

use oxkeeper_proto::Put;

const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const BLOCK: usize = 32 * 1024;
/// A chunk that claims more than this is nothing that a server wrote, packed or not: Java's blocks are 32 KiB.
const CHUNK_MAX: usize = 1 << 20;
/// Three bytes say at most 64: a chunk that claims more for its length is none, and nothing is reserved for it.
const RATIO_MAX: usize = 22;

/// Compresses what is written to it.
#[derive(Debug)]
pub(crate) struct Encoder<W> {
    to: W,
    block: Vec<u8>,
}

impl<W: Write> Encoder<W> {
    pub(crate) fn new(mut to: W) -> io::Result<Encoder<W>> {
        let mut header = MAGIC.to_vec();
        header.put_int(1);
        header.put_int(1);
        to.write_all(&header)?;
        Ok(Encoder { to, block: Vec::with_capacity(BLOCK) })
    }

    fn put_block(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let packed = snap::raw::Encoder::new().compress_vec(&self.block)?;
        let mut out = Vec::with_capacity(packed.len() + 4);
        out.put_buffer(Some(&packed));
        self.block.clear();
        self.to.write_all(&out)
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.put_block()?;
        Ok(self.to)
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(bytes.get(..n).unwrap_or_default());
        if self.block.len() == BLOCK {
            self.put_block()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decompresses what is read through it.
#[derive(Debug)]
pub(crate) struct Decoder<R> {
    from: R,
    started: bool,
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> Decoder<R> {
    pub(crate) fn new(from: R) -> Decoder<R> {
        Decoder { from, started: false, block: Vec::new(), at: 0 }
    }

    fn next_block(&mut self) -> io::Result<bool> {
        if !self.started {
            let mut header = [0; 16];
            self.from.read_exact(&mut header)?;
            if !header.starts_with(&MAGIC) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not xerial snappy"));
            }
            self.started = true;
        }
        let mut len = [0; 4];
        match self.from.read(&mut len)? {
            0 => return Ok(false),
            n => self.from.read_exact(len.get_mut(n..).unwrap_or_default())?,
        }
        let len = usize::try_from(i32::from_be_bytes(len)).unwrap_or(usize::MAX);
        if len > CHUNK_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a snappy chunk of unreasonable length"));
        }
        let mut packed = Vec::new();
        self.from.by_ref().take(len as u64).read_to_end(&mut packed)?;
        let broken = |_| io::Error::new(io::ErrorKind::InvalidData, "a broken snappy chunk");
        let unpacked_len = snap::raw::decompress_len(&packed).map_err(broken)?;
        if packed.len() < len || unpacked_len > CHUNK_MAX.min(packed.len() * RATIO_MAX) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a snappy chunk of unreasonable length"));
        }
        self.block = snap::raw::Decoder::new().decompress_vec(&packed).map_err(broken)?;
        self.at = 0;
        Ok(true)
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let there = self.block.get(self.at..).unwrap_or_default();
        let n = there.len().min(buf.len());
        buf.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_unpacks() {
        let data: Vec<u8> = (0..200_000u32).flat_map(|i| (i / 7).to_be_bytes()).collect();
        let mut encoder = Encoder::new(Vec::new()).unwrap();
        encoder.write_all(&data).unwrap();
        let packed = encoder.finish().unwrap();
        assert!(packed.len() < data.len());
        let mut again = Vec::new();
        Decoder::new(&packed[..]).read_to_end(&mut again).unwrap();
        assert_eq!(again, data);
        let (mut encoder, zeros) = (Encoder::new(Vec::new()).unwrap(), vec![0; 100_000]);
        encoder.write_all(&zeros).unwrap();
        let mut again = Vec::new();
        Decoder::new(&encoder.finish().unwrap()[..]).read_to_end(&mut again).unwrap();
        assert_eq!(again, zeros, "as tight as it gets");
        for cut in [0, 5, 17, 18, packed.len() - 1] {
            assert!(Decoder::new(&packed[..cut]).read_to_end(&mut Vec::new()).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_chunk_cannot_claim_more_than_it_can_hold() {
        let mut chunk = MAGIC.to_vec();
        chunk.put_raw(&[0; 8]);
        // 900,000 bytes, of which not one follows.
        chunk.put_buffer(Some(&[0xa0, 0xf7, 0x36]));
        let mut decoder = Decoder::new(&chunk[..]);
        let error = decoder.read(&mut [0; 10]).unwrap_err();
        assert!(error.to_string().contains("unreasonable"), "{error}");
        assert_eq!(decoder.block.capacity(), 0);
    }
}

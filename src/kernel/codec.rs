//! Compressed bytes in, plain bytes out, by what the first bytes say: module files and kernel payloads.
//!
//! The magics are those of Documentation/arch/x86/boot.rst (`payload_offset`) and of the formats. Kernel
//! payloads carry a trailing length and stop in the middle of a file, so readers must not insist on
//! the end of their input.

use std::io::Read;

use anyhow::{Context, Result, ensure};

/// A compression format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// gzip (RFC 1952).
    Gzip,
    /// xz, with the x86 filter that scripts/xz_wrap.sh uses for kernels.
    Xz,
    /// The older `.lzma` format.
    Lzma,
    /// Zstandard.
    Zstd,
    /// bzip2.
    Bzip2,
    /// lz4's legacy frame, as `lz4 -l` writes it.
    Lz4,
    /// lzop.
    Lzo,
}

impl Codec {
    /// The format whose magic the bytes start with.
    pub fn detect(bytes: &[u8]) -> Option<Codec> {
        const MAGICS: [(&[u8], Codec); 7] = [
            (b"\x1f\x8b", Codec::Gzip),
            (b"\xfd7zXZ\0", Codec::Xz),
            (b"\x5d\0\0", Codec::Lzma),
            (b"\x28\xb5\x2f\xfd", Codec::Zstd),
            (b"BZh", Codec::Bzip2),
            (b"\x02\x21\x4c\x18", Codec::Lz4),
            (b"\x89LZO\0\r\n\x1a\n", Codec::Lzo),
        ];
        MAGICS.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, codec)| *codec)
    }

    /// Unpacks one stream at the start of `bytes`; what follows it is left alone.
    pub fn unpack(self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let done = match self {
            Codec::Gzip => flate2::bufread::GzDecoder::new(bytes).read_to_end(&mut out).map(drop),
            Codec::Xz => lzma_rust2::XzReader::new(bytes, false).read_to_end(&mut out).map(drop),
            Codec::Lzma => lzma_rust2::LzmaReader::new_mem_limit(bytes, u32::MAX, None)
                .and_then(|mut reader| reader.read_to_end(&mut out))
                .map(drop),
            Codec::Zstd => return unpack_zstd(bytes),
            Codec::Bzip2 => bzip2::bufread::BzDecoder::new(bytes).read_to_end(&mut out).map(drop),
            Codec::Lz4 => return unpack_lz4(bytes),
            Codec::Lzo => return super::lzop::unpack(bytes),
        };
        done.with_context(|| format!("failed to unpack {self:?} data"))?;
        Ok(out)
    }
}

/// The bytes, unpacked when they are compressed in a known format.
pub fn plain(bytes: Vec<u8>) -> Result<Vec<u8>> {
    match Codec::detect(&bytes) {
        Some(codec) => codec.unpack(&bytes),
        None => Ok(bytes),
    }
}

fn unpack_zstd(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    // `zstd -22 --ultra`, which kbuild uses for kernels, asks for a window of this size whatever the input's is.
    const WINDOW: u64 = 128 << 20;
    let mut reader = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(bytes, WINDOW)
        .context("failed to read a zstd header")?;
    reader.read_to_end(&mut out).context("failed to unpack zstd data")?;
    Ok(out)
}

/// Blocks of 8 MiB plain text, the last one shorter, each after its packed size. The frame has no end mark: behind
/// it is the length that kbuild appends (scripts/Makefile.lib `size_append`), or nothing.
fn unpack_lz4(bytes: &[u8]) -> Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    // No block grows by more (lz4's LZ4_compressBound).
    const MOST: usize = BLOCK + BLOCK / 255 + 16;
    let mut out = Vec::new();
    let mut rest = &bytes[4..];
    let mut block = vec![0; BLOCK];
    while let Some((size, tail)) = rest.split_first_chunk::<4>() {
        let packed = u32::from_le_bytes(*size) as usize;
        // The last 4 bytes of a kernel's payload are its plain length, which is no size of a block that follows.
        if tail.is_empty() && packed == out.len() {
            break;
        }
        ensure!(packed > 0 && packed <= MOST && packed <= tail.len(), "failed to unpack lz4 data: it is cut short");
        let length =
            lz4_flex::block::decompress_into(&tail[..packed], &mut block).context("failed to unpack lz4 data")?;
        out.extend_from_slice(&block[..length]);
        rest = &tail[packed..];
        if length < BLOCK {
            break;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A gzip stream followed by other bytes (as in a bzImage) unpacks to its contents.
    #[test]
    fn trailing_bytes() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(b"hello kernel").unwrap();
        let mut bytes = packer.finish().unwrap();
        bytes.extend_from_slice(b"\x0c\0\0\0rest of the image");
        assert_eq!(plain(bytes).unwrap(), b"hello kernel");
    }

    /// Several lz4 blocks are joined, and the length that kbuild appends ends the data.
    #[test]
    fn lz4_legacy() {
        let mut bytes = b"\x02\x21\x4c\x18".to_vec();
        let block = lz4_flex::block::compress(b"some words, some words, some words");
        bytes.extend_from_slice(&(block.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&block);
        bytes.extend_from_slice(&34u32.to_le_bytes());
        assert_eq!(plain(bytes).unwrap(), b"some words, some words, some words");
    }

    /// A truncated stream is an error, never half the data.
    #[test]
    fn truncated() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&[7; 4000]).unwrap();
        let mut bytes = packer.finish().unwrap();
        bytes.truncate(bytes.len() / 2);
        assert!(plain(bytes).is_err());
    }
}

//! lzop's file format in, plain bytes out: kernels with CONFIG_KERNEL_LZO.
//!
//! A header with numbers of the most significant byte first, then blocks, each with its plain and its packed size and
//! checksums (lib/decompress_unlzo.c reads the same; lzop(1) writes it). The crate knows the blocks only.

use anyhow::{Context, Result, bail, ensure};

const MAGIC: &[u8] = b"\x89LZO\0\r\n\x1a\n";
/// lzop never makes larger blocks.
const MOST: usize = 64 << 20;

/// Flags of the header.
const ADLER_PLAIN: u32 = 1;
const ADLER_PACKED: u32 = 2;
const CRC_PLAIN: u32 = 0x100;
const CRC_PACKED: u32 = 0x200;
const FILTER: u32 = 0x800;

/// Unpacks a file; what follows its end mark is left alone.
pub(super) fn unpack(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut input = Input(bytes.strip_prefix(MAGIC).context("not an lzop file")?);
    let flags = header(&mut input).context("broken lzop header")?;
    let checksums = |plain: u32, packed: u32| u32::from(flags & plain != 0) + u32::from(flags & packed != 0);
    let mut out = Vec::new();
    loop {
        let plain = input.word()? as usize;
        if plain == 0 {
            return Ok(out);
        }
        let packed = input.word()? as usize;
        ensure!(plain <= MOST && packed <= plain, "failed to unpack lzo data: a block has no sensible size");
        let wanted = (flags & ADLER_PLAIN != 0).then(|| input.word()).transpose()?;
        input.skip(4 * checksums(CRC_PLAIN, 0) as usize)?;
        // A block that would not get smaller is stored, without checksums of the packed bytes.
        if packed < plain {
            input.skip(4 * checksums(ADLER_PACKED, CRC_PACKED) as usize)?;
        }
        let data = input.take(packed)?;
        let start = out.len();
        if packed < plain {
            out.resize(start + plain, 0);
            match lzokay::decompress::decompress(data, &mut out[start..]) {
                Ok(size) if size == plain => {}
                Ok(_) => bail!("failed to unpack lzo data: a block is shorter than it says"),
                Err(error) => bail!("failed to unpack lzo data: {error:?}"),
            }
        } else {
            out.extend_from_slice(data);
        }
        if wanted.is_some_and(|sum| sum != adler32(&out[start..])) {
            bail!("failed to unpack lzo data: a checksum is wrong");
        }
    }
}

/// Reads the header; its flags are all that matters.
fn header(input: &mut Input<'_>) -> Result<u32> {
    let version = input.half()?;
    // The library's version, then what is needed to unpack, the method and the level.
    input.skip(2)?;
    input.skip(if version >= 0x0940 { 2 + 1 + 1 } else { 1 })?;
    let flags = input.word()?;
    if flags & FILTER != 0 {
        bail!("it uses a filter, which kernels never do");
    }
    // Mode and time of the file, its name, and the header's checksum.
    input.skip(if version >= 0x0940 { 12 } else { 8 })?;
    let name = input.take(1)?[0];
    input.skip(usize::from(name) + 4)?;
    Ok(flags)
}

struct Input<'b>(&'b [u8]);

impl<'b> Input<'b> {
    fn take(&mut self, size: usize) -> Result<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(size).context("failed to unpack lzo data: it is cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn skip(&mut self, size: usize) -> Result<()> {
        self.take(size).map(drop)
    }

    fn half(&mut self) -> Result<u16> {
        let b = self.take(2)?;
        Ok(u16::from_be_bytes([b[0], b[1]]))
    }

    fn word(&mut self) -> Result<u32> {
        let b = self.take(4)?;
        Ok(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }
}

/// RFC 1950.
fn adler32(bytes: &[u8]) -> u32 {
    const PRIME: u32 = 65521;
    // The most additions that fit before a remainder has to be taken.
    const ROUND: usize = 5552;
    let (mut a, mut b) = (1u32, 0u32);
    for round in bytes.chunks(ROUND) {
        for byte in round {
            a += u32::from(*byte);
            b += a;
        }
        (a, b) = (a % PRIME, b % PRIME);
    }
    b << 16 | a
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checksum is what the format's authors say, or every block of a kernel would be refused.
    #[test]
    fn checksum() {
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
    }

    /// Broken files are errors, never half the data and no crash.
    #[test]
    fn broken() {
        let mut file = MAGIC.to_vec();
        assert!(unpack(&file).is_err());
        file.extend([0x10, 0x40, 0x20, 0xa0, 0x09, 0x40, 3, 9, 0, 0, 0, 1]);
        file.extend([0; 12 + 1 + 4]);
        file.extend([0, 0, 0, 2, 0, 0, 0, 2, 0, 0xc8, 0, 0x62, b'a', b'b', 0, 0, 0, 0]);
        assert!(unpack(&file).is_err());
        let at = file.len() - 10;
        file[at..at + 4].copy_from_slice(&adler32(b"ab").to_be_bytes());
        assert_eq!(unpack(&file).unwrap(), b"ab");
        assert!(unpack(&file[..file.len() - 4]).is_err());
    }
}

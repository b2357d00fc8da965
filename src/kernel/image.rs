//! A kernel image file in, the bytes that lie in memory after boot out.
//!
//! A vmlinux is an ELF file. A vmlinuz is a PE file (the EFI stub; `goblin` reads it) that is also a Linux boot image:
//! its setup header (Documentation/arch/x86/boot.rst, "payload_offset") says where the compressed kernel is, and the
//! payload's first bytes which codec. The payload is a stripped vmlinux, so both end as one ELF file. On
//! x86 relocation entries for KASLR follow it (arch/x86/boot/compressed/Makefile), which does not matter here.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use goblin::elf::ProgramHeader;
use goblin::elf::header::ET_CORE;
use goblin::elf::program_header::PT_LOAD;
use goblin::pe::PE;

use super::codec::Codec;

/// A loadable piece of the kernel.
#[derive(Debug, Clone)]
struct Segment {
    address: u64,
    offset: usize,
    size: usize,
}

/// An uncompressed kernel image, addressed as it is linked.
#[derive(Debug)]
pub struct Image {
    bytes: Vec<u8>,
    segments: Vec<Segment>,
}

impl Image {
    /// Reads a vmlinux or a vmlinuz.
    pub fn read(path: &Path) -> Result<Image> {
        read_loaded(path)
            .and_then(Image::parse)
            .with_context(|| format!("failed to read the kernel image `{}`", path.display()))
    }

    /// Takes the bytes of a vmlinux or a vmlinuz.
    pub fn parse(bytes: Vec<u8>) -> Result<Image> {
        let bytes = if bytes.starts_with(b"\x7fELF") { bytes } else { unpack_boot_image(&bytes)? };
        let segments: Vec<Segment> = loaded_headers(&bytes)?
            .iter()
            .map(|header| {
                let (offset, size) = (header.p_offset as usize, header.p_filesz as usize);
                ensure!(offset.checked_add(size).is_some_and(|end| end <= bytes.len()), "the image is truncated");
                Ok(Segment { address: header.p_vaddr, offset, size })
            })
            .collect::<Result<_>>()?;
        ensure!(!segments.is_empty(), "nothing in the image is loaded");
        Ok(Image { bytes, segments })
    }

    /// `size` bytes at a link address, when the image holds all of them.
    pub fn at(&self, address: u64, size: usize) -> Option<&[u8]> {
        self.segments.iter().find_map(|segment| {
            let skip = usize::try_from(address.checked_sub(segment.address)?).ok()?;
            let end = skip.checked_add(size).filter(|end| *end <= segment.size)?;
            self.bytes.get(segment.offset + skip..segment.offset + end)
        })
    }

    /// The loaded pieces: link address and bytes.
    pub fn segments(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.segments.iter().map(|s| (s.address, &self.bytes[s.offset..s.offset + s.size]))
    }
}

/// The file as far as it is loaded: a vmlinux with debug information has hundreds of megabytes more.
fn read_loaded(path: &Path) -> Result<Vec<u8>> {
    const HEADERS: u64 = 1 << 16;
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.by_ref().take(HEADERS).read_to_end(&mut bytes)?;
    let rest = if bytes.starts_with(b"\x7fELF") {
        let ends = loaded_headers(&bytes)?.into_iter().filter_map(|h| h.p_offset.checked_add(h.p_filesz));
        ends.max().unwrap_or(0).saturating_sub(bytes.len() as u64)
    } else {
        u64::MAX
    };
    file.take(rest).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Program headers of what is loaded.
fn loaded_headers(bytes: &[u8]) -> Result<Vec<ProgramHeader>> {
    let elf = goblin::elf::Elf::parse_header(bytes).context("broken ELF header")?;
    ensure!(
        elf.e_type != ET_CORE,
        "memory of a running kernel has no symbols of its own: name a copy of its /proc/kallsyms with --symbols"
    );
    let ctx = goblin::container::Ctx::new(elf.container()?, elf.endianness()?);
    let headers = ProgramHeader::parse(bytes, elf.e_phoff as usize, usize::from(elf.e_phnum), ctx)
        .context("broken program headers")?;
    Ok(headers.into_iter().filter(|header| header.p_type == PT_LOAD && header.p_filesz > 0).collect())
}

/// The ELF file inside a boot image.
fn unpack_boot_image(bytes: &[u8]) -> Result<Vec<u8>> {
    ensure!(bytes.get(0x202..0x206) == Some(b"HdrS"), "neither an ELF file nor a Linux boot image");
    let word =
        |at: usize| -> Option<usize> { Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize) };
    // Boot protocol 2.08: the payload follows the real-mode sectors.
    let setup_sectors = match bytes[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let (Some(offset), Some(length)) = (word(0x248), word(0x24c)) else { bail!("the boot image is truncated") };
    let start = (setup_sectors + 1) * 512 + offset;
    let Some(payload) = start.checked_add(length).and_then(|end| bytes.get(start..end)) else {
        bail!("the boot image is truncated");
    };
    // With an EFI stub the file is a PE too; a payload outside its sections means a foreign or damaged file.
    if bytes.starts_with(b"MZ") {
        let pe = PE::parse(bytes).context("broken PE header of the boot image")?;
        let inside = pe.sections.iter().any(|section| {
            let first = section.pointer_to_raw_data as usize;
            (first..first + section.size_of_raw_data as usize).contains(&start)
        });
        ensure!(inside, "the payload lies outside the sections of the boot image");
    }
    let unpacked = match Codec::detect(payload) {
        Some(codec) => codec.unpack(payload)?,
        None if payload.starts_with(b"\x7fELF") => payload.to_vec(),
        None => bail!("the payload is in no known compression format"),
    };
    ensure!(unpacked.starts_with(b"\x7fELF"), "the payload of the boot image is not an ELF file");
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Foreign and cut files are told apart before anything is unpacked.
    #[test]
    fn garbage() {
        let text = |bytes: &[u8]| format!("{:#}", Image::parse(bytes.to_vec()).unwrap_err());
        assert!(text(b"hello").contains("neither an ELF file nor a Linux boot image"));
        let mut boot = vec![0; 0x300];
        boot[0x202..0x206].copy_from_slice(b"HdrS");
        boot[0x248] = 0x10;
        boot[0x24d] = 0x10;
        assert!(text(&boot).contains("truncated"));
        assert!(text(b"\x7fELF").contains("broken ELF header"));
    }
}

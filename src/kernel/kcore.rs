//! Memory of a running kernel: /proc/kcore, or a copy of its part that matters, in; bytes by address out.
//!
//! /proc/kcore is an ELF core file of many terabytes (fs/proc/kcore.c): its program headers say which addresses can be
//! read, and only what is asked for is read. Its notes hold vmcoreinfo (kernel/vmcore_info.c): the release, the build
//! id, and where `_stext` lies, which tells how far the kernel was moved at boot. A copy is the same kind of file with
//! fewer headers, so that a machine's kernel can be checked where the sources are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use goblin::elf::ProgramHeader;
use goblin::elf::header::ET_CORE;
use goblin::elf::program_header::{PT_LOAD, PT_NOTE};

const PAGE: u64 = 4096;
/// Program headers of any sensible core; /proc/kcore has a few dozen.
const MOST_HEADERS: usize = 4096;

/// An open core file.
#[derive(Debug)]
pub struct Kcore {
    file: File,
    /// Address, offset in the file, size.
    segments: Vec<(u64, u64, u64)>,
    info: BTreeMap<String, String>,
}

impl Kcore {
    /// Opens a core file; `None` when the file is something else.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or is a broken core.
    pub fn open(path: &Path) -> Result<Option<Kcore>> {
        let open = || -> Result<Option<Kcore>> {
            let file = File::open(path)?;
            let mut head = [0; 64];
            if read_some(&file, &mut head, 0)? < 64 || !head.starts_with(b"\x7fELF\x02\x01") {
                return Ok(None);
            }
            let elf = goblin::elf::Elf::parse_header(&head).context("broken ELF header")?;
            if elf.e_type != ET_CORE {
                return Ok(None);
            }
            let count = usize::from(elf.e_phnum);
            ensure!(count <= MOST_HEADERS, "too many program headers");
            let mut table = vec![0; count * usize::from(elf.e_phentsize)];
            file.read_exact_at(&mut table, elf.e_phoff).context("broken program headers")?;
            let ctx = goblin::container::Ctx::new(elf.container()?, elf.endianness()?);
            let headers = ProgramHeader::parse(&table, 0, count, ctx).context("broken program headers")?;
            let of = |kind: u32| headers.iter().filter(move |h| h.p_type == kind && h.p_filesz > 0);
            let segments = of(PT_LOAD).map(|h| (h.p_vaddr, h.p_offset, h.p_filesz)).collect();
            let mut info = BTreeMap::new();
            for header in of(PT_NOTE) {
                let mut notes = vec![0; header.p_filesz.min(1 << 20) as usize];
                let read = read_some(&file, &mut notes, header.p_offset)?;
                info.extend(vmcoreinfo(&notes[..read]));
            }
            Ok(Some(Kcore { file, segments, info }))
        };
        open().with_context(|| format!("failed to read the memory of a running kernel from `{}`", path.display()))
    }

    /// A line of vmcoreinfo: `OSRELEASE`, `BUILD-ID`, `SYMBOL(_stext)`.
    pub fn info(&self, key: &str) -> Option<&str> {
        self.info.get(key).map(String::as_str)
    }

    /// Where `_stext` lies.
    pub fn stext(&self) -> Option<u64> {
        u64::from_str_radix(self.info("SYMBOL(_stext)")?, 16).ok()
    }

    /// Bytes from an address to the end of the piece that it lies in.
    pub fn size_from(&self, address: u64) -> Option<u64> {
        let inside = |s: &&(u64, u64, u64)| address >= s.0 && address - s.0 < s.2;
        let (start, _, length) = self.segments.iter().find(inside)?;
        Some(length - (address - start))
    }

    /// `size` bytes at an address; `None` when they cannot all be read.
    pub fn read(&self, address: u64, size: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; size];
        let mut done = 0;
        while done < size {
            let at = address.checked_add(done as u64)?;
            // The kernel's text has a header of its own, which comes first, and is in the direct map besides.
            let (start, offset, length) =
                self.segments.iter().find(|(start, _, length)| at >= *start && at - start < *length)?;
            let skip = at - start;
            let chunk = usize::try_from(length - skip).unwrap_or(usize::MAX).min(size - done);
            self.file.read_exact_at(&mut bytes[done..done + chunk], offset.checked_add(skip)?).ok()?;
            done += chunk;
        }
        Some(bytes)
    }

    /// Writes a copy that has these ranges, in whole pages; what cannot be read is left out.
    ///
    /// # Errors
    ///
    /// When writing fails, or nothing of the ranges can be read.
    pub fn copy(&self, ranges: &[Range<u64>], out: &mut impl Write) -> Result<()> {
        let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
        for range in merged(ranges) {
            let size = (range.end - range.start) as usize;
            match self.read(range.start, size) {
                Some(bytes) => pieces.push((range.start, bytes)),
                // Unmapped pages among others: take what there is.
                None => pieces.extend(
                    range.step_by(PAGE as usize).filter_map(|page| Some((page, self.read(page, PAGE as usize)?))),
                ),
            }
        }
        ensure!(!pieces.is_empty(), "nothing of the kernel's memory can be read");
        let text: String = self.info.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        let note = note(text.as_bytes());
        let headers = pieces.len() + 1;
        let mut file = Vec::new();
        file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        let half = |file: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
        let word = |file: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
        let long = |file: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
        half(&mut file, &[ET_CORE, 62]);
        word(&mut file, &[1]);
        long(&mut file, &[0, 64, 0]);
        word(&mut file, &[0]);
        half(&mut file, &[64, 56, u16::try_from(headers).context("too many pieces of memory")?, 0, 0, 0]);
        let mut offset = 64 + 56 * headers as u64;
        word(&mut file, &[PT_NOTE, 0]);
        long(&mut file, &[offset, 0, 0, note.len() as u64, 0, 0]);
        offset += note.len() as u64;
        for (address, bytes) in &pieces {
            word(&mut file, &[PT_LOAD, 7]);
            long(&mut file, &[offset, *address, 0, bytes.len() as u64, bytes.len() as u64, 1]);
            offset += bytes.len() as u64;
        }
        file.extend(note);
        out.write_all(&file)?;
        for (_, bytes) in &pieces {
            out.write_all(bytes)?;
        }
        out.flush()?;
        Ok(())
    }
}

fn read_some(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}

/// Ranges in whole pages, ascending, without overlaps.
fn merged(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let whole = |r: &Range<u64>| r.start / PAGE * PAGE..r.end.div_ceil(PAGE).saturating_mul(PAGE);
    let mut all: Vec<Range<u64>> = ranges.iter().filter(|r| r.start < r.end).map(whole).collect();
    all.sort_by_key(|r| r.start);
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in all {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

const NAME: &[u8] = b"VMCOREINFO\0";

/// A note with vmcoreinfo's text.
fn note(text: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for value in [NAME.len() as u32, text.len() as u32, 0] {
        note.extend(value.to_le_bytes());
    }
    for part in [NAME, text] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// The lines of vmcoreinfo among some notes.
fn vmcoreinfo(mut notes: &[u8]) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    while let Some((head, rest)) = notes.split_first_chunk::<12>() {
        let size = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (name, text) = (size(0), size(4));
        let start = name.next_multiple_of(4);
        let (Some(name), Some(text)) = (rest.get(..name), rest.get(start..).and_then(|r| r.get(..text))) else { break };
        if name == NAME {
            let text = String::from_utf8_lossy(text);
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            lines.extend(pairs.map(|(key, value)| (key.to_owned(), value.trim_end_matches('\0').to_owned())));
        }
        let Some(next) = rest.get(start + text.len().next_multiple_of(4)..) else { break };
        notes = next;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xffff_ffff_9a00_0000;

    /// A core with two pieces and vmcoreinfo, as a copy of a copy.
    fn core() -> (tempfile::TempDir, Kcore) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("core");
        let (file, _) = (tempfile::tempfile().unwrap(), ());
        file.write_all_at(&[7; 4096], 0).unwrap();
        file.write_all_at(&[8; 4096], 4096).unwrap();
        let info = [("SYMBOL(_stext)", "ffffffff9a000000"), ("OSRELEASE", "6.12.1")];
        let first = Kcore {
            file,
            segments: vec![(BASE, 0, 4096), (BASE + 8192, 4096, 4096)],
            info: info.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        let mut out = File::create(&path).unwrap();
        first.copy(&[BASE + 5..BASE + 9, BASE + 8192..BASE + 8193, BASE..BASE + 4], &mut out).unwrap();
        let core = Kcore::open(&path).unwrap().unwrap();
        (dir, core)
    }

    /// A copy has what was asked for under the same addresses, says the same of the kernel, and nothing else.
    #[test]
    fn copies() {
        let (_dir, core) = core();
        assert_eq!(core.read(BASE + 4090, 6).unwrap(), [7; 6]);
        assert_eq!(core.read(BASE + 8192, 2).unwrap(), [8; 2]);
        assert_eq!(core.read(BASE + 4090, 7), None);
        assert_eq!(core.stext(), Some(BASE));
        assert_eq!(core.info("OSRELEASE"), Some("6.12.1"));
    }

    /// What is no core file is left to others, and a cut one is an error.
    #[test]
    fn foreign_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "hello").unwrap();
        assert!(Kcore::open(&path).unwrap().is_none());
        let mut head = vec![0; 64];
        head[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        head[16] = 4;
        head[18] = 62;
        head[20] = 1;
        head[32] = 64;
        head[54] = 56;
        head[56] = 3;
        std::fs::write(&path, head).unwrap();
        let error = format!("{:#}", Kcore::open(&path).unwrap_err());
        assert!(error.contains("broken program headers"), "{error}");
    }
}

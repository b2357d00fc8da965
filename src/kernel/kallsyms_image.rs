//! The kallsyms tables inside a kernel image: bytes in, the symbol table that the running kernel has out.
//!
//! Distributions strip vmlinux and ship System.map apart, but a livepatchable kernel carries every name itself
//! (kernel/kallsyms.c; written by scripts/kallsyms.c). Nothing says where, so the tables are found by shape:
//!
//!  * `kallsyms_token_table`: 256 NUL-terminated texts; those for digits and letters that occur in names are the
//!    character itself, so `0\01\0...9\0` is in it; `kallsyms_token_index` has their 16-bit offsets right behind it.
//!  * `kallsyms_markers` before it: a rising list of 32-bit offsets, one for each 256 names, first 0. Between them
//!    6.2 and its like, also late point releases of 6.1, have `kallsyms_seqs_of_names`, three bytes a symbol.
//!  * `kallsyms_names` before those, and `kallsyms_num_syms` before that: the number that makes all fit.
//!  * addresses: `kallsyms_offsets`, 32 bits a symbol. Three layouts: before the names with a 64-bit
//!    `kallsyms_relative_base` behind it (5.15), behind the token index with the base after it (6.2 to 6.17), or
//!    each relative to its own place (7.x, `_text - . + n`). With per-cpu symbols absolute, negative
//!    offsets count down from the base. The right one is the one that gives a rising list that has `_text`.

use anyhow::{Context, Result, bail};
use memchr::memmem;

use super::image::Image;
use super::symtab::{KernelSymbol, SymbolTable};
use super::text_table::from_letter;

/// Reads the symbol table out of an image.
pub fn read_table(image: &Image) -> Result<SymbolTable> {
    let mut problem = None;
    for (address, bytes) in image.segments() {
        for at in memmem::find_iter(bytes, b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0") {
            match Tables::find(bytes, at)
                .and_then(|found| found.map(|tables| tables.symbols(bytes, address)).transpose())
            {
                Ok(Some(symbols)) => return Ok(table(symbols)),
                // Tables of characters have the digits, too.
                Ok(None) => {}
                Err(error) => problem = Some(error),
            }
        }
    }
    match problem {
        Some(error) => Err(error.context("the kallsyms tables of the image are not understood")),
        None => bail!("no kallsyms tables in the image; name the kernel's symbols with --symbols"),
    }
}

fn table(mut symbols: Vec<KernelSymbol>) -> SymbolTable {
    SymbolTable::mark_init(&mut symbols);
    SymbolTable::mark_data(&mut symbols);
    SymbolTable::new(symbols, Vec::new())
}

/// Where the tables lie in a segment.
#[derive(Debug)]
struct Tables {
    tokens: Vec<Vec<u8>>,
    /// Start of `kallsyms_num_syms`.
    start: usize,
    names: usize,
    count: usize,
    /// End of `kallsyms_token_index`.
    end: usize,
}

impl Tables {
    /// From the place of the digits in the token table; `None` when they are in no such table.
    fn find(bytes: &[u8], digits: usize) -> Result<Option<Tables>> {
        // 48 tokens precede that of '0'; tokens are short texts without control characters.
        let mut start = digits;
        for _ in 0..48 {
            let Some(before) = start.checked_sub(1) else { return Ok(None) };
            start = memchr::memrchr(0, &bytes[..before]).map_or(0, |nul| nul + 1);
        }
        // The first token has padding before it that looks like empty tokens; the index decides.
        let found = (start.saturating_sub(4)..=start + 48)
            .find_map(|start| Some((start, Tables::index_of(bytes, start, digits)?)));
        let Some((tokens_start, index)) = found else { return Ok(None) };
        let mut tokens = Vec::with_capacity(256);
        let mut at = tokens_start;
        for _ in 0..256 {
            let end = at + memchr::memchr(0, &bytes[at..]).context("truncated token table")?;
            tokens.push(bytes[at..end].to_vec());
            at = end + 1;
        }
        let markers_end = tokens_start;
        let (names, count) = find_names(bytes, markers_end)?;
        let start = align_down(names - 1, 4).saturating_sub(4);
        Ok(Some(Tables { tokens, start, names, count, end: index + 512 }))
    }

    /// The place of the 256 offsets that describe a token table at `start`, right behind it.
    fn index_of(bytes: &[u8], start: usize, digits: usize) -> Option<usize> {
        let mut offsets = Vec::with_capacity(256);
        let mut at = start;
        for _ in 0..256 {
            offsets.push(u16::try_from(at - start).ok()?);
            at += memchr::memchr(0, bytes.get(at..)?)? + 1;
        }
        (usize::from(offsets[usize::from(b'0')]) == digits - start).then_some(())?;
        (at..at + 16).find(|index| {
            let Some(found) = bytes.get(*index..index + 512) else { return false };
            found.chunks_exact(2).zip(&offsets).all(|(b, offset)| u16::from_le_bytes([b[0], b[1]]) == *offset)
        })
    }

    /// Decodes all symbols.
    fn symbols(&self, bytes: &[u8], address: u64) -> Result<Vec<KernelSymbol>> {
        let mut names: Vec<(u8, String)> = Vec::with_capacity(self.count);
        let mut at = self.names;
        // Packed names are about half as long as plain ones; tables that only look like it could unpack to gigabytes.
        let mut left = bytes.len().saturating_mul(4);
        for _ in 0..self.count {
            let (length, head) = name_length(&bytes[at..]).context("truncated names")?;
            let packed = bytes.get(at + head..at + head + length).context("truncated names")?;
            let tokens = packed.iter().map(|b| self.tokens[usize::from(*b)].len());
            left = left.checked_sub(tokens.sum()).context("names longer than the image")?;
            let text: Vec<u8> = packed.iter().flat_map(|b| self.tokens[usize::from(*b)].iter().copied()).collect();
            let (letter, name) = text.split_first().context("an empty name")?;
            names.push((*letter, String::from_utf8(name.to_vec()).context("a name that is no text")?));
            at += head + length;
        }
        let addresses = self.addresses(bytes, address, &names)?;
        Ok(names.iter().zip(addresses).map(|((letter, name), address)| from_letter(name, address, *letter)).collect())
    }

    fn addresses(&self, bytes: &[u8], segment: u64, names: &[(u8, String)]) -> Result<Vec<u64>> {
        let word = |at: usize| Some(i32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let offsets = |start: usize| (0..self.count).map(|i| word(start + 4 * i)).collect::<Option<Vec<i32>>>();
        let size = 4 * self.count;
        // Alignment between the tables is 4, or 8 in kernels that keep 64-bit values there.
        let behind = (0..4).map(|pad| align_up(self.end, 4) + 4 * pad);
        let before = (0..6).filter_map(|pad| self.start.checked_sub(size + 8 + 4 * pad));
        let mut answers: Vec<Vec<u64>> = Vec::new();
        for start in behind.chain(before) {
            let Some(offsets) = offsets(start) else { continue };
            let places: Vec<u64> = offsets
                .iter()
                .zip(0..)
                .map(|(offset, i)| segment.wrapping_add(start as u64 + 4 * i).wrapping_add_signed(i64::from(*offset)))
                .collect();
            answers.push(places);
            for base in [align_up(start + size, 8), align_up(start + size, 4)] {
                let Some(base) = long(base) else { continue };
                answers.push(offsets.iter().map(|o| base.wrapping_add(u64::from(*o as u32))).collect());
                // kernel/kallsyms.c kallsyms_sym_address, CONFIG_KALLSYMS_ABSOLUTE_PERCPU.
                let percpu =
                    |o: &i32| if *o >= 0 { *o as u64 } else { base.wrapping_sub(1).wrapping_sub(i64::from(*o) as u64) };
                answers.push(offsets.iter().map(percpu).collect());
            }
        }
        let text = names.iter().position(|(_, name)| name == "_text" || name == "_stext").context("no `_text`")?;
        let fits = |list: &Vec<u64>| list.is_sorted() && list[text] >> 63 == 1 && (list[text] & 0xfff) == 0;
        answers.into_iter().find(fits).context("no list of addresses fits the names")
    }
}

/// `kallsyms_names` and `kallsyms_num_syms`, from the end of the markers that lie behind the names.
///
/// Markers are walked backwards to the 0 they start with; then the number of names is one that has this many
/// markers and is stored before names that run exactly up to the markers.
fn find_names(bytes: &[u8], markers_end: usize) -> Result<(usize, usize)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    for pad in 0..8 {
        let Some(end) = markers_end.checked_sub(pad).filter(|end| end % 4 == 0) else { continue };
        let mut at = end;
        let mut next = u32::MAX;
        while let Some(value) = at.checked_sub(4).and_then(word) {
            if value >= next {
                break;
            }
            (at, next) = (at - 4, value);
            if value == 0 {
                break;
            }
        }
        let markers = (end - at) / 4;
        if next != 0 || markers < 2 {
            continue;
        }
        if let Some(found) = names_before(bytes, at, markers, word(end - 4).unwrap_or(0) as usize) {
            return Ok(found);
        }
    }
    behind_seqs(bytes, markers_end).context("no names before the token table")
}

/// The same where `kallsyms_seqs_of_names` lies between the markers and `end`: as long as its number of symbols says, which has to be
/// the one stored before the names.
fn behind_seqs(bytes: &[u8], end: usize) -> Option<(usize, usize)> {
    const SEQ: usize = 3;
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    // A symbol takes some bytes of names, and all lie before this.
    (256..end / (2 * SEQ)).find_map(|count| {
        let markers = count.div_ceil(256);
        let seqs = end.checked_sub(SEQ * count)?;
        // Either table is aligned to 4 or 8.
        (0..8).map(|pad| seqs - pad.min(seqs)).filter(|at| at % 4 == 0).flat_map(|at| [at, at - 4.min(at)]).find_map(
            |markers_end| {
                let at = markers_end.checked_sub(4 * markers)?;
                let list = || (0..markers).map_while(|i| word(at + 4 * i));
                let is_list = word(at)? == 0 && list().is_sorted_by(|a, b| a < b);
                let last = list().last().filter(|_| is_list)?;
                names_before(bytes, at, markers, last as usize).filter(|(_, stored)| *stored == count)
            },
        )
    })
}

/// The start and number of names that end at `markers_at`, where the last marker is `last` bytes into them.
fn names_before(bytes: &[u8], markers_at: usize, markers: usize, last: usize) -> Option<(usize, usize)> {
    // Up to 256 names of up to some hundred bytes follow the last marker.
    let furthest = markers_at.checked_sub(last)?;
    let nearest = furthest.saturating_sub(256 * 600);
    (nearest..=furthest).rev().filter(|names| names % 4 == 0).find_map(|names| {
        // The number lies right before the names, or 4 further when both are aligned to 8.
        [4, 8].iter().find_map(|back| {
            let at = names.checked_sub(*back)?;
            let count = u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize;
            if count.div_ceil(256) != markers {
                return None;
            }
            let mut at = names + last;
            for _ in 0..count - 256 * (markers - 1) {
                let (length, head) = name_length(bytes.get(at..markers_at)?)?;
                at += length + head;
            }
            (at <= markers_at && markers_at - at < 8).then_some((names, count))
        })
    })
}

/// Length of a packed name and of the length itself: one byte, or two when the first has its high bit set (6.1).
fn name_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let (length, head) = match bytes {
        [first, second, ..] if first & 0x80 != 0 => (usize::from(first & 0x7f) | usize::from(*second) << 7, 2),
        [first, ..] => (usize::from(*first), 1),
        [] => return None,
    };
    (length > 0).then_some((length, head))
}

fn align_up(value: usize, to: usize) -> usize {
    value.div_ceil(to) * to
}

fn align_down(value: usize, to: usize) -> usize {
    value / to * to
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xffff_ffff_8100_0000;

    /// Where a made-up image keeps its offsets, after the kernels that do so.
    #[derive(Clone, Copy, PartialEq)]
    enum Layout {
        /// Before the names, base behind them, per-cpu symbols absolute.
        Linux5,
        /// As before, and the order of the names between the markers and the token table (6.2, 6.1.192).
        Linux62,
        /// Behind the token index, base behind them, per-cpu symbols absolute.
        Linux6,
        /// Behind the token index, relative to their own places.
        Linux7,
    }

    /// `_text`, then 300 functions, two of one name; with per-cpu symbols, one at 0 before them.
    fn symbols(layout: Layout) -> Vec<(String, u64)> {
        let mut list = vec![("T_text".to_owned(), BASE)];
        if layout != Layout::Linux7 {
            list.insert(0, ("Apercpu".to_owned(), 0));
        }
        list.extend((1..=300u64).map(|i| {
            let name = if i % 150 == 0 { "tshow".to_owned() } else { format!("tfunction_{i}") };
            (name, BASE + 16 * i)
        }));
        list.push((format!("t{}", "long".repeat(40)), BASE + 0x8000));
        list
    }

    /// A segment at `BASE` with the tables of these symbols, between other bytes.
    fn segment(layout: Layout) -> Vec<u8> {
        let list = symbols(layout);
        let align = |bytes: &mut Vec<u8>, to: usize| bytes.resize(bytes.len().div_ceil(to) * to, 0);
        let offsets = |at: usize| -> Vec<u8> {
            let percpu =
                |address: u64| if address < BASE { address as i32 } else { (BASE as i64 - 1 - address as i64) as i32 };
            let relative = |i: usize, address: u64| address.wrapping_sub(BASE + (at + 4 * i) as u64) as i32;
            list.iter()
                .enumerate()
                .flat_map(|(i, (_, a))| {
                    if layout == Layout::Linux7 { relative(i, *a) } else { percpu(*a) }.to_le_bytes()
                })
                .collect()
        };
        let mut out = vec![0xcc; 4096];
        let is_before = matches!(layout, Layout::Linux5 | Layout::Linux62);
        if is_before {
            out.extend(offsets(out.len()));
            align(&mut out, 8);
            out.extend(BASE.to_le_bytes());
        }
        out.extend((list.len() as u32).to_le_bytes());
        align(&mut out, if layout == Layout::Linux7 { 4 } else { 8 });
        let (names, mut markers) = (out.len(), Vec::new());
        for (i, (name, _)) in list.iter().enumerate() {
            if i % 256 == 0 {
                markers.extend(((out.len() - names) as u32).to_le_bytes());
            }
            // Token 1 stands for "tfunction_".
            let packed = name.replace("tfunction_", "\x01").into_bytes();
            match packed.len() {
                length @ ..0x80 => out.push(length as u8),
                length => out.extend([length as u8 & 0x7f | 0x80, (length >> 7) as u8]),
            }
            out.extend(packed);
        }
        align(&mut out, if layout == Layout::Linux7 { 4 } else { 8 });
        out.extend(markers);
        align(&mut out, if layout == Layout::Linux7 { 4 } else { 8 });
        if layout == Layout::Linux62 {
            out.extend((0..list.len() as u32).flat_map(|seq| seq.to_be_bytes()[1..].to_vec()));
            align(&mut out, 8);
        }
        let (tokens, mut index) = (out.len(), Vec::new());
        for c in 0..=255u8 {
            index.extend(((out.len() - tokens) as u16).to_le_bytes());
            match c {
                1 => out.extend(b"tfunction_"),
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' => out.push(c),
                _ => {}
            }
            out.push(0);
        }
        align(&mut out, if layout == Layout::Linux7 { 4 } else { 8 });
        out.extend(index);
        if !is_before {
            align(&mut out, 4);
            out.extend(offsets(out.len()));
            if layout == Layout::Linux6 {
                align(&mut out, 8);
                out.extend(BASE.to_le_bytes());
            }
        }
        out.extend([0xcc; 4096]);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Vec<KernelSymbol>> {
        let at = memmem::find(bytes, b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0").context("no digits")?;
        Tables::find(bytes, at)?.context("no tables")?.symbols(bytes, BASE)
    }

    /// Every layout gives every name, address and letter, or positions in a stock kernel are wrong.
    #[test]
    fn layouts() {
        for layout in [Layout::Linux5, Layout::Linux62, Layout::Linux6, Layout::Linux7] {
            let found = decode(&segment(layout)).unwrap();
            let expected = symbols(layout);
            assert_eq!(found.len(), expected.len());
            for (found, (name, address)) in found.iter().zip(expected) {
                assert_eq!((found.name.as_str(), found.address), (&name[1..], address));
            }
            assert_eq!(table(found).named("show").len(), 2);
        }
    }

    /// Damaged addresses give no table rather than a wrong one.
    #[test]
    fn damaged() {
        let mut bytes = segment(Layout::Linux7);
        let end = bytes.len() - 4096;
        bytes[end - 4..end].copy_from_slice(&i32::MIN.to_le_bytes());
        assert!(decode(&bytes).is_err());
        bytes.truncate(6000);
        assert!(decode(&bytes).is_err());
    }
}

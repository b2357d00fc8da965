// SPDX-License-Identifier: GPL-2.0-only
//! Livepatch symbol and section names, and positions among equal names.
//!
//! In: the names of Documentation/livepatch/module-elf-format.rst and the addresses a symbol table yields for a name. Out:
//! their parts, and the one address meant. Hard because both come from files: lengths are limited as the module loader
//! limits them, and a position that does not exist must not fall back to one that does.

/// The parts of `.klp.sym.OBJECT.NAME,POSITION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolName<'a> {
    /// The object the symbol is in; `vmlinux` for the kernel.
    pub object: &'a [u8],
    /// Its name there.
    pub name: &'a [u8],
    /// Its position, 0 when it must be the only one.
    pub position: usize,
}

/// Longest object name, without the terminating zero (the smallest MODULE_NAME_LEN of all architectures).
const OBJECT_MAX: usize = 55;
/// Longest symbol name, without the terminating zero.
const NAME_MAX: usize = 511;

/// Splits at the first `separator`; the head must not be empty or longer than `max`.
fn split(bytes: &[u8], separator: u8, max: usize) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&b| b == separator)?;
    let (head, rest) = bytes.split_at_checked(at)?;
    (!head.is_empty() && head.len() <= max).then_some((head, rest.get(1..)?))
}

/// The parts of a livepatch symbol's name.
pub fn parse_symbol(bytes: &[u8]) -> Option<SymbolName<'_>> {
    let (object, rest) = split(bytes.strip_prefix(b".klp.sym.")?, b'.', OBJECT_MAX)?;
    let (name, digits) = split(rest, b',', NAME_MAX)?;
    if digits.is_empty() {
        return None;
    }
    let position = digits.iter().try_fold(0usize, |n, &b| {
        let digit = b.is_ascii_digit().then(|| usize::from(b.wrapping_sub(b'0')))?;
        n.checked_mul(10)?.checked_add(digit)
    })?;
    Some(SymbolName { object, name, position })
}

/// The object of a livepatch relocation section's name, `.klp.rela.OBJECT.SECTION`.
pub fn parse_section(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(b".klp.rela.")?;
    let end = rest.iter().position(|&b| b == b'.').unwrap_or(rest.len());
    rest.get(..end).filter(|object| !object.is_empty() && object.len() <= OBJECT_MAX)
}

/// Why a symbol is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing has that name.
    Name,
    /// Several have, and none was asked for.
    Ambiguous,
    /// Fewer have it than the position says.
    Position,
}

/// Looks for the symbol at a position while a symbol table is walked.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    position: usize,
    seen: usize,
    address: usize,
}

impl Search {
    /// Looks for the only symbol (position 0) or the one at that position, from 1.
    pub fn new(position: usize) -> Self {
        Search { position, seen: 0, address: 0 }
    }

    /// Takes the next address of that name; true when the walk may stop.
    pub fn see(&mut self, address: usize) -> bool {
        self.address = address;
        self.seen = self.seen.wrapping_add(1);
        match self.position {
            0 => self.seen > 1,
            position => self.seen == position,
        }
    }

    /// The address, once the walk is over.
    pub fn found(&self) -> Result<usize, Missing> {
        match (self.position, self.seen) {
            _ if self.address == 0 => Err(Missing::Name),
            (0, 1) => Ok(self.address),
            (0, _) => Err(Missing::Ambiguous),
            (position, seen) if position == seen => Ok(self.address),
            _ => Err(Missing::Position),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Well-formed names split into their parts; a module's object may not hold a dot but a symbol may.
    #[test]
    fn symbols() {
        let name = parse_symbol(b".klp.sym.ext4.f.isra.0,3").unwrap();
        assert_eq!((name.object, name.name, name.position), (&b"ext4"[..], &b"f.isra.0"[..], 3));
        for bad in [
            "",
            ".klp.sym.",
            ".klp.sym.a",
            ".klp.sym.a.b",
            ".klp.sym.a.b,",
            ".klp.sym..b,0",
            ".klp.sym.a.,0",
            ".klp.sym.a.b,x",
        ] {
            assert_eq!(parse_symbol(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse_symbol(b".klp.sym.a.b,99999999999999999999999"), None);
    }

    /// Names longer than the loader's buffers are refused, not cut.
    #[test]
    fn lengths() {
        let name = |object: usize, symbol: usize| {
            let mut bytes = [b'x'; 700];
            bytes[..9].copy_from_slice(b".klp.sym.");
            bytes[9 + object] = b'.';
            bytes[10 + object + symbol] = b',';
            bytes[11 + object + symbol] = b'0';
            parse_symbol(&bytes[..12 + object + symbol]).is_some()
        };
        assert!(name(55, 511));
        assert!(!name(56, 511));
        assert!(!name(55, 512));
    }

    /// The object of a section ends at the first dot.
    #[test]
    fn sections() {
        assert_eq!(parse_section(b".klp.rela.vmlinux..text"), Some(&b"vmlinux"[..]));
        assert_eq!(parse_section(b".klp.rela..text"), None);
        assert_eq!(parse_section(b".rela.text"), None);
    }

    /// Position 0 wants exactly one, position n the n-th, and neither settles for another.
    #[test]
    fn positions() {
        let search = |position, addresses: &[usize]| {
            let mut search = Search::new(position);
            let _ = addresses.iter().any(|&a| search.see(a));
            search.found()
        };
        assert_eq!(search(0, &[]), Err(Missing::Name));
        assert_eq!(search(0, &[8]), Ok(8));
        assert_eq!(search(0, &[8, 9]), Err(Missing::Ambiguous));
        assert_eq!(search(1, &[8, 9]), Ok(8));
        assert_eq!(search(2, &[8, 9, 10]), Ok(9));
        assert_eq!(search(3, &[8, 9]), Err(Missing::Position));
    }
}

//! A file before preprocessing, cut into what stands at file scope.
//!
//! In: a header's text. Out: its directives and items in order. Hard because a directive can stand inside of an item, where it
//! decides what the item is: it leaves a mark there, so that texts are the same only if it stands at the same place.

use std::ops::Range;

use super::items::{Kind, cut};
use super::plain::{literal_end, plain};
use super::tokens::fold;

/// What stands at file scope, in the order of the file.
#[derive(Debug)]
pub(super) enum Piece<'t> {
    /// A directive, in one line.
    Directive { start: usize, text: &'t [u8] },
    /// An item, and the directives in it; [`MARK`] stands in its text for each.
    Item { start: usize, text: &'t [u8], kind: Kind<'t>, inside: Vec<&'t [u8]> },
}

impl Piece<'_> {
    /// Where it stands in the text of logical lines.
    fn place(&self) -> Range<usize> {
        let (Piece::Directive { start, text } | Piece::Item { start, text, .. }) = self;
        *start..*start + text.len()
    }
}

/// Stands for a directive.
pub(super) const MARK: u8 = 1;
/// Stands behind an `inline` that was written `__always_inline`.
const ALWAYS: u8 = 2;

/// A file in logical lines, without comments, and with its directives apart.
pub(super) struct Masked {
    /// The text as it was, in logical lines.
    whole: Vec<u8>,
    /// With a mark for each directive.
    code: Vec<u8>,
    /// Directives, and where each starts.
    directives: Vec<(usize, Vec<u8>)>,
}

impl Masked {
    pub(super) fn new(text: &[u8]) -> Masked {
        let whole = plain(text);
        let mut code = whole.clone();
        let mut directives = Vec::new();
        let mut at = 0;
        while at < code.len() {
            let first = code[at..].iter().position(|b| !matches!(b, b' ' | b'\t')).map_or(code.len(), |i| at + i);
            let end = memchr::memchr(b'\n', &code[at..]).map_or(code.len(), |length| at + length + 1);
            if code.get(first) == Some(&b'#') {
                directives.push((first, code[first..end].trim_ascii_end().to_vec()));
                code[at..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
                code[first] = MARK;
            }
            at = end;
        }
        inline_words(&mut code);
        Masked { whole, code, directives }
    }

    pub(super) fn pieces(&self) -> Vec<Piece<'_>> {
        let mut out = Vec::new();
        let mut directives = self.directives.iter().peekable();
        for item in cut(&self.code) {
            let is_before = |byte: &u8| byte.is_ascii_whitespace() || *byte == MARK;
            let blanks = item.text.iter().take_while(|byte| is_before(byte)).count();
            let (start, end) = (item.start + blanks, item.start + item.text.len());
            while let Some((start, text)) = directives.next_if(|(at, _)| *at < start) {
                out.push(Piece::Directive { start: *start, text });
            }
            let text = item.text[blanks..].trim_ascii();
            if text.is_empty() {
                continue;
            }
            let mut inside = Vec::new();
            while let Some((_, text)) = directives.next_if(|(at, _)| *at < end) {
                inside.push(text.as_slice());
            }
            out.push(Piece::Item { start, text, kind: item.kind, inside });
        }
        out.extend(directives.map(|(start, text)| Piece::Directive { start: *start, text }));
        out
    }

    /// The text with nothing where these pieces stood.
    pub(super) fn without<'p>(&self, pieces: impl Iterator<Item = &'p Piece<'p>>) -> Vec<u8> {
        let mut text = self.whole.clone();
        for piece in pieces {
            text[piece.place()].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        }
        text
    }
}

/// The kernel's other name for `inline` (include/linux/compiler_types.h), replaced in place, with a mark behind it: it does not mean
/// quite the same.
fn inline_words(code: &mut [u8]) {
    const NAME: &[u8] = b"__always_inline";
    let found: Vec<usize> = memchr::memmem::find_iter(code, NAME).collect();
    for at in found {
        code[at..at + NAME.len()].fill(b' ');
        code[at..at + 6].copy_from_slice(b"inline");
        code[at + 6] = ALWAYS;
    }
}

/// The same tokens: comments have become blanks, and blanks count in literals only.
pub(super) fn same(one: &[u8], other: &[u8]) -> bool {
    one == other || fold(one) == fold(other)
}

/// Whether all brackets are closed, in order of their kinds.
pub(super) fn is_balanced(text: &[u8]) -> bool {
    let mut open = Vec::new();
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' | b'\'' => match literal_end(text, at) {
                Some(end) => at = end - 1,
                None => return false,
            },
            bracket @ (b'(' | b'[' | b'{') => open.push(bracket),
            b')' if open.pop() != Some(b'(') => return false,
            b']' if open.pop() != Some(b'[') => return false,
            b'}' if open.pop() != Some(b'{') => return false,
            _ => {}
        }
        at += 1;
    }
    open.is_empty()
}

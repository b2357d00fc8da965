//! Can a unit see the difference? Two token streams that differ only in `static inline` functions it never uses
//! compile to the same code.
//!
//! In: both folded streams. Out: whether nothing but unused inline functions differs. This settles most of
//! a header's fan-out without compiling: an edited inline function in `net/sock.h` reaches 188 units of a
//! small kernel, and ten of them call it. Hard because C has no item syntax: the stream is cut at file
//! scope, and whatever is not clearly a `static inline` function counts as code that is emitted.

use std::collections::{BTreeMap, BTreeSet};

use memchr::memmem;

/// Whether the streams differ only in `static inline` functions that no emitted code refers to.
pub(super) fn only_unused_inlines_differ(original: &[u8], patched: &[u8]) -> bool {
    let (a, b) = (Stream::new(original), Stream::new(patched));
    // Everything that may be emitted must be the same, in the same order.
    if !a.emitted().eq(b.emitted()) {
        return false;
    }
    let (inline_a, inline_b) = (a.inlines(), b.inlines());
    let names: BTreeSet<&[u8]> = inline_a.keys().chain(inline_b.keys()).copied().collect();
    let mut open: Vec<&[u8]> = names.into_iter().filter(|name| inline_a.get(name) != inline_b.get(name)).collect();
    let mut dirty: BTreeSet<&[u8]> = open.iter().copied().collect();
    while let Some(name) = open.pop() {
        for stream in [&a, &b] {
            for item in stream.users(name) {
                match item.kind {
                    Kind::Inline(user) => {
                        if dirty.insert(user) {
                            open.push(user);
                        }
                    }
                    Kind::Declaration => {}
                    Kind::Emitted => return false,
                }
            }
        }
    }
    true
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind<'t> {
    /// A `static inline` function of this name, with a body.
    Inline(&'t [u8]),
    /// A declaration of such a function.
    Declaration,
    /// Anything else.
    Emitted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item<'t> {
    start: usize,
    pub(super) text: &'t [u8],
    kind: Kind<'t>,
}

struct Stream<'t> {
    text: &'t [u8],
    items: Vec<Item<'t>>,
}

impl<'t> Stream<'t> {
    fn new(text: &'t [u8]) -> Stream<'t> {
        Stream { text, items: cut(text) }
    }

    fn emitted(&self) -> impl Iterator<Item = &'t [u8]> + '_ {
        self.items.iter().filter(|item| item.kind == Kind::Emitted).map(|item| item.text)
    }

    fn inlines(&self) -> BTreeMap<&'t [u8], Vec<&'t [u8]>> {
        let mut map: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
        for item in &self.items {
            if let Kind::Inline(name) = item.kind {
                map.entry(name).or_default().push(item.text);
            }
        }
        map
    }

    /// Items that have `name` as a word, the function's own definition left out.
    fn users(&self, name: &'t [u8]) -> impl Iterator<Item = &Item<'t>> {
        memmem::find_iter(self.text, name).filter_map(move |at| {
            let before = at.checked_sub(1).map(|i| self.text[i]);
            let after = self.text.get(at + name.len()).copied();
            if before.is_some_and(is_word) || after.is_some_and(is_word) {
                return None;
            }
            let index = self.items.partition_point(|item| item.start <= at).checked_sub(1)?;
            Some(&self.items[index]).filter(|item| item.kind != Kind::Inline(name))
        })
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// Cuts a stream into what stands at file scope: up to a `;`, or to the end of a function's body.
pub(super) fn cut(text: &[u8]) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    let (mut start, mut at) = (0, 0);
    let (mut parens, mut braces) = (0usize, 0usize);
    // Whether the brace that is open at file scope is a function's body.
    let (mut body, mut assigned) = (false, false);
    let mut last = b';';
    while at < text.len() {
        let byte = text[at];
        if byte == b'"' || byte == b'\'' {
            at = literal(text, at);
            last = byte;
            continue;
        }
        at += 1;
        match byte {
            b'(' | b'[' => parens += 1,
            b')' | b']' => parens = parens.saturating_sub(1),
            b'{' => {
                if braces == 0 && parens == 0 {
                    body = last == b')' && !assigned;
                }
                braces += 1;
            }
            b'}' => braces = braces.saturating_sub(1),
            b'=' if braces == 0 && parens == 0 => assigned = true,
            _ => {}
        }
        let at_scope = braces == 0 && parens == 0;
        if at_scope && (byte == b';' || (byte == b'}' && body)) {
            items.push(item(text, start, at, byte == b'}'));
            start = at;
            (body, assigned) = (false, false);
        }
        if byte != b' ' && byte != b'\n' {
            last = byte;
        }
    }
    if start < text.len() {
        items.push(Item { start, text: &text[start..], kind: Kind::Emitted });
    }
    items
}

/// Where the body of a function starts, if the item is one. A type whose attributes stand before its brace is not.
pub(super) fn body_start(item: &[u8]) -> Option<usize> {
    let (mut at, mut parens) = (0, 0usize);
    let mut last: &[u8] = b"";
    // The word before the parentheses that were closed last.
    let mut before: &[u8] = b"";
    let mut closed = false;
    while at < item.len() {
        let byte = item[at];
        if byte == b'"' || byte == b'\'' {
            at = literal(item, at);
        } else if is_word(byte) {
            let end = at + item[at..].iter().position(|b| !is_word(*b)).unwrap_or(item.len() - at);
            if parens == 0 {
                (last, closed) = (&item[at..end], false);
            }
            at = end;
        } else {
            match byte {
                b'(' | b'[' => {
                    if parens == 0 && !closed {
                        before = last;
                    }
                    parens += 1;
                }
                b')' | b']' => {
                    parens = parens.saturating_sub(1);
                    closed = parens == 0;
                }
                b'=' | b';' if parens == 0 => return None,
                b'{' if parens == 0 => {
                    return (closed && before != b"__attribute__" && before != b"__attribute").then_some(at);
                }
                _ => {}
            }
            at += 1;
        }
    }
    None
}

fn literal(text: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < text.len() {
        match text[end] {
            b'\\' => end += 2,
            b'\n' => return end,
            byte if byte == text[at] => return end + 1,
            _ => end += 1,
        }
    }
    text.len()
}

fn item(text: &[u8], start: usize, end: usize, body: bool) -> Item<'_> {
    let whole = &text[start..end];
    let name = inline_name(whole);
    let kind = match name {
        Some(name) if body => Kind::Inline(name),
        Some(_) if !whole.contains(&b'=') && !whole.contains(&b'{') => Kind::Declaration,
        _ => Kind::Emitted,
    };
    Item { start, text: whole, kind }
}

/// The name of a `static inline` function: the word before the parameters. Anything unusual gives none.
fn inline_name(item: &[u8]) -> Option<&[u8]> {
    let (mut is_static, mut is_inline) = (false, false);
    let mut name: Option<&[u8]> = None;
    let mut at = 0;
    while at < item.len() {
        let byte = item[at];
        if is_word(byte) {
            let end = at + item[at..].iter().position(|b| !is_word(*b)).unwrap_or(item.len() - at);
            let word = &item[at..end];
            at = end;
            match word {
                b"static" => is_static = true,
                b"inline" | b"__inline" | b"__inline__" => is_inline = true,
                b"__attribute__" | b"__attribute" | b"__typeof__" | b"typeof" | b"_Alignas" => {
                    let group = parenthesised(item, at)?;
                    // An inline function that must be kept is emitted.
                    let text = &item[at..group];
                    if memmem::find(text, b"used").is_some() && memmem::find(text, b"unused").is_none() {
                        return None;
                    }
                    at = group;
                }
                b"asm" | b"__asm__" => return None,
                _ => name = Some(word),
            }
            continue;
        }
        match byte {
            b'(' => return name.filter(|_| is_static && is_inline),
            b'{' | b'=' | b'"' | b'#' => return None,
            _ => at += 1,
        }
    }
    None
}

/// Where the parenthesised group ends that starts at or after `at`.
fn parenthesised(item: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0;
    for (i, byte) in item.iter().enumerate().skip(at) {
        match byte {
            b'(' => depth += 1,
            b')' => {
                depth -= 1;
                if depth == 0 {
                    return Some(i + 1);
                }
            }
            b' ' => {}
            _ if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "static inline __attribute__((__unused__)) int f(int a){return a;}";
    const NEW: &str = "static inline __attribute__((__unused__)) int f(int a){return a+1;}";

    fn blind(before: &str, after: &str) -> bool {
        only_unused_inlines_differ(before.as_bytes(), after.as_bytes())
    }

    fn around(rest: &str) -> bool {
        blind(&format!("struct s{{int x;}};{OLD}{rest}"), &format!("struct s{{int x;}};{NEW}{rest}"))
    }

    /// A unit that never names the function cannot see its change, nor one where only unused inlines name it.
    #[test]
    fn unused() {
        assert!(around("int g(void){return 0;}"));
        assert!(around("static inline int h(void){return f(1);}int g(void){return 0;}"));
        assert!(around("int ff(void){return 0;}int f2=3;"));
        assert!(blind(
            &format!("static inline int f(int);{OLD}int g;"),
            &format!("static inline int f(int);{NEW}int g;")
        ));
    }

    /// Every way to use the function counts: calls, chains, addresses, tables, assembly, attributes.
    #[test]
    fn used() {
        for rest in [
            "int g(void){return f(1);}",
            "static int g(void){return f(1);}",
            "static inline int h(void){return f(1);}int g(void){return h();}",
            "static inline int h(void){return f(1);}static inline int i(void){return h();}int(*p)(void)=i;",
            "int(*p)(int)=f;",
            "struct t{int(*p)(int);}t={.p=f};",
            "asm(\"call f\");",
            "static inline __attribute__((__used__)) int g(void){return f(1);}",
        ] {
            assert!(!around(rest), "{rest}");
        }
    }

    /// Anything else that differs counts, however small, and so does the order of what is emitted.
    #[test]
    fn other_changes() {
        for (before, after) in [
            ("int a;", "int b;"),
            ("int a;int b;", "int b;int a;"),
            ("struct s{int x;};", "struct s{long x;};"),
            ("int g(void){return 1;}", "int g(void){return 2;}"),
            ("static int g(void){return 1;}", "static int g(void){return 2;}"),
            ("inline int g(void){return 1;}", "inline int g(void){return 2;}"),
            ("", "int x;"),
        ] {
            assert!(!blind(before, after), "{before} / {after}");
        }
    }
}

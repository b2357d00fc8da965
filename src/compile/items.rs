//! Preprocessed C, cut into what stands at file scope.
//!
//! In: a folded stream ([`super::tokens`]). Out: its items in order, each with its text. Hard because C has no item syntax:
//! an item ends at a `;`, or at the end of a function's body, and whatever is not clearly a `static inline`
//! function counts as code that is emitted.

use memchr::memmem;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'t> {
    /// A `static inline` function of this name, with a body.
    Inline(&'t [u8]),
    /// A declaration of such a function.
    Declaration(&'t [u8]),
    /// A plain prototype of any other function, or an `extern` declaration of a variable.
    Prototype(&'t [u8]),
    /// Anything else.
    Emitted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item<'t> {
    pub(super) start: usize,
    pub(super) text: &'t [u8],
    pub(super) kind: Kind<'t>,
}

pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// All words of a text, those in literals included: assembly names functions there. An escape is part of no word.
pub(super) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < text.len() && !is_word(text[at]) {
            at += if text[at] == b'\\' { escape(&text[at..]) } else { 1 };
        }
        let start = at.min(text.len());
        at = start + text[start..].iter().position(|b| !is_word(*b)).unwrap_or(text.len() - start);
        (start < at).then(|| &text[start..at])
    })
}

/// How long the escape is that a text begins with: `\t`, `\011`, `\x9`.
fn escape(text: &[u8]) -> usize {
    let digits = |from: usize, is: fn(&u8) -> bool| text.iter().skip(from).take_while(|byte| is(byte)).count();
    match text.get(1) {
        Some(b'x') => 2 + digits(2, u8::is_ascii_hexdigit),
        Some(b'0'..=b'7') => 1 + digits(1, |byte| matches!(byte, b'0'..=b'7')).min(3),
        _ => 2,
    }
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
        Some(name) if !whole.iter().any(|byte| b"={\"".contains(byte)) && !is_kept(whole) => Kind::Declaration(name),
        None if !body => prototype(whole).map_or(Kind::Emitted, Kind::Prototype),
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
                    if words(&item[at..group]).any(keeps) {
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
            // `[[gnu::used]]` is as good as an attribute, and rare.
            b'{' | b'=' | b'"' | b'#' | b'[' => return None,
            _ => at += 1,
        }
    }
    None
}

/// Whether an attribute keeps a function that nothing refers to.
fn keeps(attribute: &[u8]) -> bool {
    let plain = attribute.strip_prefix(b"__").and_then(|name| name.strip_suffix(b"__")).unwrap_or(attribute);
    matches!(plain, b"used" | b"retain" | b"constructor" | b"destructor" | b"externally_visible")
}

/// Whether an item has such an attribute, wherever it stands.
fn is_kept(item: &[u8]) -> bool {
    memmem::find_iter(item, b"__attribute").any(|at| {
        let open = at + item[at..].iter().position(|byte| !is_word(*byte)).unwrap_or(item.len() - at);
        parenthesised(item, open).is_none_or(|end| words(&item[open..end]).any(keeps))
    })
}

/// The name of a function, or of an `extern` variable, that the item declares, and does nothing else. Anything unusual gives
/// none: a string (`alias("g")` defines), a declarator in parentheses, several declarators, names that compilers call unasked.
fn prototype(item: &[u8]) -> Option<&[u8]> {
    const UNASKED: [&[u8]; 5] = [b"memcpy", b"memmove", b"memset", b"memcmp", b"strlen"];
    let declaration = item.strip_suffix(b";")?;
    if declaration.iter().any(|byte| matches!(byte, b'{' | b'}' | b'=' | b';' | b'"' | b'\'' | b'#')) {
        return None;
    }
    let mut names: Vec<&[u8]> = Vec::new();
    let mut at = 0;
    while at < declaration.len() {
        let byte = declaration[at];
        if is_word(byte) {
            let end = at + declaration[at..].iter().position(|b| !is_word(*b)).unwrap_or(declaration.len() - at);
            let word = &declaration[at..end];
            at = end;
            match word {
                b"__attribute__" | b"__attribute" => at = parenthesised(declaration, at)?,
                b"typedef" | b"asm" | b"__asm__" | b"typeof" | b"__typeof__" | b"_Alignas" | b"_Static_assert" => {
                    return None;
                }
                _ => names.push(word),
            }
            continue;
        }
        if matches!(byte, b'(' | b'[') {
            break;
        }
        if byte != b' ' && byte != b'*' && byte != b'\n' {
            return None;
        }
        at += 1;
    }
    let [first, .., name] = names.as_slice() else { return None };
    // `extern struct s (f)` declares f.
    if is_tag(names[names.len() - 2]) || is_builtin(name) {
        return None;
    }
    let mut rest = match declaration[at..].strip_prefix(b"(") {
        Some(inside) if matches!(inside.trim_ascii_start().first(), Some(b'*' | b'(')) => return None,
        Some(_) if UNASKED.contains(name) => return None,
        Some(_) => &declaration[parenthesised(declaration, at)?..],
        None if *first != b"extern" || names.len() < 3 => return None,
        None => &declaration[at + dimensions(&declaration[at..])?..],
    };
    // Nothing but attributes may follow.
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some(name);
        }
        let attribute = rest.strip_prefix(b"__attribute__").or_else(|| rest.strip_prefix(b"__attribute"))?;
        rest = &attribute[parenthesised(attribute, 0)?..];
    }
}

/// Whether the next word names a type.
pub(super) fn is_tag(word: &[u8]) -> bool {
    matches!(word, b"struct" | b"union" | b"enum")
}

/// Whether a word is part of a type, whatever it is declared for.
pub(super) fn is_builtin(word: &[u8]) -> bool {
    const TYPES: [&[u8]; 19] = [
        b"void",
        b"int",
        b"char",
        b"short",
        b"long",
        b"float",
        b"double",
        b"unsigned",
        b"signed",
        b"__signed__",
        b"__int128",
        b"bool",
        b"_Bool",
        b"const",
        b"volatile",
        b"restrict",
        b"extern",
        b"static",
        b"inline",
    ];
    TYPES.contains(&word)
}

/// How long the array dimensions are that a text begins with, if any.
fn dimensions(text: &[u8]) -> Option<usize> {
    let mut depth = 0usize;
    let end = text.iter().position(|byte| {
        match byte {
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && !matches!(byte, b'[' | b']' | b' ' | b'\n')
    });
    let length = end.unwrap_or(text.len());
    (depth == 0).then_some(length)
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

    /// Escapes are of any length, and no part of what follows.
    #[test]
    fn escapes_end_words() {
        let of = |text: &str| words(text.as_bytes()).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let all: Vec<String> = of("\"a\\tb\\011c\\0111d\\x9g\\\\h\\\"i\\8\"");
        assert_eq!(all, ["a", "b", "c", "1d", "g", "h", "i"]);
    }
}

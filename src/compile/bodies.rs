//! Does a patch change nothing of a header but bodies of `static inline` functions?
//!
//! In: a header before and after, not preprocessed. Out: the functions, with the words of their new bodies; or nothing, when
//! anything else differs. Then a unit that uses none of them is settled without a look at its patched side.
//! Hard because the text has directives in it: a function that one stands in is never taken, and
//! directives and the other items must be the same, in the same order.

use std::collections::{BTreeMap, BTreeSet};

use super::items::{Kind, body_start, cut, words};

/// Function -> the words of its new body.
pub(super) type Bodies = BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>;

/// The functions whose bodies are all that differs; `None` when something else does.
pub(super) fn changed_bodies(original: &[u8], patched: &[u8]) -> Option<Bodies> {
    let (a, b) = (Masked::new(original), Masked::new(patched));
    let (old, new) = (a.pieces(), b.pieces());
    if old.len() != new.len() {
        return None;
    }
    let mut bodies = Bodies::new();
    for (old, new) in old.iter().zip(&new) {
        match (old, new) {
            (Piece::Directive(one), Piece::Directive(other)) if one == other => {}
            (Piece::Item { text: one, .. }, Piece::Item { text: other, .. }) if same(one, other) => {}
            (
                Piece::Item { text: one, kind: Kind::Inline(name), torn: false },
                Piece::Item { text: other, kind: Kind::Inline(renamed), torn: false },
            ) if name == renamed => {
                let (head, body) = one.split_at(body_start(one)?);
                let (other_head, other_body) = other.split_at(body_start(other)?);
                if head != other_head || !is_balanced(body) || !is_balanced(other_body) {
                    return None;
                }
                bodies.entry(name.to_vec()).or_default().extend(words(other_body).map(<[u8]>::to_vec));
            }
            _ => return None,
        }
    }
    Some(bodies)
}

/// Whether all brackets are closed, in order of their kinds.
pub(super) fn is_balanced(text: &[u8]) -> bool {
    let mut open = Vec::new();
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            quote @ (b'"' | b'\'') => match literal_end(text, at, quote) {
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

/// One past the literal that starts at `at`.
fn literal_end(text: &[u8], at: usize, quote: u8) -> Option<usize> {
    let mut end = at + 1;
    while end < text.len() {
        match text[end] {
            b'\\' => end += 2,
            b'\n' => return None,
            byte if byte == quote => return Some(end + 1),
            _ => end += 1,
        }
    }
    None
}

/// The same but for layout between tokens that stand on lines of their own: comments have become blanks.
fn same(one: &[u8], other: &[u8]) -> bool {
    let tokens = |text: &[u8]| -> Vec<Vec<u8>> {
        text.split(|byte| byte.is_ascii_whitespace()).filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
    };
    one == other || tokens(one) == tokens(other)
}

/// What stands at file scope, in the order of the file.
enum Piece<'t> {
    /// A directive, with the lines it goes on in.
    Directive(&'t [u8]),
    /// An item; torn when a directive stands in it.
    Item { text: &'t [u8], kind: Kind<'t>, torn: bool },
}

/// A file with its comments blanked, and its directives apart.
struct Masked {
    /// Without directives.
    code: Vec<u8>,
    /// Directives, and where each starts.
    directives: Vec<(usize, Vec<u8>)>,
}

impl Masked {
    fn new(text: &[u8]) -> Masked {
        let mut code = without_comments(text);
        let mut directives = Vec::new();
        let mut at = 0;
        while at < code.len() {
            let first = code[at..].iter().position(|b| !matches!(b, b' ' | b'\t')).map_or(code.len(), |i| at + i);
            let is_directive = code.get(first) == Some(&b'#');
            let mut end = at;
            loop {
                end = code[end..].iter().position(|b| *b == b'\n').map_or(code.len(), |i| end + i);
                let continued = code[at..end].trim_ascii_end().ends_with(b"\\");
                end = (end + 1).min(code.len());
                if !continued || !is_directive || end == code.len() {
                    break;
                }
            }
            if is_directive {
                directives.push((first, code[first..end].trim_ascii_end().to_vec()));
                code[at..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
            }
            at = end;
        }
        inline_words(&mut code);
        Masked { code, directives }
    }

    fn pieces(&self) -> Vec<Piece<'_>> {
        let mut out = Vec::new();
        let mut directives = self.directives.iter().peekable();
        for item in cut(&self.code) {
            let blanks = item.text.len() - item.text.trim_ascii_start().len();
            let (start, end) = (item.start + blanks, item.start + item.text.len());
            while let Some((_, text)) = directives.next_if(|(at, _)| *at < start) {
                out.push(Piece::Directive(text));
            }
            let mut inside = Vec::new();
            while let Some((_, text)) = directives.next_if(|(at, _)| *at < end) {
                inside.push(Piece::Directive(text));
            }
            out.push(Piece::Item { text: item.text.trim_ascii(), kind: item.kind, torn: !inside.is_empty() });
            out.extend(inside);
        }
        out.extend(directives.map(|(_, text)| Piece::Directive(text)));
        out
    }
}

/// The text with each comment blanked, line ends kept.
fn without_comments(text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    let mut at = 0;
    while at < out.len() {
        let end = match (out[at], out.get(at + 1)) {
            (quote @ (b'"' | b'\''), _) => {
                at = literal_end(&out, at, quote).unwrap_or(at + 1);
                continue;
            }
            (b'/', Some(b'*')) => {
                memchr::memmem::find(&out[at + 2..], b"*/").map_or(out.len(), |length| at + 2 + length + 2)
            }
            (b'/', Some(b'/')) => memchr::memchr(b'\n', &out[at..]).map_or(out.len(), |length| at + length),
            _ => {
                at += 1;
                continue;
            }
        };
        out[at..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        at = end;
    }
    out
}

/// The kernel's names for `inline` (include/linux/compiler_types.h), replaced in place by what they mean.
fn inline_words(code: &mut [u8]) {
    const NAME: &[u8] = b"__always_inline";
    let found: Vec<usize> = memchr::memmem::find_iter(code, NAME).collect();
    for at in found {
        code[at..at + NAME.len()].fill(b' ');
        code[at..at + 6].copy_from_slice(b"inline");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "#ifndef H\n#define H\nstruct s { int x; };\n/* about { f */\nstatic inline int f(int a)\n{\n\treturn a;\n}\n\
        static __always_inline int g(void)\n{\n\treturn f(1);\n}\n#endif\n";

    fn changed(before: &str, after: &str) -> Option<Vec<String>> {
        let bodies = changed_bodies(before.as_bytes(), after.as_bytes())?;
        Some(bodies.into_keys().map(|name| String::from_utf8(name).unwrap()).collect())
    }

    /// A body that changed, and what may change beside it without a meaning: comments and layout.
    #[test]
    fn bodies() {
        let edit = |old: &str, new: &str| changed(HEADER, &HEADER.replace(old, new));
        assert_eq!(edit("return a;", "if (a) {\n\t\treturn 2;\n\t}\n\treturn a;"), Some(vec!["f".to_owned()]));
        assert_eq!(edit("return f(1);", "return f('}');"), Some(vec!["g".to_owned()]));
        assert_eq!(edit("/* about { f */", "// more\n"), Some(Vec::new()));
        let bodies = changed_bodies(HEADER.as_bytes(), HEADER.replace("f(1)", "M(N)").as_bytes()).unwrap();
        let words = &bodies[&b"g"[..]];
        assert!(words.contains(&b"M"[..]) && words.contains(&b"N"[..]));
    }

    /// Everything else that a header can change, and a body that directives make unsure, is not for this way.
    #[test]
    fn others() {
        for (old, new) in [
            ("int x;", "long x;"),
            ("int f(int a)", "int f(long a)"),
            ("int f(int a)", "int h(int a)"),
            ("static inline int f", "int f"),
            ("#define H\n", "#define H 1\n"),
            ("return a;", "#ifdef A\n\treturn 1;\n#endif\n\treturn a;"),
            ("return a;", "return a; } int x; {"),
            ("return a;", "return (a;"),
            ("#endif", "static inline int h(void) { return 1; }\n#endif"),
        ] {
            assert_eq!(changed(HEADER, &HEADER.replace(old, new)), None, "{old} -> {new}");
        }
        // A directive that moved over an item.
        let moved =
            HEADER.replace("#define H\n", "").replace("struct s { int x; };\n", "struct s { int x; };\n#define H\n");
        assert_eq!(changed(HEADER, &moved), None);
        // Braces that only one branch opens: where the function ends is not known.
        let torn = HEADER.replace("\treturn a;", "#ifdef A\n\tif (a) {\n#else\n\t{\n#endif\n\t}\n\treturn a;");
        assert_eq!(changed(&torn, &torn.replace("return a;", "return 2;")), None);
    }
}

//! A file -> the single-line changes of meaning that can be made in it, by kind and by function.
//!
//! Hard because whether a change means anything is not known here: the compiler may drop it, or not take it. So these
//! are candidates; what a candidate came to is decided by compiling it (`truth.rs`).

use std::ops::Range;

use super::random::Random;
use super::tokens::{Item, Kind, Source};

/// The kinds of changes, in the order in which they take turns.
pub const KINDS: &[&str] = &["constant", "comparison", "text", "table", "call", "operator"];

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// One of [`KINDS`].
    pub kind: &'static str,
    /// The function, or the table, that it is in.
    pub owner: String,
    /// The bytes that go.
    pub at: Range<usize>,
    /// What comes instead.
    pub with: String,
}

impl Edit {
    /// The changed text.
    pub fn apply(&self, text: &[u8]) -> Vec<u8> {
        [&text[..self.at.start], self.with.as_bytes(), &text[self.at.end..]].concat()
    }
}

/// Words whose arguments are not ordinary code: for the assembler, or checked while compiling.
const NOT_CODE: &[&str] =
    &["asm", "__asm__", "asm_inline", "BUILD_BUG_ON", "BUILD_BUG_ON_MSG", "static_assert", "ALTERNATIVE"];

/// Every candidate of a file.
pub fn candidates(source: &Source, random: &mut Random) -> Vec<Edit> {
    let mut edits = Vec::new();
    for item in &source.items {
        if let Some(body) = &item.body {
            in_function(source, item, body.clone(), random, &mut edits);
        } else if let Some(values) = &item.values {
            for token in values.clone() {
                // A subscript says where a value goes, and a table that overlaps itself is not taken.
                let subscript = source.word(token + 1) == "]" || source.word(token.saturating_sub(1)) == "[";
                if source.tokens[token].kind == Kind::Number && !subscript {
                    edits.extend(number(source, &item.name, "table", token));
                }
            }
        }
    }
    edits
}

fn in_function(source: &Source, item: &Item, body: Range<usize>, random: &mut Random, edits: &mut Vec<Edit>) {
    // Macros with arguments of their own have a name that says nothing: SYSCALL_DEFINE3(read, ...) is `read`.
    let owner = match source.word(item.tokens.start) {
        word if word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_') && !word.is_empty() => {
            format!("{word}({})", source.word(item.tokens.start + 2))
        }
        _ => item.name.clone(),
    };
    let mut skip_to = 0;
    for token in body.clone() {
        if token < skip_to {
            continue;
        }
        let (word, before) = (source.word(token), source.word(token.saturating_sub(1)));
        let change = |kind, with: &str| Edit {
            kind,
            owner: owner.clone(),
            at: source.tokens[token].at.clone(),
            with: with.to_owned(),
        };
        match source.tokens[token].kind {
            Kind::Word if NOT_CODE.contains(&word) => {
                skip_to = after_group(source, token + 1, body.end);
            }
            Kind::Number if before != "[" => edits.extend(number(source, &owner, "constant", token)),
            Kind::Text => edits.extend(text(source, &owner, token, random)),
            Kind::Mark => match word {
                "==" => edits.push(change("comparison", "!=")),
                "!=" => edits.push(change("comparison", "==")),
                "<" => edits.push(change("comparison", "<=")),
                "<=" => edits.push(change("comparison", "<")),
                ">" => edits.push(change("comparison", ">=")),
                ">=" => edits.push(change("comparison", ">")),
                "&&" => edits.push(change("comparison", "||")),
                "||" => edits.push(change("comparison", "&&")),
                "+" => edits.push(change("operator", "-")),
                "-" if source.tokens[token - 1].kind != Kind::Mark || before == ")" => {
                    edits.push(change("operator", "+"))
                }
                "|" => edits.push(change("operator", "^")),
                "+=" => edits.push(change("operator", "-=")),
                "|=" => edits.push(change("operator", "^=")),
                // The function is declared in linux/printk.h, which nearly every file includes.
                ";" if before == ")" && source.word(token + 1) != "else" && at_statement(source, &body, token) => {
                    edits.push(change("call", "; dump_stack();"));
                }
                _ => {}
            },
            _ => {}
        }
    }
}

/// Not within the parentheses of a `for`.
fn at_statement(source: &Source, body: &Range<usize>, token: usize) -> bool {
    let mut depth = 0i32;
    for at in body.start..token {
        match source.word(at) {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
    }
    depth == 0
}

/// The token after a parenthesised group that starts near `token`.
fn after_group(source: &Source, token: usize, end: usize) -> usize {
    let mut depth = 0;
    for at in token..end {
        match source.word(at) {
            "(" => depth += 1,
            ")" => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at,
            _ => {}
        }
    }
    end
}

/// Another number of the same form.
fn number(source: &Source, owner: &str, kind: &'static str, token: usize) -> Option<Edit> {
    let word = source.word(token);
    let digits = word.trim_end_matches(['u', 'U', 'l', 'L']);
    let suffix = &word[digits.len()..];
    let with = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => format!("{:#x}", u64::from_str_radix(hex, 16).ok()? ^ 1),
        None if digits.len() > 1 && digits.starts_with('0') => {
            format!("0{:o}", u64::from_str_radix(digits, 8).ok()? ^ 1)
        }
        None => (digits.parse::<u64>().ok()? + 1).to_string(),
    };
    Some(Edit { kind, owner: owner.to_owned(), at: source.tokens[token].at.clone(), with: format!("{with}{suffix}") })
}

/// The same text with one letter changed, or one more; formats keep their meaning.
fn text(source: &Source, owner: &str, token: usize, random: &mut Random) -> Option<Edit> {
    let at = source.tokens[token].at.clone();
    let bytes = &source.text[at.clone()];
    let letters: Vec<usize> = (1..bytes.len().saturating_sub(1))
        .filter(|i| bytes[*i].is_ascii_lowercase())
        .filter(|i| !bytes[i.saturating_sub(4)..*i].iter().any(|b| matches!(b, b'%' | b'\\')))
        .collect();
    if letters.is_empty() {
        return None;
    }
    let letter = at.start + letters[random.below(letters.len())];
    let other = if source.text[letter] == b'q' { "z" } else { "q" };
    let end = if random.below(3) == 0 { letter } else { letter + 1 };
    Some(Edit { kind: "text", owner: owner.to_owned(), at: letter..end, with: other.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<(&'static str, String)> {
        let source = Source::new(text.as_bytes().to_vec());
        let edits = candidates(&source, &mut Random::new(1));
        edits.iter().map(|e| (e.kind, String::from_utf8(e.apply(&source.text)).expect("ASCII"))).collect()
    }

    /// Each kind is found where it is, and nowhere else: not in comments, directives, assembly or subscripts.
    #[test]
    fn kinds() {
        let found = all(
            "#define X 1\nint t[4] = { 7, 0x10 };\nint f(int a)\n{\n/* 1 == 2 */ g(a);\nasm(\"x 1\");\nreturn a == 010UL;\n}\n",
        );
        let kinds: Vec<&str> = found.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, ["table", "table", "call", "call", "comparison", "constant"]);
        assert!(found[0].1.contains("{ 8, 0x10 }") && found[1].1.contains("{ 7, 0x11 }"));
        assert!(found[2].1.contains("g(a); dump_stack();") && found[4].1.contains("a != 010UL"));
        assert!(found[5].1.contains("a == 011UL"));
    }

    /// A format's letters stay: the compiler would not take another conversion.
    #[test]
    fn formats_are_kept() {
        assert_eq!(all("void f(void)\n{ p(\"%s\\n\") }\n"), []);
        assert_eq!(all("void f(void)\n{ p(\"abcd%s\") }\n").len(), 1);
    }
}

//! Does a patch change nothing of a header but things that have names?
//!
//! In: a header before and after, not preprocessed. Out: the names of the macros, prototypes, `extern` variables and `static inline`
//! functions that came, went or changed; or nothing, when anything else differs. A unit none of whose files has one of these
//! names cannot see the change: no compiler is needed to say so. Hard because of what C lets a line do besides declaring its
//! name: whatever is not plainly one of these counts as something else.

use std::collections::BTreeSet;

use similar::{Algorithm, DiffOp, capture_diff_slices};

use super::items::{Kind, body_start, is_builtin, is_tag, words};
use super::pieces::{MARK, Masked, Piece, is_balanced};
use super::tokens::fold;

type Words = BTreeSet<Vec<u8>>;

/// What a header's change is about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// Macros, functions and variables that came, went or changed. What came or went counts like the rest: a unit may have something else of
    /// that name, declared and used by pastes only, which a new macro takes the place of, or which is left when a function goes.
    pub(super) all: Words,
    /// Of what only the original has, and of what only the patched side has: macros, and the words of declarations.
    pub(super) sides: [(Words, Words); 2],
    /// Those of them that are variables: the last word of such a declaration might be a macro for an attribute.
    pub(super) variables: Words,
    /// The words of what differs outside of functions' bodies, and in them: they may be macros.
    pub(super) heads: Words,
    pub(super) bodies: Words,
    /// The words of what stays.
    pub(super) rest: Words,
    /// The header with what stays alone.
    pub(super) without: Vec<u8>,
}

/// The names that all of the change is about; `None` when something of it has none.
pub(super) fn changed_names(original: &[u8], patched: &[u8]) -> Option<Names> {
    let (a, b) = (Masked::new(original), Masked::new(patched));
    let (old, new) = (a.pieces(), b.pieces());
    let (old_keys, new_keys): (Vec<_>, Vec<_>) = (old.iter().map(key).collect(), new.iter().map(key).collect());
    let (mut gone, mut come) = (Side::default(), Side::default());
    let mut differing = Vec::new();
    for op in capture_diff_slices(Algorithm::Myers, &old_keys, &new_keys) {
        match op {
            DiffOp::Equal { old_index, len, .. } => {
                old[old_index..old_index + len].iter().for_each(|piece| come.stays(piece));
            }
            _ => {
                old[op.old_range()].iter().try_for_each(|piece| gone.add(piece))?;
                differing.extend(&old[op.old_range()]);
                new[op.new_range()].iter().try_for_each(|piece| come.add(piece))?;
            }
        }
    }
    let union = |one: &Words, other: &Words| one.union(other).cloned().collect::<Words>();
    Some(Names {
        all: union(&union(&gone.macros, &come.macros), &union(&gone.declared, &come.declared)),
        sides: [&gone, &come].map(|side| (side.macros.clone(), side.heads.clone())),
        variables: union(&gone.variables, &come.variables),
        heads: union(&gone.heads, &come.heads),
        bodies: union(&gone.bodies, &come.bodies),
        rest: come.rest,
        without: a.without(differing.into_iter()),
    })
}

/// What only one of the two has, and the words of what both have.
#[derive(Default)]
struct Side {
    macros: Words,
    /// Functions and variables.
    declared: Words,
    variables: Words,
    heads: Words,
    bodies: Words,
    rest: Words,
}

impl Side {
    fn stays(&mut self, piece: &Piece<'_>) {
        let (text, inside) = match piece {
            Piece::Directive { text, .. } => (text, &[][..]),
            Piece::Item { text, inside, .. } => (text, &inside[..]),
        };
        let all = inside.iter().chain([text]).flat_map(|text| words(text));
        all.for_each(|word| add(&mut self.rest, word));
    }

    fn add(&mut self, piece: &Piece<'_>) -> Option<()> {
        match piece {
            Piece::Directive { text, .. } => add(&mut self.macros, defined(text)?),
            Piece::Item { text, kind: Kind::Inline(name), inside, .. } => {
                let (head, body) = text.split_at(body_start(text)?);
                // A directive decides nothing about where the function ends if the braces between two of them are closed.
                let unsure = head.contains(&MARK) || !is_balanced(body) || !conditionals_are_whole(inside, body);
                if unsure {
                    return None;
                }
                words(head).for_each(|word| add(&mut self.heads, word));
                words(body).for_each(|word| add(&mut self.bodies, word));
                add(&mut self.declared, name);
            }
            Piece::Item { text, inside, .. } => {
                if !inside.is_empty() || text.contains(&MARK) {
                    return None;
                }
                words(text).for_each(|word| add(&mut self.heads, word));
                match declared(text)? {
                    Declared::Function(name) => add(&mut self.declared, name),
                    Declared::Variable(name) => {
                        add(&mut self.declared, name);
                        add(&mut self.variables, name);
                    }
                    Declared::Tag => {}
                }
            }
        }
        Some(())
    }
}

fn add(words: &mut Words, word: &[u8]) {
    if !words.contains(word) {
        words.insert(word.to_vec());
    }
}

/// What has to be equal for two pieces to be the same.
fn key(piece: &Piece<'_>) -> (bool, Vec<u8>, Vec<Vec<u8>>) {
    match piece {
        Piece::Directive { text, .. } => (true, text.to_vec(), Vec::new()),
        Piece::Item { text, inside, .. } => (false, fold(text), inside.iter().map(|text| text.to_vec()).collect()),
    }
}

/// The macro that a directive defines.
fn defined(directive: &[u8]) -> Option<&[u8]> {
    let rest = directive.strip_prefix(b"#")?.trim_ascii_start().strip_prefix(b"define")?;
    rest.first().filter(|byte| byte.is_ascii_whitespace())?;
    words(rest).next()
}

/// Whether the directives in a body are whole conditionals, with no brace that only some of their branches open or close.
fn conditionals_are_whole(inside: &[&[u8]], body: &[u8]) -> bool {
    let mut depth = 0usize;
    let mut parts = body.split(|byte| *byte == MARK).skip(1);
    for directive in inside {
        let word = words(directive).next().unwrap_or_default();
        match word {
            b"if" | b"ifdef" | b"ifndef" => depth += 1,
            b"endif" if depth > 0 => depth -= 1,
            b"else" | b"elif" if depth > 0 => {}
            _ => return false,
        }
        let Some(part) = parts.next() else { return false };
        if depth > 0 && !is_balanced(part) {
            return false;
        }
    }
    depth == 0 && parts.next().is_none()
}

enum Declared<'t> {
    Function(&'t [u8]),
    Variable(&'t [u8]),
    /// A type's name, without what it is: `struct s;`.
    Tag,
}

/// What a declaration declares, if it is a plain prototype or `extern` variable, or names a type.
fn declared(text: &[u8]) -> Option<Declared<'_>> {
    let declaration = text.strip_suffix(b";")?;
    if declaration.iter().any(|byte| matches!(byte, b'{' | b'}' | b'=' | b';' | b'"' | b'\'')) {
        return None;
    }
    let tag = |word: &[u8]| matches!(word, b"struct" | b"union");
    let Some(open) = memchr::memchr(b'(', declaration) else {
        let all: Vec<&[u8]> = words(declaration).collect();
        let is_tag = all.len() == 2 && tag(all[0]) && is_words(declaration);
        return if is_tag { Some(Declared::Tag) } else { variable(declaration).map(Declared::Variable) };
    };
    let (head, parameters) = declaration.split_at(open);
    let name = declarator(head)?;
    let plain = !parameters[1..].trim_ascii_start().starts_with(b"*")
        && is_balanced(parameters)
        && !has_comma_after(parameters);
    plain.then_some(Declared::Function(name))
}

/// The variable of `extern TYPE NAME` or `extern TYPE NAME[...]`. Without `extern` it would be a definition.
fn variable(declaration: &[u8]) -> Option<&[u8]> {
    let head = declaration.split(|byte| *byte == b'[').next().unwrap_or(declaration);
    let sizes = &declaration[head.len()..];
    let name = declarator(head)?;
    let is_extern = words(head).next() == Some(&b"extern"[..]) && words(head).count() > 2;
    (is_extern && is_balanced(sizes) && (sizes.is_empty() || sizes.ends_with(b"]")) && !sizes.contains(&b','))
        .then_some(name)
}

/// The name that stands last, after a type of words and stars.
fn declarator(head: &[u8]) -> Option<&[u8]> {
    const NOT: [&[u8]; 22] = [
        b"typedef",
        b"register",
        b"asm",
        b"__asm",
        b"__asm__",
        b"typeof",
        b"__typeof",
        b"__typeof__",
        b"typeof_unqual",
        b"__typeof_unqual__",
        b"__auto_type",
        b"_Alignas",
        b"alignas",
        b"_Atomic",
        b"_BitInt",
        b"__attribute",
        b"__attribute__",
        b"_Static_assert",
        b"static_assert",
        b"_Generic",
        b"__extension__",
        b"_Pragma",
    ];
    let all: Vec<&[u8]> = words(head).collect();
    let [before @ .., name] = &all[..] else { return None };
    let plain = !before.is_empty()
        && !is_builtin(name)
        && !before.last().is_some_and(|word| is_tag(word))
        && !all.iter().any(|word| NOT.contains(word))
        && head.trim_ascii_end().ends_with(name)
        && head.iter().all(|byte| is_plain(*byte) || *byte == b'*');
    plain.then_some(name)
}

/// Whether something else is declared after the parameters.
fn has_comma_after(parameters: &[u8]) -> bool {
    let mut depth = 0;
    parameters.iter().any(|byte| {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            _ => {}
        }
        depth == 0 && *byte == b','
    })
}

fn is_words(text: &[u8]) -> bool {
    text.iter().all(|byte| is_plain(*byte))
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte.is_ascii_whitespace()
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;

//! Could a macro paste a name together that no file has as a word?
//!
//! In: replacements that paste (`a##_lock`), and the words of all files. Out: whether a name may come of them. Hard because what
//! is pasted can be an argument, and that the result of another paste: so any word counts as an argument, results of
//! one paste do too, and where nothing but arguments is pasted ([`super::flows`]), any number in a row.

use std::collections::{BTreeSet, HashSet};

use super::items::{is_word, words};

/// What is pasted, in order: a word of the replacement itself, or anything.
type Pattern = Vec<Option<Vec<u8>>>;

/// All ways in which names are pasted together, and the words there are.
pub(super) struct Pastes {
    patterns: BTreeSet<Pattern>,
    /// All.
    words: HashSet<Vec<u8>>,
    /// Those that reach pastes of arguments alone.
    flowing: HashSet<Vec<u8>>,
}

impl Pastes {
    pub(super) fn new<'t>(
        replacements: impl Iterator<Item = &'t [u8]>,
        words: HashSet<Vec<u8>>,
        flowing: HashSet<Vec<u8>>,
    ) -> Pastes {
        let patterns = replacements.flat_map(patterns).filter(|pattern| pattern.iter().any(Option::is_some)).collect();
        Pastes { patterns, words, flowing }
    }

    /// Whether the name may be pasted together.
    pub(super) fn may_make(&self, name: &[u8]) -> bool {
        let any = |piece: &[u8]| self.is_word(piece) || self.makes_once(piece) || self.is_several(piece);
        self.patterns.iter().any(|pattern| fits(pattern, name, &any)) || self.is_several(name)
    }

    fn is_word(&self, piece: &[u8]) -> bool {
        piece.iter().all(u8::is_ascii_digit) || self.words.contains(piece)
    }

    /// Whether one paste makes the piece.
    fn makes_once(&self, piece: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| fits(pattern, piece, &|part: &[u8]| self.is_word(part)))
    }

    /// Whether words that flow make it, two or more. Counters give numbers.
    fn is_several(&self, name: &[u8]) -> bool {
        let is = |piece: &[u8]| self.flowing.contains(piece) || piece.iter().all(u8::is_ascii_digit);
        // Which beginnings can be made; all of it by one word is not a paste.
        let mut made = vec![false; name.len() + 1];
        made[0] = true;
        for end in 1..=name.len() {
            made[end] = (0..end).any(|start| made[start] && (start, end) != (0, name.len()) && is(&name[start..end]));
        }
        made[name.len()]
    }
}

/// Whether the pieces make the name, with `is` true of what stands for anything; one piece is never the whole of it.
fn fits(pattern: &[Option<Vec<u8>>], name: &[u8], is: &dyn Fn(&[u8]) -> bool) -> bool {
    fn rest(pattern: &[Option<Vec<u8>>], name: &[u8], whole: usize, is: &dyn Fn(&[u8]) -> bool) -> bool {
        match pattern {
            [] => name.is_empty(),
            [Some(word), more @ ..] => name.strip_prefix(&word[..]).is_some_and(|name| rest(more, name, whole, is)),
            [None, more @ ..] => (0..=name.len())
                .filter(|length| *length < whole)
                .any(|length| is(&name[..length]) && rest(more, &name[length..], whole, is)),
        }
    }
    rest(pattern, name, name.len(), is)
}

/// What a replacement, with its parameters before it, pastes.
fn patterns(replacement: &[u8]) -> Vec<Pattern> {
    let parameters = parameters(replacement);
    let piece = |word: &[u8]| (!parameters.contains(&word)).then(|| word.to_vec());
    pasted(replacement).into_iter().map(|chain| chain.into_iter().map(piece).collect()).collect()
}

/// The chains of words between which `##` stands.
pub(super) fn pasted(replacement: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut out = Vec::new();
    let mut chain: Vec<&[u8]> = Vec::new();
    let mut rest = replacement;
    while let Some(at) = memchr::memmem::find(rest, b"##") {
        let (left, right) = (rest[..at].trim_ascii_end(), rest[at + 2..].trim_ascii_start());
        let before = &left[left.iter().rposition(|byte| !is_word(*byte)).map_or(0, |i| i + 1)..];
        let length = right.iter().position(|byte| !is_word(*byte)).unwrap_or(right.len());
        if chain.is_empty() {
            chain.push(before);
        }
        chain.push(&right[..length]);
        rest = &right[length..];
        if !rest.trim_ascii_start().starts_with(b"##") {
            out.push(std::mem::take(&mut chain));
        }
    }
    out
}

/// The parameters that a replacement has before it.
pub(super) fn parameters(replacement: &[u8]) -> Vec<&[u8]> {
    let Some(rest) = replacement.strip_prefix(b"(") else { return Vec::new() };
    let list = &rest[..memchr::memchr(b')', rest).unwrap_or(rest.len())];
    let several = memchr::memmem::find(list, b"...").map(|_| &b"__VA_ARGS__"[..]);
    words(list).chain(several).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn makes(replacements: &[&str], words: &[&str], name: &str) -> bool {
        let replacements = replacements.iter().map(|text| text.as_bytes());
        let words: HashSet<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        Pastes::new(replacements, words, HashSet::new()).may_make(name.as_bytes())
    }

    fn flows(words: &[&str], name: &str) -> bool {
        let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        Pastes::new(std::iter::empty(), HashSet::new(), words).may_make(name.as_bytes())
    }

    /// Words of the replacement, with arguments that exist, or that another paste makes.
    #[test]
    fn with_words() {
        assert!(makes(&["(x) x##_lock"], &["my"], "my_lock"));
        assert!(makes(&["(x) sys_ ## x"], &["read"], "sys_read"));
        assert!(makes(&["(x, y) x##_##y(int)"], &["read", "lock"], "read_lock"));
        assert!(makes(&["(x) x##_lock", "(x) my_##x"], &["old"], "my_old_lock"));
        assert!(makes(&[" a##b"], &[], "ab"));
        // A counter, and what another paste made of arguments.
        assert!(makes(&["(n) f_##n"], &[], "f_12"));
        let both = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<HashSet<_>>();
        let pastes = Pastes::new([&b"(x) x##_lock"[..]].into_iter(), HashSet::new(), both(&["my", "_old"]));
        assert!(pastes.may_make(b"my_old_lock") && !pastes.may_make(b"your_lock"));
        assert!(!makes(&["(x) x##_lock"], &["my"], "your_lock"));
        assert!(!makes(&["(x) x##_lock"], &["my"], "my_locks"));
    }

    /// Arguments alone, however many; what is there as a word is found as one.
    #[test]
    fn of_arguments() {
        assert!(flows(&["my", "_lock"], "my_lock"));
        assert!(flows(&["my", "_", "lock"], "my_lock_12"));
        assert!(!flows(&["my", "lock"], "my_lock"));
        assert!(!flows(&["my_lock"], "my_lock"));
        assert!(!makes(&["(a, ...) f(a, ##__VA_ARGS__)"], &["my", "_lock"], "my_lock"));
    }
}

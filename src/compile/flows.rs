//! Which words can reach a paste whose every part is an argument?
//!
//! In: all macros, and the text of files. Out: the words that are handed to such pastes (`a##b`), directly or through other
//! macros. Hard because there are few such macros and nearly every file leads to one: what counts is which parameter flows
//! where. An argument of more than one word gives all its words, and all of every macro that they name.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::items::{is_word, words};
use super::macros::Macros;
use super::pastes::{parameters, patterns};

/// Macro -> those of its parameters that may end up in such a paste.
pub(super) struct Flows(BTreeMap<Vec<u8>, BTreeSet<usize>>);

impl Flows {
    /// Follows parameters from the pastes up; `None` when a macro has the name of such a one without arguments.
    pub(super) fn new(macros: &Macros) -> Option<Flows> {
        let mut flows = Flows(BTreeMap::new());
        for (name, replacement) in macros.all() {
            if patterns(replacement).iter().any(|pattern| pattern.iter().all(Option::is_none)) {
                flows.0.entry(name.to_vec()).or_default().extend(0..parameters(replacement).len());
            }
        }
        loop {
            let mut more: Vec<(&[u8], usize)> = Vec::new();
            for (name, replacement) in macros.all() {
                let own = parameters(replacement);
                for argument in flows.handed(replacement)? {
                    let flowing = own.iter().enumerate().filter(|(_, own)| words(argument).any(|word| word == **own));
                    more.extend(flowing.map(|(index, _)| (name, index)));
                }
            }
            let count = |flows: &Flows| -> usize { flows.0.values().map(BTreeSet::len).sum() };
            let before = count(&flows);
            for (name, index) in more {
                flows.0.entry(name.to_vec()).or_default().insert(index);
            }
            if before == count(&flows) {
                return Some(flows);
            }
        }
    }

    /// Adds the words that a text hands to pastes; `false` when that cannot be told.
    pub(super) fn collect(&self, text: &[u8], all: &mut HashSet<Vec<u8>>) -> bool {
        let Some(arguments) = self.handed(text) else { return false };
        for word in arguments.into_iter().flat_map(words) {
            if !all.contains(word) {
                all.insert(word.to_vec());
            }
        }
        true
    }

    /// The arguments for parameters that flow.
    fn handed<'t>(&self, text: &'t [u8]) -> Option<Vec<&'t [u8]>> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < text.len() {
            if !is_word(text[at]) {
                at += 1;
                continue;
            }
            let end = at + text[at..].iter().position(|byte| !is_word(*byte)).unwrap_or(text.len() - at);
            if let Some(indexes) = self.0.get(&text[at..end])
                && !is_directive(&text[..at])
            {
                let (given, rest) = arguments(&text[end..])?;
                // Those after the last parameter that flows may be its own: it can stand for several.
                let last = indexes.last().copied().unwrap_or_default();
                out.extend(given.into_iter().enumerate().filter(|(i, _)| indexes.contains(i) || *i > last).map(|(_, a)| a));
                // What was pasted may be a macro's name: `CONCAT(f_, n)(x)`.
                out.extend(arguments(rest).into_iter().flat_map(|(given, _)| given));
            }
            at = end;
        }
        Some(out)
    }
}

/// Whether what follows is the name that a directive defines, or asks about.
fn is_directive(before: &[u8]) -> bool {
    let before = before.trim_ascii_end();
    [&b"define"[..], b"undef", b"ifdef", b"ifndef", b"defined", b"defined("].iter().any(|word| before.ends_with(word))
}

/// What stands between the commas of a list in parentheses, which the text begins with, and what follows it.
fn arguments(text: &[u8]) -> Option<(Vec<&[u8]>, &[u8])> {
    let blanks = text.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == b'\\').count();
    let text = &text[blanks..];
    let (mut depth, mut start) = (0, 1);
    let mut out = Vec::new();
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 1 => {
                out.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        if depth == 0 {
            return (at > 0).then(|| {
                out.push(&text[start..at]);
                (out, &text[at + 1..])
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(macros: &str, text: &str) -> Option<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.h");
        std::fs::write(&path, macros).unwrap();
        let macros = Macros::read(&BTreeSet::from([path]), std::iter::empty()).unwrap();
        let flows = Flows::new(&macros)?;
        let mut all = HashSet::new();
        flows.collect(text.as_bytes(), &mut all).then_some(())?;
        let mut all: Vec<String> = all.into_iter().map(|word| String::from_utf8(word).unwrap()).collect();
        all.sort();
        Some(all)
    }

    const PASTE: &str = "#define PASTE_(a, b) a##b\n#define PASTE(a, b) PASTE_(a, b)\n#define OTHER(x, y) PASTE(q_, y) + x\n";

    /// Arguments that flow, through any number of macros, and no others.
    #[test]
    fn flowing() {
        let list = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(reach(PASTE, "int PASTE(one, two);"), list(&["one", "two"]));
        assert_eq!(reach(PASTE, "int OTHER(one, two), three;"), list(&["two"]));
        assert_eq!(reach(PASTE, "PASTE (PASTE(one, two), f(three))"), list(&["PASTE", "f", "one", "three", "two"]));
        assert_eq!(reach(PASTE, "other(one, two)"), list(&[]));
        let called = format!("{PASTE}#define MANY(x...) PASTE(MANY_, COUNT(x))(x)\n");
        assert_eq!(reach(&called, "MANY(one)"), list(&["one"]));
        assert_eq!(reach("#define V(...) W(x, __VA_ARGS__)\n#define W(x, ...) x##__VA_ARGS__\n", "V(one, two)"), list(&["one", "two"]));
    }

    /// A macro that is a paste by another name, without arguments of its own.
    #[test]
    fn unknown() {
        assert_eq!(reach(&format!("{PASTE}#define ALIAS PASTE\n"), ""), None);
        assert_eq!(reach(PASTE, "#ifdef PASTE\n#undef PASTE\n#endif"), Some(vec![]));
        assert_eq!(reach(PASTE, "f(PASTE)"), None);
    }
}

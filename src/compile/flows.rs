//! Which words can reach a paste whose every part is an argument?
//!
//! In: all macros, and the text of files. Out: the words that are handed to such pastes (`a##b`), directly or through other
//! macros. Hard because there are few such macros and nearly every file leads to one: what counts is which parameter flows
//! where. An argument of more than one word gives all its words, and all of every macro that they name.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::items::{is_word, words};
use super::macros::Macros;
use super::pastes::{parameters, pasted};

/// Who pastes what.
pub(super) struct Flows {
    /// Macro -> those of its parameters that may end up in such a paste.
    by_name: BTreeMap<Vec<u8>, BTreeSet<usize>>,
    /// Macros that are nothing but a paste: what they are followed by may be arguments of what was pasted.
    pastes: BTreeSet<Vec<u8>>,
    /// Macros that call a parameter: handed one of the above by its bare name, they paste anything.
    callers: BTreeSet<Vec<u8>>,
}

impl Flows {
    /// Follows parameters from the pastes up; `None` when that cannot be told.
    pub(super) fn new(macros: &Macros) -> Option<Flows> {
        let mut flows = Flows { by_name: BTreeMap::new(), pastes: BTreeSet::new(), callers: BTreeSet::new() };
        for (name, replacement) in macros.all() {
            let own = parameters(replacement);
            if own.iter().any(|own| is_called(own, replacement)) {
                flows.callers.insert(name.to_vec());
            }
            for chain in pasted(replacement) {
                // A chain with a word of its own is a pattern that names can be held against.
                let indexes = chain.iter().map(|word| own.iter().position(|own| own == word));
                if let Some(indexes) = indexes.collect::<Option<Vec<usize>>>() {
                    flows.by_name.entry(name.to_vec()).or_default().extend(indexes);
                }
            }
        }
        loop {
            let mut more: Vec<(&[u8], usize)> = Vec::new();
            let pastes: Vec<&[u8]> =
                macros.all().filter(|(_, text)| flows.is_paste(text)).map(|(name, _)| name).collect();
            flows.pastes.extend(pastes.into_iter().map(<[u8]>::to_vec));
            // Who hands a parameter to one that calls it is as good as one that calls it.
            let mut callers: Vec<&[u8]> = Vec::new();
            for (name, replacement) in macros.all() {
                let own = parameters(replacement);
                if flows.hands_to_caller(replacement, &own) {
                    callers.push(name);
                }
                for argument in flows.handed(replacement)? {
                    let flowing = own.iter().enumerate().filter(|(_, own)| words(argument).any(|word| word == **own));
                    more.extend(flowing.map(|(index, _)| (name, index)));
                }
                if flows.by_name.contains_key(last_word(replacement)) {
                    // Another name for such a macro: what follows it are the arguments.
                    more.push((name, 0));
                }
            }
            let count = |flows: &Flows| {
                flows.pastes.len() + flows.callers.len() + flows.by_name.values().map(BTreeSet::len).sum::<usize>()
            };
            let before = count(&flows);
            for (name, index) in more {
                flows.by_name.entry(name.to_vec()).or_default().insert(index);
            }
            flows.callers.extend(callers.into_iter().map(<[u8]>::to_vec));
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

    /// Whether a replacement hands one of its parameters, by itself, to a macro that calls it.
    fn hands_to_caller(&self, replacement: &[u8], own: &[&[u8]]) -> bool {
        !own.is_empty()
            && words(replacement).filter(|word| self.callers.contains(*word)).any(|word| {
                let given = arguments(&replacement[word.as_ptr().addr() - replacement.as_ptr().addr() + word.len()..]);
                given.is_some_and(|(given, _)| given.iter().any(|given| own.contains(&given.trim_ascii())))
            })
    }

    /// Whether a replacement, with its parameters before it, is nothing but words pasted together.
    fn is_paste(&self, replacement: &[u8]) -> bool {
        let Some((_, body)) = arguments(replacement).filter(|_| replacement.starts_with(b"(")) else { return false };
        let body = body.trim_ascii();
        let is_chain = || body.iter().all(|byte| is_word(*byte) || matches!(byte, b'#' | b' ' | b'\t'));
        let name = &body[..body.iter().position(|byte| !is_word(*byte)).unwrap_or(body.len())];
        let is_handed_on = || arguments(&body[name.len()..]).is_some_and(|(_, rest)| rest.is_empty());
        (memchr::memmem::find(body, b"##").is_some() && is_chain()) || (self.pastes.contains(name) && is_handed_on())
    }

    /// The arguments for parameters that flow.
    fn handed<'t>(&self, text: &'t [u8]) -> Option<Vec<&'t [u8]>> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < text.len() {
            if !is_word(text[at]) {
                at = if text[at] == b'"' { literal_end(text, at) } else { at + 1 };
                continue;
            }
            let end = at + text[at..].iter().position(|byte| !is_word(*byte)).unwrap_or(text.len() - at);
            let name = &text[at..end];
            if self.callers.contains(name)
                && let Some((given, _)) = arguments(&text[end..])
                && given.iter().any(|given| self.by_name.contains_key(given.trim_ascii()))
            {
                return None;
            }
            if let Some(indexes) = self.by_name.get(name)
                && !is_directive(&text[..at])
                && let Some((given, rest)) = arguments(&text[end..])
            {
                // Those after the last parameter that flows may be its own: it can stand for several.
                let last = indexes.last().copied().unwrap_or_default();
                out.extend(
                    given.into_iter().enumerate().filter(|(i, _)| indexes.contains(i) || *i > last).map(|(_, a)| a),
                );
                // What was pasted may be a macro's name: `CONCAT(f_, n)(x)`.
                let called = arguments(rest).filter(|_| self.pastes.contains(name));
                out.extend(called.into_iter().flat_map(|(given, _)| given));
            }
            at = end;
        }
        Some(out)
    }
}

/// One past a string.
fn literal_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != b'\n' {
        match text[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    // A quote by itself, in assembly.
    start + 1
}

/// Whether a parameter stands before parentheses.
fn is_called(parameter: &[u8], replacement: &[u8]) -> bool {
    memchr::memmem::find_iter(replacement, parameter).any(|at| {
        let after = &replacement[at + parameter.len()..];
        at.checked_sub(1).is_none_or(|before| !is_word(replacement[before]))
            && after.trim_ascii_start().starts_with(b"(")
    })
}

fn last_word(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii_end();
    &text[text.iter().rposition(|byte| !is_word(*byte)).map_or(0, |at| at + 1)..]
}

/// Whether what follows is the name that a directive defines, or asks about.
fn is_directive(before: &[u8]) -> bool {
    let before = before.trim_ascii_end();
    [&b"define"[..], b"undef", b"ifdef", b"ifndef", b"defined", b"defined("].iter().any(|word| before.ends_with(word))
}

/// What stands between the commas of a list in parentheses, which the text begins with, and what follows it.
fn arguments(text: &[u8]) -> Option<(Vec<&[u8]>, &[u8])> {
    let blanks = text.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == b'\\').count();
    let text = text[blanks..].strip_prefix(b"(").map(|_| &text[blanks..])?;
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
            out.push(&text[start..at]);
            return Some((out, &text[at + 1..]));
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

    const PASTE: &str =
        "#define PASTE_(a, b) a##b\n#define PASTE(a, b) PASTE_(a, b)\n#define OTHER(x, y) PASTE(q_, y) + x\n";

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
        assert_eq!(
            reach("#define V(...) W(x, __VA_ARGS__)\n#define W(x, ...) x##__VA_ARGS__\n", "V(one, two)"),
            list(&["one", "two"])
        );
    }

    /// A macro that is a paste by another name, and one that calls what it is handed.
    #[test]
    fn by_other_names() {
        let one = |words: &str| Some(words.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(reach(&format!("{PASTE}#define ALIAS PASTE\n"), "ALIAS(one, two)"), one("one two"));
        assert_eq!(reach(PASTE, "#ifdef PASTE\n#undef PASTE\n#endif"), Some(vec![]));
        assert_eq!(reach(PASTE, "f(PASTE) + \"PASTE(one, two)\""), Some(vec![]));
        let caller = format!("{PASTE}#define EACH(what) what(one, two)\n");
        assert_eq!(reach(&caller, "EACH(PASTE)"), None);
        assert_eq!(reach(&caller, "EACH(other)"), Some(vec![]));
        let through = format!("{caller}#define ALL(what) EACH(what)\n");
        assert_eq!(reach(&through, "ALL(PASTE)"), None);
        assert_eq!(reach(&through, "ALL(other)"), Some(vec![]));
    }
}

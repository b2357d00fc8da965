//! Could a macro in a function's body end that body?
//!
//! In: words of bodies, and every file and command of the units that read them. Out: whether all macros that the words may lead
//! to are balanced. Hard because a macro means what the nearest definition says, and names can be pasted
//! together: so all definitions of a name count, wherever they are, and a pasted name may be any that begins with a word at hand.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use rayon::prelude::*;

use super::items::words;
use super::pieces::is_balanced;

/// Name -> what it is replaced by, in any file.
pub(super) struct Macros(HashMap<Vec<u8>, Vec<Vec<u8>>>);

impl Macros {
    /// All definitions in these files and commands. A file that cannot be read makes nothing certain.
    pub(super) fn read<'a>(files: &BTreeSet<PathBuf>, commands: impl Iterator<Item = &'a [String]>) -> Option<Macros> {
        let files: Vec<&PathBuf> = files.iter().collect();
        let found: Option<Vec<Vec<Definition>>> =
            files.par_iter().map(|path| std::fs::read(path).ok().map(|text| definitions(&text))).collect();
        let mut all: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
        let of_commands = commands.flat_map(|command| command.iter().filter_map(|arg| of_argument(arg)));
        for (name, replacement) in found?.into_iter().flatten().chain(of_commands) {
            let all = all.entry(name).or_default();
            if !all.contains(&replacement) {
                all.push(replacement);
            }
        }
        Some(Macros(all))
    }

    /// Whether nothing that these words can turn into opens or closes what it does not close or open.
    pub(super) fn are_harmless(&self, start: &BTreeSet<Vec<u8>>) -> bool {
        let mut reached: BTreeSet<&[u8]> = start.iter().map(Vec::as_slice).collect();
        let mut open: Vec<&[u8]> = reached.iter().copied().collect();
        let mut pastes = false;
        while let Some(word) = open.pop() {
            // A pragma acts beyond its place.
            if word == b"_Pragma" || word == b"__pragma" {
                return false;
            }
            for replacement in self.0.get(word).into_iter().flatten() {
                if !is_balanced(replacement) {
                    return false;
                }
                pastes |= memchr::memmem::find(replacement, b"##").is_some();
                open.extend(words(replacement).filter(|word| reached.insert(word)));
            }
        }
        // What is pasted begins with a word that is there.
        let begins = |name: &[u8]| (1..name.len()).any(|length| reached.contains(&name[..length]));
        let unbalanced = |all: &Vec<Vec<u8>>| all.iter().any(|replacement| !is_balanced(replacement));
        !pastes || !self.0.iter().any(|(name, all)| begins(name) && unbalanced(all))
    }
}

impl Macros {
    /// Whether these words can turn into nothing that ends a declaration or begins another.
    pub(super) fn are_plain(&self, start: &BTreeSet<Vec<u8>>) -> bool {
        // A declaration of something else, a second name for something, a count that others go on with.
        const MORE: [&[u8]; 6] = [b"alias", b"__alias__", b"ifunc", b"__ifunc__", b"weakref", b"__COUNTER__"];
        let reached = self.reached(start);
        let replacements = || reached.iter().filter_map(|word| self.0.get(*word)).flatten();
        !replacements().any(|text| declares_more(text))
            && !reached.iter().any(|word| MORE.contains(word))
            && self.are_harmless(start)
    }

    /// Adds the definitions of a text.
    pub(super) fn add(&mut self, text: &[u8]) {
        for (name, replacement) in definitions(text) {
            let all = self.0.entry(name).or_default();
            if !all.contains(&replacement) {
                all.push(replacement);
            }
        }
    }

    /// Whether these words can turn into an attribute.
    pub(super) fn have_attributes(&self, start: &BTreeSet<Vec<u8>>) -> bool {
        self.reached(start).iter().any(|word| matches!(*word, b"__attribute__" | b"__attribute"))
    }

    /// The words, and all that they can turn into.
    fn reached<'a>(&'a self, start: &'a BTreeSet<Vec<u8>>) -> BTreeSet<&'a [u8]> {
        let mut reached: BTreeSet<&[u8]> = start.iter().map(Vec::as_slice).collect();
        let mut open: Vec<&[u8]> = reached.iter().copied().collect();
        while let Some(word) = open.pop() {
            for replacement in self.0.get(word).into_iter().flatten() {
                open.extend(words(replacement).filter(|word| reached.insert(word)));
            }
        }
        reached
    }

    /// Whether any file or command defines it.
    pub(super) fn is_macro(&self, name: &[u8]) -> bool {
        self.0.contains_key(name)
    }

    /// All names with their replacements, parameters before them.
    pub(super) fn all(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().flat_map(|(name, all)| all.iter().map(|replacement| (name.as_slice(), replacement.as_slice())))
    }
}

/// Whether a replacement ends a declaration, gives it a value, or goes on to another one.
fn declares_more(text: &[u8]) -> bool {
    let mut depth = 0;
    text.iter().any(|byte| {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            _ => {}
        }
        matches!(byte, b';' | b'{' | b'}') || (depth == 0 && matches!(byte, b'=' | b','))
    })
}

/// A macro's name, and its parameters and replacement as one text: parameters are words like others.
type Definition = (Vec<u8>, Vec<u8>);

fn definitions(text: &[u8]) -> Vec<Definition> {
    let mut out = Vec::new();
    for at in memchr::memmem::find_iter(text, b"define") {
        let line = memchr::memrchr(b'\n', &text[..at]).map_or(0, |end| end + 1);
        let Some(blanks) = text[line..at].trim_ascii().strip_prefix(b"#") else { continue };
        let after = &text[at + b"define".len()..];
        if !blanks.trim_ascii().is_empty() || !after.first().is_some_and(u8::is_ascii_whitespace) {
            continue;
        }
        let after = after.trim_ascii_start();
        let mut end = 0;
        loop {
            end = after[end..].iter().position(|b| *b == b'\n').map_or(after.len(), |i| end + i);
            if end == after.len() || !after[..end].trim_ascii_end().ends_with(b"\\") {
                break;
            }
            end += 1;
        }
        let whole: Vec<u8> = joined(&after[..end]);
        let name = words(&whole).next().unwrap_or_default().to_vec();
        let rest = whole[name.len().min(whole.len())..].to_vec();
        out.push((name, rest));
    }
    out
}

/// One line of several, without comments.
fn joined(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match (text[at], text.get(at + 1)) {
            (b'\\', Some(b'\n')) => at += 2,
            (b'/', Some(b'/')) => break,
            (b'/', Some(b'*')) => {
                at = memchr::memmem::find(&text[at + 2..], b"*/").map_or(text.len(), |length| at + 2 + length + 2);
                out.push(b' ');
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// `-DNAME=TEXT`, which means what `#define NAME TEXT` does.
fn of_argument(argument: &str) -> Option<Definition> {
    let (name, replacement) = argument.strip_prefix("-D")?.split_once('=')?;
    let (name, parameters) = name.split_at(name.find('(').unwrap_or(name.len()));
    Some((name.as_bytes().to_vec(), format!("{parameters} {replacement}").into_bytes()))
}

/// What a definition has before its replacement, and the replacement.
#[derive(Debug)]
pub(super) struct Parameters<'t> {
    pub(super) names: Vec<&'t [u8]>,
    /// Which of them stands for all further arguments.
    pub(super) variadic: Option<usize>,
    pub(super) is_function: bool,
    pub(super) body: &'t [u8],
}

/// The parameters of a definition: a list right behind the name.
pub(super) fn parameters(definition: &[u8]) -> Parameters<'_> {
    let end = memchr::memchr(b')', definition).filter(|_| definition.starts_with(b"("));
    let Some(end) = end else {
        return Parameters { names: Vec::new(), variadic: None, is_function: false, body: definition };
    };
    let list = definition[1..end].split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let mut variadic = None;
    let names = list.enumerate().map(|(place, name)| match name.strip_suffix(b"...") {
        Some(name) => {
            variadic = Some(place);
            if name.is_empty() { &b"__VA_ARGS__"[..] } else { name.trim_ascii() }
        }
        None => name,
    });
    let names = names.collect();
    Parameters { names, variadic, is_function: true, body: &definition[end + 1..] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn harmless(text: &str, body: &str) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.h");
        std::fs::write(&path, text).unwrap();
        let command = ["gcc".to_owned(), "-DEVIL=} int x; {".to_owned(), "-DGOOD=1".to_owned()];
        let macros = Macros::read(&BTreeSet::from([path]), std::iter::once(&command[..])).unwrap();
        macros.are_harmless(&words(body.as_bytes()).map(<[u8]>::to_vec).collect())
    }

    /// What ends a declaration, on whatever way, is not plain.
    #[test]
    fn plain() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.h");
        std::fs::write(&path, "#define A __attribute__((cold))\n#define B A; int x\n#define C B\n").unwrap();
        let macros = Macros::read(&BTreeSet::from([path]), std::iter::empty()).unwrap();
        let plain = |word: &[u8]| macros.are_plain(&BTreeSet::from([word.to_vec()]));
        assert!(plain(b"A") && plain(b"other") && !plain(b"B") && !plain(b"C"));
        let mut macros = macros;
        macros.add(
            b"#define D int a,\n#define E(x) __attribute__((alias(x)))\n#define F x = 1\n#define G(a, b) f(a, b)\n",
        );
        let plain = |word: &[u8]| macros.are_plain(&BTreeSet::from([word.to_vec()]));
        assert!(!plain(b"D") && !plain(b"E") && !plain(b"F") && plain(b"G"));
        let attribute = |word: &[u8]| macros.have_attributes(&BTreeSet::from([word.to_vec()]));
        assert!(attribute(b"A") && attribute(b"E") && !attribute(b"G"));
        assert!(macros.is_macro(b"A") && !macros.is_macro(b"x"));
    }

    /// Macros that are whole, directly and through others, in every way to write them.
    #[test]
    fn whole() {
        assert!(harmless("", "return x + GOOD;"));
        assert!(harmless("#define M(x) do { (x)++; } \\\n\twhile (0)\n# define N M(1)\n", "N;"));
        assert!(harmless("#define OPEN {\n#define M(a, b) a##b /* } */ // {\n#define S \"{\"\n", "M(x, y); f(S);"));
    }

    /// One half anywhere on the way, on the command line, as a second definition, or by a pasted name.
    #[test]
    fn halves() {
        assert!(!harmless("", "EVIL"));
        assert!(!harmless("#define A B\n#define B {\n", "A"));
        assert!(!harmless("#define A 1\n#undef A\n\t#\tdefine A (\n", "A"));
        assert!(!harmless("#define OPEN {\n#define M(a, b) a##b\n", "M(OP, EN)"));
        assert!(!harmless("#define P _Pragma(\"pack(1)\")\n", "P"));
    }
}

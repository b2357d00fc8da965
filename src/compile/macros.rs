//! Could a macro in a function's body end that body?
//!
//! In: words of bodies, and every file and command of the units that read them. Out: whether all macros that the words may lead
//! to are balanced. Hard because a macro means what the nearest definition says, and names can be pasted
//! together: so all definitions of a name count, wherever they are, and a pasted name may be any that begins with a word at hand.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use rayon::prelude::*;

use super::command::TAKES_VALUE;
use super::items::{is_word, words};
use super::pieces::is_balanced;
use super::plain::plain;

/// Name -> what it is replaced by, in any file.
pub(super) struct Macros(HashMap<Vec<u8>, Vec<Vec<u8>>>);

impl Macros {
    /// All definitions in these files and commands. A file that cannot be read makes nothing certain.
    pub(super) fn read<'a>(files: &BTreeSet<PathBuf>, commands: impl Iterator<Item = &'a [String]>) -> Option<Macros> {
        let files: Vec<&PathBuf> = files.iter().collect();
        let found: Option<Vec<Vec<Definition>>> =
            files.par_iter().map(|path| std::fs::read(path).ok().map(|text| definitions(&plain(&text)))).collect();
        let mut all: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
        let of_commands: Option<Vec<Vec<Definition>>> = commands.map(of_command).collect();
        for (name, replacement) in found?.into_iter().chain(of_commands?).flatten() {
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
        for (name, replacement) in definitions(&plain(text)) {
            let all = self.0.entry(name).or_default();
            if !all.contains(&replacement) {
                all.push(replacement);
            }
        }
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

/// The definitions in a text of logical lines.
fn definitions(text: &[u8]) -> Vec<Definition> {
    let mut out = Vec::new();
    for at in memchr::memmem::find_iter(text, b"define") {
        let line = memchr::memrchr(b'\n', &text[..at]).map_or(0, |end| end + 1);
        let Some(blanks) = text[line..at].trim_ascii().strip_prefix(b"#") else { continue };
        let after = &text[at + b"define".len()..];
        if !blanks.trim_ascii().is_empty() || !after.first().is_some_and(u8::is_ascii_whitespace) {
            continue;
        }
        let end = memchr::memchr(b'\n', after).unwrap_or(after.len());
        let whole = after[..end].trim_ascii_start();
        let length = whole.iter().position(|byte| !is_word(*byte)).unwrap_or(whole.len());
        let (name, rest) = whole.split_at(length);
        out.push((name.to_vec(), rest.to_vec()));
    }
    out
}

/// What a command defines: `-DNAME=TEXT` means what `#define NAME TEXT` does, and without a text it is 1; also in two arguments, or
/// handed on to the preprocessor. `None` when more arguments are in a file.
fn of_command<'a>(command: &'a [String]) -> Option<Vec<Definition>> {
    let parts = |argument: &'a String| match argument.strip_prefix("-Wp,") {
        Some(list) => list.split(',').collect(),
        None => vec![argument.as_str()],
    };
    let mut arguments = command.iter().flat_map(parts);
    let mut out = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument {
            "-D" => out.extend(arguments.next().map(of_argument)),
            "-Xpreprocessor" | "-Xclang" => {}
            option if TAKES_VALUE.contains(&option) => drop(arguments.next()),
            option if option.starts_with('@') => return None,
            option => out.extend(option.strip_prefix("-D").map(of_argument)),
        }
    }
    Some(out)
}

fn of_argument(text: &str) -> Definition {
    let (name, replacement) = text.split_once('=').unwrap_or((text, "1"));
    let (name, parameters) = name.split_at(name.find('(').unwrap_or(name.len()));
    (name.as_bytes().to_vec(), format!("{parameters} {replacement}").into_bytes())
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
        assert!(macros.is_macro(b"A") && !macros.is_macro(b"x"));
    }

    /// However a command or a text spells it.
    #[test]
    fn defined() {
        let defined = |command: &str| {
            let command: Vec<String> = command.split(' ').map(String::from).collect();
            let all = Macros::read(&BTreeSet::new(), std::iter::once(&command[..]))?;
            let both = all.0.iter().flat_map(|(name, texts)| texts.iter().map(move |text| (name, text)));
            let mut all: Vec<String> =
                both.map(|(n, t)| String::from_utf8([&n[..], b":", t].concat()).unwrap()).collect();
            all.sort();
            Some(all.join(","))
        };
        let of = |command| defined(command).unwrap();
        assert_eq!(of("gcc -DA -DB=b -DC(x)=x -DD="), "A: 1,B: b,C:(x) x,D: ");
        assert_eq!(of("gcc -D A -D B=b -U C -UD -include -DE -I -DF x.c"), "A: 1,B: b");
        assert_eq!(of("gcc -Wp,-MMD,x.d,-DA=a,-D,B -Xpreprocessor -DC"), "A: a,B: 1,C: 1");
        assert_eq!(defined("gcc @arguments -DA"), None);
        let mut all = Macros(HashMap::new());
        all.add(b"#define \\\n A(x) \\\r\n x\n#/* c */define B /*\n*/ b // c\n#def\\\nine C\n%: define D%:%:d\n/* #\n*/ #define E\n x #define F\n");
        let get =
            |name: &str| all.0.get(name.as_bytes()).map(|text| String::from_utf8_lossy(&text[0]).trim().to_owned());
        let got = ["A", "B", "C", "D", "E", "F"].map(get);
        assert_eq!(
            got,
            [Some("(x)  x"), Some("b"), Some(""), Some("##d"), Some(""), None].map(|t| t.map(str::to_owned))
        );
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

//! Names that macros make, and names that they do not; each case that makes one was tried with `gcc -E`.

use std::collections::BTreeSet;

use super::*;
use crate::compile::flows::Flows;
use crate::compile::macros::Macros;

/// Whether a name may come of a file with these macros and this text; `None` when that cannot be told.
fn makes(macros: &str, text: &str, name: &str) -> Option<bool> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.h");
    std::fs::write(&path, macros).unwrap();
    let macros = Macros::read(&BTreeSet::from([path]), std::iter::empty()).unwrap();
    let flows = Flows::new(&macros)?;
    let arrivals = Arrivals::new(&flows, &[flows.calls(text.as_bytes())]);
    Some(Grammar::new(&arrivals).may_make(name.as_bytes()))
}

#[track_caller]
fn made(macros: &str, text: &str, name: &str) {
    assert_eq!(makes(macros, text, name), Some(true), "{macros}\n{text}");
    // What the preprocessor says of the same.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.c");
    std::fs::write(&path, format!("{macros}\n{text}\n")).unwrap();
    let out = std::process::Command::new("gcc").args(["-E", "-P"]).arg(&path).output().unwrap();
    let found = super::super::items::words(&out.stdout).any(|word| word == name.as_bytes());
    assert!(found, "{}", String::from_utf8_lossy(&out.stdout));
}

#[track_caller]
fn not_made(macros: &str, text: &str, name: &str) {
    assert_eq!(makes(macros, text, name), Some(false), "{macros}\n{text}");
}

const PASTE: &str = "#define PASTE_(a, b) a##b\n#define PASTE(a, b) PASTE_(a, b)\n";

/// Words of the macro with what its users hand to it, and with nothing else.
#[test]
fn with_words() {
    let lock = "#define LOCK(x) x##_lock\n#define SYS(x) sys_ ## x\n#define BOTH(x, y) x##_##y(int)\n";
    made(lock, "LOCK(my);", "my_lock");
    made(lock, "SYS( read );", "sys_read");
    made(lock, "BOTH(read, lock);", "read_lock");
    made(&format!("{lock}#define OLD(x) LOCK(old_##x)\n#define LOCK2(x) x##_lock\n"), "LOCK2(my) OLD(my)", "my_lock");
    made(&format!("{lock}#define OLD_(x) LOCK(x)\n#define OLD(x) OLD_(old_##x)\n"), "OLD(my)", "old_my_lock");
    made("#define AB a##b\n", "AB", "ab");
    made("#define N(n) f_##n\n#define M(n) N(n)\n", "M(__COUNTER__) M(__COUNTER__)", "f_1");
    not_made(lock, "LOCK(my); your", "your_lock");
    not_made(lock, "LOCK(my);", "my_locks");
    not_made(lock, "SYS(read); LOCK(my);", "sys_my");
    not_made(lock, "f(read, lock)", "read_lock");
}

/// Arguments alone, through any number of macros.
#[test]
fn of_arguments() {
    made(PASTE, "int PASTE(my, _lock);", "my_lock");
    made(PASTE, "int PASTE (PASTE(my, _), PASTE(lo, ck));", "my_lock");
    made(&format!("{PASTE}#define OTHER(x, y) PASTE(q_, y) + x\n"), "OTHER(one, two)", "q_two");
    not_made(&format!("{PASTE}#define OTHER(x, y) PASTE(q_, y) + x\n"), "OTHER(one, two)", "q_one");
    not_made(PASTE, "PASTE(lock, my_);", "my_lock");
    not_made(PASTE, "f(my_, lock) PASTE(x, y)", "my_lock");
    not_made(PASTE, "f(PASTE) + \"PASTE(my_, lock)\"", "my_lock");
    not_made(PASTE, "#ifdef PASTE\n#undef PASTE\n#endif", "my_lock");
    // A comma that may go is no paste of names.
    not_made("#define F(a, ...) f(a, ##__VA_ARGS__)\n", "F(my, _lock)", "my_lock");
    made("#define V(...) W(x, __VA_ARGS__)\n#define W(x, ...) x##__VA_ARGS__\n", "V(one, two)", "xone");
    made("#define W(args...) my_##args\n", "W(one, two)", "my_one");
}

/// What an argument turns into, and an argument that is several, or nothing.
#[test]
fn what_arguments_become() {
    made(&format!("{PASTE}#define PRE my_\n"), "PASTE(PRE, lock)", "my_lock");
    made(&format!("{PASTE}#define PRE() PRE2\n#define PRE2 my_\n"), "PASTE(PRE(), lock)", "my_lock");
    made(&format!("{PASTE}#define TWO my_, lock\n#define ONE(x) PASTE_(x)\n"), "ONE(TWO)", "my_lock");
    made(&format!("{PASTE}#define ALL(x...) PASTE(x)\n"), "ALL(my_, lock)", "my_lock");
    made(&format!("{PASTE}#define ARGS(x...) x\n#define HAND(x) PASTE(x)\n"), "HAND(ARGS(my_, lock))", "my_lock");
    made("#define T(a, b, c) a##b##c\n", "T(my_, , lock)", "my_lock");
    made(&format!("{PASTE}#define NUMBERED_1 my_\n#define OF(n) PASTE(NUMBERED_##n, lock)\n"), "OF(1)", "my_lock");
}

/// Macros by other names: a second name, a parameter, a pasted name, what another macro turns into.
#[test]
fn by_other_names() {
    made(&format!("{PASTE}#define ALIAS PASTE\n"), "ALIAS(my_, lock)", "my_lock");
    let caller = format!("{PASTE}#define EACH(what) what(my_, lock)\n");
    made(&caller, "EACH(PASTE)", "my_lock");
    not_made(&caller, "EACH(other) PASTE(x, y)", "my_lock");
    made(&format!("{caller}#define ALL(what) EACH(what)\n"), "ALL(PASTE)", "my_lock");
    not_made(&format!("{caller}#define ALL(what) EACH(what)\n"), "ALL(other)", "my_lock");
    let pasted = "#define CAT2(a, b) a##b\n#define CALL(n, a, b) CAT##n(a, b)\n";
    made(pasted, "CALL(2, my_, lock)", "my_lock");
    not_made(pasted, "CALL(3, my_, lock)", "my_lock");
    let result = format!("{PASTE}#define GET() PASTE\n");
    made(&result, "GET()(my_, lock)", "my_lock");
    not_made(&result, "GET() x (my_, lock)", "my_lock");
    made(&format!("{PASTE}#define ID(x) x\n"), "ID(PASTE)(my_, lock)", "my_lock");
    made(
        "#define MANY_2(a, b) a##b\n#define PASTE(a, b) a##b\n#define MANY(n, x...) PASTE(MANY_, n)(x)\n",
        "MANY(2, my_, lock)",
        "my_lock",
    );
}

/// Parentheses that come from elsewhere, and nothing between a name and its parentheses.
#[test]
fn parentheses() {
    made(&format!("{PASTE}#define APPLY(f, args) f args\n"), "APPLY(PASTE, (my_, lock))", "my_lock");
    made(&format!("{PASTE}#define NONE\n#define ID(x) x\n"), "ID(PASTE NONE (my_, lock))", "my_lock");
    made(&format!("{PASTE}#define NO(x)\n#define ID(x) x\n"), "ID(PASTE NO(1) (my_, lock))", "my_lock");
    made(&format!("{PASTE}#define WITH (my_, lock)\n#define ID(x) x\n"), "ID(PASTE WITH)", "my_lock");
    made(PASTE, "PASTE\n(my_,\nlock)", "my_lock");
    // Those behind a name to which something is pasted.
    let named = "#define DO(x) do_##x\n#define do_join(a, b) a##b\n";
    made(named, "DO(join(my_, lock))", "my_lock");
    made(&format!("{named}#define ALSO(x) DO(x)\n"), "ALSO(join(my_, lock))", "my_lock");
    made("#define T(x) a_##x##_b\n", "T(my lock)", "a_my");
    not_made(named, "DO(other(my_, lock)) join(my_, lock)", "my_lock");
    // A macro that opens and does not close.
    assert_eq!(makes(&format!("{PASTE}#define OPEN PASTE(my_,\n"), "OPEN lock)", "my_lock"), None);
}

/// Conditions inside of parentheses.
#[test]
fn conditions() {
    made(PASTE, "PASTE(my_,\n#ifdef X\na\n#else\nlock\n#endif\n)", "my_lock");
    made(PASTE, "PASTE(\n#ifdef X\nmy_, a\n#else\nmy_,\n#endif\nlock)", "my_lock");
    made(PASTE, "#ifdef X\nPASTE(a,\n#else\nPASTE(my_,\n#endif\nlock)", "my_lock");
    made(PASTE, "#ifndef X\nPASTE(my_,\n#else\nf(a,\n#endif\nlock)", "my_lock");
    // gcc takes no directive between a name and its parentheses; that others do not either is nothing to build on.
    assert_eq!(makes(PASTE, "#ifndef X\nPASTE\n#else\nf\n#endif\n(my_, lock)", "my_lock"), Some(true));
    assert_eq!(makes(PASTE, "PASTE\n#ifdef X\n(a, b)\n#else\n(my_, lock)\n#endif", "my_lock"), Some(true));
}

/// A few bits at a time, always the same ones.
struct Dice(u64);

impl Dice {
    fn of(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.of(of.len() as u64) as usize]
    }

    /// Words, parameters, pastes and calls, `depth` deep.
    fn text(&mut self, params: &[&str], depth: u64) -> String {
        let word = |dice: &mut Dice| match dice.of(3) {
            0 if !params.is_empty() => dice.one(params).to_owned(),
            _ => dice.one(&["a_", "_b", "c", "M1", "M3", "M", "2", "M4", "NONE", "TWO", ""]).to_owned(),
        };
        let mut out = String::new();
        for _ in 0..=self.of(2) {
            out += &match self.of(8) {
                0 | 1 if !params.is_empty() => format!(" {}##{} ", self.one(params), word(self)),
                2 if !params.is_empty() => format!(" {}##{} ", self.one(&["a_", "_b", "M"]), self.one(params)),
                3 | 4 if depth > 0 => {
                    let (head, first) = (word(self), self.text(params, depth - 1));
                    format!(" {head}({first}, {}) ", self.text(params, depth - 1))
                }
                5 if depth > 0 => format!(" M{}({}) ", self.of(6), self.text(params, depth - 1)),
                6 => format!(" ({})", word(self)),
                _ => format!(" {} ", word(self)),
            };
        }
        out
    }
}

/// Whatever the preprocessor makes of macros that nobody would write is found.
#[test]
fn random_macros() {
    let mut dice = Dice(7);
    let (mut made_any, mut not_told) = (0, 0);
    for _ in 0..1000 {
        let mut macros = "#define NONE\n#define TWO a_, _b\n".to_owned();
        for number in 0..6 {
            let (list, params): (&str, &[&str]) = match dice.of(4) {
                0 => ("(x)", &["x"]),
                1 => ("(x, y)", &["x", "y"]),
                2 => ("(x, y...)", &["x", "y"]),
                _ => ("", &[]),
            };
            macros += &format!("#define M{number}{list} {}\n", dice.text(params, 2));
        }
        let text = format!("{};\n{};\n{};\n", dice.text(&[], 3), dice.text(&[], 3), dice.text(&[], 3));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.c");
        std::fs::write(&path, format!("{macros}{text}")).unwrap();
        let out = std::process::Command::new("gcc").args(["-E", "-P", "-w"]).arg(&path).output().unwrap();
        // What is not C is nothing that compiles.
        if !out.status.success() {
            continue;
        }
        let both = format!("{macros}{text}");
        let there: BTreeSet<&[u8]> = super::super::items::words(both.as_bytes()).collect();
        for word in super::super::items::words(&out.stdout).filter(|word| !there.contains(word)) {
            let found = makes(&macros, &text, std::str::from_utf8(word).unwrap());
            let shown = String::from_utf8_lossy(&out.stdout);
            assert_ne!(found, Some(false), "{both}\n{}: {shown}", String::from_utf8_lossy(word));
            made_any += u32::from(found.is_some());
            not_told += u32::from(found.is_none());
        }
    }
    assert!(made_any > 100 && not_told < made_any, "{made_any} {not_told}");
}

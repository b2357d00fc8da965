//! What a header's change can be said to be about, and what not.

use super::*;

const HEADER: &str = "#ifndef H\n#define H\nstruct s;\nint f(struct s *s);\n#define M(x) ((x) + 1)\n\
    static inline int g(void)\n{\n#ifdef A\n\treturn M(1);\n#else\n\treturn f(0);\n#endif\n}\n#endif\n";

fn about(before: &str, after: &str) -> Option<Vec<String>> {
    let names = changed_names(before.as_bytes(), after.as_bytes())?;
    Some(names.all.iter().map(|word| String::from_utf8(word.clone()).unwrap()).collect())
}

fn edit(old: &str, new: &str) -> Option<Vec<String>> {
    assert!(HEADER.contains(old));
    about(HEADER, &HEADER.replacen(old, new, 1))
}

fn names(all: &[&str]) -> Option<Vec<String>> {
    Some(all.iter().map(|name| (*name).to_owned()).collect())
}

/// What came, went and changed, of each kind, alone and together.
#[test]
fn named() {
    assert_eq!(edit("int f(", "/* f */\nint f("), names(&[]));
    assert_eq!(edit("int f(", "bool __must_check h(const char *, ...) __printf(1, 2);\nint f("), names(&["h"]));
    assert_eq!(edit("struct s;", "struct s;\nunion u;"), names(&[]));
    assert_eq!(edit("int f(struct s *s);\n", ""), names(&["f"]));
    assert_eq!(edit("int f(", "extern struct s *x;\nextern const char y[2][N];\nint f("), names(&["x", "y"]));
    let variable = |of: &str| format!("extern {of};\nint f(void);\n");
    assert_eq!(about(&variable("struct s *x"), &variable("struct s __rcu *x")), names(&["x"]));
    assert_eq!(about(&variable("int x[]"), &variable("int x[4]")), names(&["x"]));
    assert_eq!(edit("int f(struct s *s)", "long *f(void)"), names(&["f"]));
    assert_eq!(edit("int f(", "struct s *h(int);\n# define N \\\n\t3\nint f("), names(&["N", "h"]));
    assert_eq!(edit("#define M(x) ((x) + 1)\n", ""), names(&["M"]));
    assert_eq!(edit("((x) + 1)", "(x)"), names(&["M"]));
    assert_eq!(edit("f(0)", "f(1)"), names(&["g"]));
    assert_eq!(edit("static inline int g(void)", "static inline long g(int x)"), names(&["g"]));
    let text = HEADER.replace("f(0)", "f(\"a  b\")");
    assert_eq!(about(&text, &text.replace("a  b", "a b")), names(&["g"]));
    assert_eq!(edit("static inline", "static __always_inline"), names(&["g"]));
    let more = "static __always_inline void h(void)\n{\n\tif (1) {\n#if X\n\t\tf(0);\n#endif\n\t}\n}\nint f(";
    assert_eq!(edit("int f(", more), names(&["h"]));
    assert_eq!(about("%:define A 1\n#def\\\nine B 1\n", "%:define A 2\n#define B 1\n"), names(&["A"]));
    let gone = &HEADER[HEADER.find("static").unwrap()..HEADER.rfind("#endif").unwrap()];
    assert_eq!(edit(gone, "int g(void);\n"), names(&["g"]));
}

/// Whatever does more than declare its name, or cannot be told to do only that.
#[test]
fn others() {
    for (old, new) in [
        ("#define H\n", "#define H\n#include <x.h>\n"),
        ("#define H\n", "#define H\n#undef M\n"),
        ("#define H\n", "#define H\n#ifdef B\n"),
        ("#define H\n", "#define H\n#pragma pack(1)\n"),
        ("#ifdef A", "#ifdef A\n{\n"),
        ("int f(", "int x;\nint f("),
        ("int f(", "extern int x, y;\nint f("),
        ("int f(", "extern int x = 1;\nint f("),
        ("int f(", "extern int (*x)(void);\nint f("),
        ("int f(", "extern int x[2], y;\nint f("),
        ("int f(", "extern int x[2] y;\nint f("),
        ("int f(", "extern x;\nint f("),
        ("int f(", "extern _Alignas(64) char x[64];\nint f("),
        ("int f(", "extern int x __asm(LABEL);\nint f("),
        ("int f(", "extern __attribute((weak)) int x;\nint f("),
        ("int f(", "extern _Atomic(int) x;\nint f("),
        ("int f(", "const double (x);\nint f("),
        ("int f(", "extern struct s (x);\nint f("),
        ("int f(", "extern int x __section(\"a\");\nint f("),
        ("int f(", "struct t { int x; };\nint f("),
        ("int f(", "enum { X, Y };\nint f("),
        ("int f(", "typedef int t(void);\nint f("),
        ("int f(", "static int x(void) { return 1; }\nint f("),
        ("int f(", "DECLARE(x);\nint f("),
        ("int f(", "DEFINE(x) static inline int y(void) { return 1; }\nint f("),
        ("int f(", "unsigned int (*p)(void);\nint f("),
        ("int f(", "struct s (*p)(void);\nint f("),
        ("int f(", "void h(void) asm(\"other\");\nint f("),
        ("int f(", "int h(void), x;\nint f("),
        ("int f(", "static inline void h(void) {\n#ifdef A\n}\n#else\n}\n#endif\nint f("),
        ("int f(", "static inline void h(void) { } }\nint f("),
        ("struct s;", "struct s { int x; };"),
    ] {
        assert_eq!(edit(old, new), None, "{new}");
    }
    // An item that moved over a conditional has its name; a conditional that moved has none.
    let moved = HEADER.replace("#ifdef A\n\treturn M(1);\n", "\treturn M(1);\n#ifdef A\n");
    assert_eq!(about(HEADER, &moved), names(&["g"]));
    let around = "#ifdef A\nint a(void);\n#endif\nint b(void);\n";
    assert_eq!(about(around, "#ifdef A\nint a(void);\nint b(void);\n#endif\n"), names(&["b"]));
}

/// What stays of a header is all but what has the names, directives inside of it included; in lines of one form.
#[test]
fn what_stays() {
    let gone = "/* both */ int f(struct s *s); // f\n#define N \\\n 1\n";
    let text =
        format!("#define A \\\n \"/* a */\"\n{gone}static __always_inline int g(void)\n{{\n\treturn A[0];\n}}\n");
    let names = changed_names(text.as_bytes(), text.replace(gone, "long f(void);\n").as_bytes()).unwrap();
    let stays = String::from_utf8(names.without).unwrap();
    let lines: Vec<&str> = stays.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, ["#define A  \"/* a */\"", "static __always_inline int g(void)", "{", "\treturn A[0];", "}"]);
    let with = HEADER.replace("return M(1)", "return M(2)");
    let stays = changed_names(HEADER.as_bytes(), with.as_bytes()).unwrap().without;
    let stays = String::from_utf8(stays).unwrap();
    let lines: Vec<&str> = stays.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(
        lines,
        ["#ifndef H", "#define H", "struct s;", "int f(struct s *s);", "#define M(x) ((x) + 1)", "#endif"]
    );
}

/// The words of what stays are those that a unit reads in any case; the words of what differs may be macros.
#[test]
fn words_of_both() {
    let patched = HEADER.replace("int f(struct s *s);", "int __init f(struct s *s);").replace("f(0)", "more(0)");
    let names = changed_names(HEADER.as_bytes(), patched.as_bytes()).unwrap();
    let has = |words: &Words, word: &str| words.contains(word.as_bytes());
    assert!(has(&names.heads, "__init") && has(&names.bodies, "more") && has(&names.bodies, "M"));
    let variable = changed_names(b"extern int x;", b"extern int x __read_mostly;").unwrap();
    assert!(has(&variable.variables, "__read_mostly") && has(&variable.variables, "x"));
    assert!(has(&names.rest, "H") && has(&names.rest, "M") && !has(&names.rest, "f") && !has(&names.rest, "g"));
}

//! Can a unit see the difference? Two token streams that differ only in `static inline` functions and prototypes it never
//! uses compile to the same code.
//!
//! In: both folded streams. Out: whether nothing else differs. This settles most of
//! a header's fan-out without compiling: an edited inline function in `net/sock.h` reaches 188 units of a
//! small kernel, and ten of them call it. Hard because C has no item syntax: the stream is cut at file
//! scope, and whatever is not clearly a `static inline` function or a prototype counts as code that is emitted.

use std::collections::{BTreeMap, BTreeSet};

use memchr::memmem;

use super::items::{Item, Kind, cut, is_word, words};

/// Whether the streams differ only in `static inline` functions and prototypes that no emitted code refers to.
pub(super) fn only_unused_differs(original: &[u8], patched: &[u8]) -> bool {
    let (a, b) = (Stream::new(original), Stream::new(patched));
    // Everything that may be emitted must be the same, in the same order.
    if !a.emitted().eq(b.emitted()) {
        return false;
    }
    let (inline_a, inline_b) = (a.named(), b.named());
    let names: BTreeSet<&[u8]> = inline_a.keys().chain(inline_b.keys()).copied().collect();
    let mut open: Vec<&[u8]> = names.into_iter().filter(|name| inline_a.get(name) != inline_b.get(name)).collect();
    let mut dirty: BTreeSet<&[u8]> = open.iter().copied().collect();
    while let Some(name) = open.pop() {
        for stream in [&a, &b] {
            for item in stream.users(name) {
                match item.kind {
                    // A declaration can depend on another one: `extern int y[sizeof(x)]`.
                    Kind::Inline(user) | Kind::Declaration(user) | Kind::Prototype(user) => {
                        if dirty.insert(user) {
                            open.push(user);
                        }
                    }
                    Kind::Emitted => return false,
                }
            }
        }
    }
    true
}

/// The `static inline` functions of a stream that no emitted code leads to.
pub(super) fn unreached(text: &[u8]) -> BTreeSet<&[u8]> {
    let stream = Stream::new(text);
    let bodies = stream.inlines();
    let mut open: Vec<&[u8]> = stream.emitted().flat_map(words).filter(|word| bodies.contains_key(word)).collect();
    let mut reached: BTreeSet<&[u8]> = open.iter().copied().collect();
    while let Some(name) = open.pop() {
        for word in bodies[name].iter().flat_map(|body| words(body)) {
            if bodies.contains_key(word) && reached.insert(word) {
                open.push(word);
            }
        }
    }
    bodies.into_keys().filter(|name| !reached.contains(name)).collect()
}

struct Stream<'t> {
    text: &'t [u8],
    items: Vec<Item<'t>>,
}

impl<'t> Stream<'t> {
    fn new(text: &'t [u8]) -> Stream<'t> {
        Stream { text, items: cut(text) }
    }

    fn emitted(&self) -> impl Iterator<Item = &'t [u8]> + '_ {
        self.items.iter().filter(|item| item.kind == Kind::Emitted).map(|item| item.text)
    }

    /// The texts of what has a name, functions and their declarations: each with how much of what is emitted stands before it, since an attribute
    /// holds from where it is given.
    fn named(&self) -> BTreeMap<&'t [u8], Vec<(usize, &'t [u8])>> {
        let mut map: BTreeMap<&[u8], Vec<(usize, &[u8])>> = BTreeMap::new();
        let mut before = 0;
        for item in &self.items {
            match item.kind {
                Kind::Emitted => before += 1,
                Kind::Inline(name) | Kind::Declaration(name) | Kind::Prototype(name) => {
                    map.entry(name).or_default().push((before, item.text));
                }
            }
        }
        map
    }

    fn inlines(&self) -> BTreeMap<&'t [u8], Vec<&'t [u8]>> {
        let mut map: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
        for item in &self.items {
            if let Kind::Inline(name) = item.kind {
                map.entry(name).or_default().push(item.text);
            }
        }
        map
    }

    /// Items that have `name` as a word, the function's own definition and declarations left out.
    fn users(&self, name: &'t [u8]) -> impl Iterator<Item = &Item<'t>> {
        let own = [Kind::Inline(name), Kind::Declaration(name), Kind::Prototype(name)];
        memmem::find_iter(self.text, name).filter_map(move |at| {
            let before = self.text[..at].iter().rev().take_while(|byte| is_word(**byte)).count();
            // In a literal an escape may stand before the name: `\tcall`, `\nf`, `\011f`.
            let is_escape = before > 0 && self.text[..at - before].ends_with(b"\\");
            let after = self.text.get(at + name.len()).copied();
            if (before > 0 && !is_escape) || after.is_some_and(is_word) {
                return None;
            }
            let index = self.items.partition_point(|item| item.start <= at).checked_sub(1)?;
            Some(&self.items[index]).filter(|item| !own.contains(&item.kind))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "static inline __attribute__((__unused__)) int f(int a){return a;}";
    const NEW: &str = "static inline __attribute__((__unused__)) int f(int a){return a+1;}";

    fn blind(before: &str, after: &str) -> bool {
        only_unused_differs(before.as_bytes(), after.as_bytes())
    }

    fn around(rest: &str) -> bool {
        blind(&format!("struct s{{int x;}};{OLD}{rest}"), &format!("struct s{{int x;}};{NEW}{rest}"))
    }

    /// A unit that never names the function cannot see its change, nor one where only unused inlines name it.
    #[test]
    fn unused() {
        assert!(around("int g(void){return 0;}"));
        assert!(around("static inline int h(void){return f(1);}int g(void){return 0;}"));
        assert!(around("int ff(void){return 0;}int f2=3;"));
        assert!(blind(
            &format!("static inline int f(int);{OLD}int g;"),
            &format!("static inline int f(int);{NEW}int g;")
        ));
    }

    /// What is reached is reached through anything; the rest is not.
    #[test]
    fn reach() {
        let text = "static inline int a(void){return 1;}static inline int b(void){return a();}static inline int c(void){return b();}\
            static inline int d(void){return c();}static inline int e(void){return 0;}int f(void){return b();}asm(\"call\\te\");";
        let names: Vec<&[u8]> = unreached(text.as_bytes()).into_iter().collect();
        assert_eq!(names, [b"c", b"d"]);
    }

    /// Every way to use the function counts: calls, chains, addresses, tables, assembly, attributes.
    #[test]
    fn used() {
        for rest in [
            "int g(void){return f(1);}",
            "static int g(void){return f(1);}",
            "static inline int h(void){return f(1);}int g(void){return h();}",
            "static inline int h(void){return f(1);}static inline int i(void){return h();}int(*p)(void)=i;",
            "int(*p)(int)=f;",
            "struct t{int(*p)(int);}t={.p=f};",
            "asm(\"call f\");",
            "asm(\"call\\tf\\n\");",
            "asm(\"call\\011f\\12\");",
            "static inline __attribute__((__used__)) int g(void){return f(1);}",
            "static inline __attribute__((__used__,__unused__)) int g(void){return f(1);}",
            "static inline __attribute__((constructor)) void g(void){f(1);}",
            "static inline int g(void)__attribute__((used));static inline int g(void){return f(1);}",
            "static inline int f(int)__attribute__((used));",
            "[[gnu::used]]static inline int g(void){return f(1);}",
        ] {
            assert!(!around(rest), "{rest}");
        }
    }

    /// A prototype that nothing needs: come, gone or changed; and one that something needs.
    #[test]
    fn prototypes() {
        let rest = "int g(void){return 0;}";
        for (before, after) in [
            ("", "extern int f(int a,void*b)__attribute__((noreturn));"),
            ("struct s*f(struct s*);", "struct s*f(struct s*,int);"),
            ("void __attribute__((noinline)) f(int);", ""),
            ("void f(int);", "static inline void f(int a){}"),
            ("void f(int);", "int h(int f);"),
            ("", "extern struct s*f;"),
            ("extern int f;", "extern __attribute__((aligned(8))) const long f[4][2]__attribute__((weak));"),
        ] {
            assert!(blind(&format!("{before}{rest}"), &format!("{after}{rest}")), "{before} / {after}");
            let uses = "int g(void){return f(1)+h(1);}";
            assert!(!blind(&format!("{before}{uses}"), &format!("{after}{uses}")), "{before} / {after}");
        }
        for (before, after) in [
            ("", "void f(void)__attribute__((alias(\"g\")));"),
            ("int(*f)(int);", "int(*f)(long);"),
            ("", "int f(int),h;"),
            ("", "extern int (*f)(int);"),
            ("", "extern int (f);"),
            ("", "extern int f,i;"),
            ("", "extern struct s(f);"),
            ("extern float(f);", "extern double(f);"),
            ("", "extern int f=1;"),
            ("", "int f;"),
            ("", "extern int f[2],i;"),
            ("", "typedef int f(int);"),
            ("", "void*memcpy(void*,const void*,unsigned long);"),
        ] {
            assert!(!blind(&format!("{before}{rest}"), &format!("{after}{rest}")), "{before} / {after}");
        }
    }

    /// What a declaration of an inline function says holds for those who call it, from there on.
    #[test]
    fn declarations_of_inlines() {
        let (with, without) = ("static inline int f(int)__attribute__((const));", "static inline int f(int);");
        let text = |first: &str, g: &str, then: &str| format!("{first}int g(void){{return {g};}}{then}{OLD}");
        for (uses, is_blind) in [("f(1)", false), ("1", true)] {
            assert_eq!(blind(&text(with, uses, ""), &text(without, uses, "")), is_blind);
            assert_eq!(blind(&text(with, uses, ""), &text("", uses, with)), is_blind);
            assert_eq!(blind(&text("", uses, ""), &text("", uses, with)), is_blind);
        }
        let aligned = "static inline int f(int)__attribute__((alloc_size(sizeof(x))));";
        let text = |x: &str, g: &str| format!("extern char x[{x}];{aligned}int g(void){{return {g};}}{OLD}");
        assert!(!blind(&text("4", "f(1)"), &text("8", "f(1)")) && blind(&text("4", "1"), &text("8", "1")));
    }

    /// A declaration that depends on one that differs, and is used.
    #[test]
    fn declarations_of_declarations() {
        let unit = "unsigned long g(void){return sizeof(y);}";
        for y in [
            "extern int y[sizeof(x)];",
            "extern int y __attribute__((aligned(sizeof(x))));",
            "extern int z[sizeof(x)];extern int y[sizeof(z)];",
        ] {
            let with = |x: &str, rest: &str| format!("{x}{y}{rest}");
            assert!(!blind(&with("extern char x[4];", unit), &with("extern char x[8];", unit)), "{y}");
            assert!(blind(&with("extern char x[4];", "int h;"), &with("extern char x[8];", "int h;")), "{y}");
        }
        assert!(!blind(
            "extern int x;void f(__typeof__(x) a);int g(void){f(-1);}",
            "extern long x;void f(__typeof__(x) a);int g(void){f(-1);}"
        ));
    }

    /// Anything else that differs counts, however small, and so does the order of what is emitted.
    #[test]
    fn other_changes() {
        for (before, after) in [
            ("int a;", "int b;"),
            ("int a;int b;", "int b;int a;"),
            ("struct s{int x;};", "struct s{long x;};"),
            ("int g(void){return 1;}", "int g(void){return 2;}"),
            ("static int g(void){return 1;}", "static int g(void){return 2;}"),
            ("inline int g(void){return 1;}", "inline int g(void){return 2;}"),
            ("", "int x;"),
        ] {
            assert!(!blind(before, after), "{before} / {after}");
        }
    }
}

//! Does a patch change nothing of a header but bodies of `static inline` functions?
//!
//! In: a header before and after, not preprocessed. Out: the functions, with the words of their new bodies; or nothing, when
//! anything else differs. Then a unit that uses none of them is settled without a look at its patched side.
//! Hard because the text has directives in it: a function that one stands in is never taken, and
//! directives and the other items must be the same, in the same order.

use std::collections::{BTreeMap, BTreeSet};

use super::items::{Kind, body_start, words};
use super::pieces::{Masked, Piece, is_balanced, same};

/// Function -> the words of its new body.
pub(super) type Bodies = BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>;

/// The functions whose bodies are all that differs; `None` when something else does.
pub(super) fn changed_bodies(original: &[u8], patched: &[u8]) -> Option<Bodies> {
    let (a, b) = (Masked::new(original), Masked::new(patched));
    let (old, new) = (a.pieces(), b.pieces());
    if old.len() != new.len() {
        return None;
    }
    let mut bodies = Bodies::new();
    for (old, new) in old.iter().zip(&new) {
        match (old, new) {
            (Piece::Directive { text: one, .. }, Piece::Directive { text: other, .. }) if one == other => {}
            (Piece::Item { text: one, inside, .. }, Piece::Item { text: other, inside: other_inside, .. })
                if inside == other_inside && same(one, other) => {}
            (
                Piece::Item { text: one, kind: Kind::Inline(name), inside, .. },
                Piece::Item { text: other, kind: Kind::Inline(renamed), inside: other_inside, .. },
            ) if name == renamed && inside.is_empty() && other_inside.is_empty() => {
                let (head, body) = one.split_at(body_start(one)?);
                let (other_head, other_body) = other.split_at(body_start(other)?);
                if head != other_head || !is_balanced(body) || !is_balanced(other_body) {
                    return None;
                }
                bodies.entry(name.to_vec()).or_default().extend(words(other_body).map(<[u8]>::to_vec));
            }
            _ => return None,
        }
    }
    Some(bodies)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "#ifndef H\n#define H\nstruct s { int x; };\n/* about { f */\nstatic inline int f(int a)\n{\n\treturn a;\n}\n\
        static __always_inline int g(void)\n{\n\treturn f(1);\n}\n#endif\n";

    fn changed(before: &str, after: &str) -> Option<Vec<String>> {
        let bodies = changed_bodies(before.as_bytes(), after.as_bytes())?;
        Some(bodies.into_keys().map(|name| String::from_utf8(name).unwrap()).collect())
    }

    /// A body that changed, and what may change beside it without a meaning: comments and layout.
    #[test]
    fn bodies() {
        let edit = |old: &str, new: &str| changed(HEADER, &HEADER.replace(old, new));
        assert_eq!(edit("return a;", "if (a) {\n\t\treturn 2;\n\t}\n\treturn a;"), Some(vec!["f".to_owned()]));
        assert_eq!(edit("return f(1);", "return f('}');"), Some(vec!["g".to_owned()]));
        assert_eq!(edit("/* about { f */", "// more\n"), Some(Vec::new()));
        let text = HEADER.replace("f(1)", "f(\"a  b\")");
        assert_eq!(changed(&text, &text.replace("a  b", "a b")), Some(vec!["g".to_owned()]));
        assert_eq!(changed(&text, &text.replace("return f", "return  f")), Some(Vec::new()));
        let bodies = changed_bodies(HEADER.as_bytes(), HEADER.replace("f(1)", "M(N)").as_bytes()).unwrap();
        let words = &bodies[&b"g"[..]];
        assert!(words.contains(&b"M"[..]) && words.contains(&b"N"[..]));
    }

    /// Everything else that a header can change, and a body that directives make unsure, is not for this way.
    #[test]
    fn others() {
        for (old, new) in [
            ("int x;", "long x;"),
            ("int f(int a)", "int f(long a)"),
            ("int f(int a)", "int h(int a)"),
            ("static inline int f", "int f"),
            ("static inline int f", "static __always_inline int f"),
            ("static __always_inline int g", "static inline int g"),
            ("#define H\n", "#define H 1\n"),
            ("return a;", "#ifdef A\n\treturn 1;\n#endif\n\treturn a;"),
            ("return a;", "return a; } int x; {"),
            ("return a;", "return (a;"),
            ("#endif", "static inline int h(void) { return 1; }\n#endif"),
        ] {
            assert_eq!(changed(HEADER, &HEADER.replace(old, new)), None, "{old} -> {new}");
        }
        // A directive that moved over an item.
        let moved =
            HEADER.replace("#define H\n", "").replace("struct s { int x; };\n", "struct s { int x; };\n#define H\n");
        assert_eq!(changed(HEADER, &moved), None);
        // Braces that only one branch opens: where the function ends is not known.
        let torn = HEADER.replace("\treturn a;", "#ifdef A\n\tif (a) {\n#else\n\t{\n#endif\n\t}\n\treturn a;");
        assert_eq!(changed(&torn, &torn.replace("return a;", "return 2;")), None);
        // One that moved inside a function.
        let inside = HEADER.replace("\treturn a;", "#ifdef A\n\ta++;\n#endif\n\ta--;\n\treturn a;");
        let moved = HEADER.replace("\treturn a;", "#ifdef A\n\ta++;\n\ta--;\n#endif\n\treturn a;");
        assert_eq!(changed(&inside, &moved), None);
        assert_eq!(changed(&inside, &inside.replace("\ta++;\n", "\ta++; // once\n")), Some(Vec::new()));
    }
}

//! What an item declares that lays something out: types, variables that outlive a call, prototypes.
//!
//! In: an item of preprocessed C ([`super::items`]). Out: the texts that matter to layouts, without what does not: code,
//! initialisers, counters in names. And the names that other declarations depend on, when such a text changes: enumerators and typedefs.
//! Hard because declarations hide in function bodies, which are only searched, not parsed.

use super::items::{Item, Kind, body_start, is_builtin, is_tag, is_word};

/// The texts of an item that lay something out: its declaration; of a function its head, and what its body declares.
pub(super) fn declarations(item: &Item<'_>) -> Vec<Vec<u8>> {
    let text = item.text;
    match body_start(text) {
        Some(body) => {
            let head = &text[..body];
            let mut all = in_body(&text[body..]);
            if defines_type(head) || is_prototype(head) {
                all.push(head.to_vec());
            }
            all
        }
        None if matches!(item.kind, Kind::Prototype(_) | Kind::Declaration(_)) => Vec::new(),
        None if is_assertion(text) => Vec::new(),
        None => vec![without_initialisers(text)],
    }
}

/// Whether the text can define a type.
fn defines_type(text: &[u8]) -> bool {
    tokens(text).any(|(_, token)| {
        is_tag(token) || matches!(token, b"typedef" | b"pragma" | b"typeof" | b"__typeof__" | b"__typeof")
    })
}

/// Whether it is the head of a function that other files call.
pub(super) fn is_prototype(text: &[u8]) -> bool {
    text.ends_with(b")") && !tokens(text).any(|(_, token)| token == b"static")
}

/// Assembly and assertions lay nothing out.
fn is_assertion(text: &[u8]) -> bool {
    let first = tokens(text).next().map(|(_, token)| token);
    matches!(first, None | Some(b";" | b"asm" | b"__asm__" | b"_Static_assert"))
}

/// Words, and every other character by itself, with their places; literals are left out.
fn tokens(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(&byte) = text.get(at) {
            let start = at;
            if byte == b'"' || byte == b'\'' {
                at += 1;
                while at < text.len() && text[at] != byte && text[at] != b'\n' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(text.len());
                continue;
            }
            at += 1;
            if is_word(byte) {
                at += text[at..].iter().position(|b| !is_word(*b)).unwrap_or(text.len() - at);
            }
            if !byte.is_ascii_whitespace() {
                return Some((start, &text[start..at]));
            }
        }
        None
    })
}

/// Declarations in a body: `static` variables, typedefs, types with members.
fn in_body(body: &[u8]) -> Vec<Vec<u8>> {
    let all: Vec<(usize, &[u8])> = tokens(body).collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((start, token)) = all.get(at).copied() {
        let end = match token {
            b"static" | b"typedef" => statement(&all, at),
            _ if is_tag(token) => match braces(&all, at) {
                Some(open) => group(&all, open),
                None => at + 1,
            },
            _ => {
                at += 1;
                continue;
            }
        };
        let text = &body[start..all.get(end).map_or(body.len(), |(place, _)| *place)];
        if !is_tag(token) || text.contains(&b'{') {
            found.push(without_initialisers(text));
        }
        at = end.max(at + 1);
    }
    found
}

/// Where the brace stands that a `struct`, `union` or `enum` opens; attributes and a name may stand before it.
fn braces(all: &[(usize, &[u8])], at: usize) -> Option<usize> {
    let mut at = at + 1;
    while let Some((_, token)) = all.get(at) {
        match *token {
            b"{" => return Some(at),
            b"(" => at = group(all, at),
            word if is_word(word[0]) => at += 1,
            _ => return None,
        }
    }
    None
}

/// One past the group that opens at `at`.
fn group(all: &[(usize, &[u8])], at: usize) -> usize {
    let mut depth = 0usize;
    for (index, (_, token)) in all.iter().enumerate().skip(at) {
        match *token {
            b"{" | b"(" | b"[" => depth += 1,
            b"}" | b")" | b"]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    all.len()
}

/// One past the `;` that ends the statement.
fn statement(all: &[(usize, &[u8])], mut at: usize) -> usize {
    while let Some((_, token)) = all.get(at) {
        match *token {
            b";" => return at + 1,
            b"{" | b"(" | b"[" => at = group(all, at),
            // The end of a block that the statement is in: it was none.
            b"}" | b")" => return at,
            _ => at += 1,
        }
    }
    all.len()
}

/// The text without what variables start as, and with the numbers gone that only tell names apart.
fn without_initialisers(text: &[u8]) -> Vec<u8> {
    let all: Vec<(usize, &[u8])> = tokens(text).collect();
    let mut kept: Vec<u8> = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some((_, token)) = all.get(at) {
        let end = match *token {
            b"=" => {
                while all.get(at).is_some_and(|(_, token)| !matches!(*token, b"," | b";")) {
                    at = if matches!(all[at].1, b"{" | b"(" | b"[") { group(&all, at) } else { at + 1 };
                }
                continue;
            }
            b"{" | b"(" | b"[" => group(&all, at),
            _ => at + 1,
        };
        for (_, token) in &all[at..end.min(all.len())] {
            let counted = token.starts_with(b"__UNIQUE_ID") || token.starts_with(b"__initcall");
            kept.extend(token.iter().filter(|byte| !counted || !byte.is_ascii_digit()));
            kept.push(b' ');
        }
        at = end;
    }
    kept
}

/// What of a declaration others may mention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Names {
    /// The tag of an enumeration, if it has one, and its names, each with the text that gives it its number.
    Enumeration(Option<Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>),
    /// A typedef.
    Typedef(Vec<u8>),
}

/// The names that others may mention; of a type within another one, too.
pub(super) fn names(declaration: &[u8]) -> Vec<Names> {
    let all: Vec<(usize, &[u8])> = tokens(declaration).collect();
    let mut found = Vec::new();
    for (at, (_, token)) in all.iter().enumerate() {
        if *token == b"enum"
            && let Some(open) = braces(&all, at)
        {
            let tag =
                all[at + 1..open].iter().rev().find(|(_, token)| is_word(token[0])).map(|(_, token)| token.to_vec());
            found.push(Names::Enumeration(tag, enumerators(&all[open + 1..group(&all, open).max(open + 2) - 1])));
        }
    }
    if all.first().is_some_and(|(_, token)| *token == b"typedef") {
        found.extend(typedef_name(&all).map(|name| Names::Typedef(name.to_vec())));
    }
    found
}

fn enumerators(all: &[(usize, &[u8])]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((_, name)) = all.get(at) {
        let mut text = Vec::new();
        while let Some((_, token)) = all.get(at).filter(|(_, token)| *token != b",") {
            let end = if matches!(*token, b"(" | b"[" | b"{") { group(all, at) } else { at + 1 };
            all[at..end.min(all.len())].iter().for_each(|(_, token)| text.extend_from_slice(token));
            at = end;
        }
        if is_word(name[0]) {
            found.push((name.to_vec(), text));
        }
        at += 1;
    }
    found
}

/// The name that a typedef gives: behind `(*`, or the last word that is in no group.
fn typedef_name<'t>(all: &[(usize, &'t [u8])]) -> Option<&'t [u8]> {
    let (mut at, mut last) = (1, None);
    while let Some((_, token)) = all.get(at) {
        match *token {
            b"__attribute__" | b"typeof" | b"__typeof__" => at = group(all, at + 1),
            b"(" if all.get(at + 1).is_some_and(|(_, token)| *token == b"*") => {
                return all[at + 1..].iter().map(|(_, token)| *token).find(|token| is_word(token[0]));
            }
            b"(" | b"{" | b"[" => at = group(all, at),
            word => {
                if is_word(word[0]) && !is_tag(word) && !is_builtin(word) {
                    last = Some(word);
                }
                at += 1;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::super::items::cut;
    use super::*;

    fn declared(text: &str) -> Vec<String> {
        let all = cut(text.as_bytes()).iter().flat_map(declarations).collect::<Vec<_>>();
        all.into_iter().map(|text| String::from_utf8(text).unwrap().trim().to_owned()).collect()
    }

    /// What a variable starts as, and the code around a declaration, lay nothing out; what a body declares does.
    #[test]
    fn declarations_alone() {
        for (text, expected) in [
            ("static u32 a[8][4]={1,2},b=(3,4);", vec!["static u32 a [ 8 ] [ 4 ] , b ;"]),
            ("static int f(int a){static u32 n=1;return a;}", vec!["static u32 n ;"]),
            ("static int f(int a){struct s{int x;}v={1};return g(&v);}", vec!["struct s { int x ; }"]),
            ("static int f(int a){struct s v;if(a){typedef u32 t;}return 0;}", vec!["typedef u32 t ;"]),
            ("static int f(int a){return \"static int x;\"[a];}", vec![]),
            ("static void *__UNIQUE_ID_x_12=&f;", vec!["static void * __UNIQUE_ID_x_ ;"]),
            ("int f(int a);extern u32 x;_Static_assert(1,\"x\");asm(\"x\");", vec![]),
            ("int f(int a){return 1;}", vec!["int f(int a)"]),
        ] {
            assert_eq!(declared(text), expected, "{text}");
        }
    }

    /// Names are found where C puts them.
    #[test]
    fn names_of_types() {
        let typedef = |text: &str| match &names(text.as_bytes())[..] {
            [Names::Typedef(name)] => String::from_utf8(name.clone()).unwrap(),
            other => format!("{other:?}"),
        };
        for text in [
            "typedef u32 t;",
            "typedef struct{u32 x;}t;",
            "typedef int (*t)(u32 x);",
            "typedef u32 t[N];",
            "typedef u32 t __attribute__((aligned(8)));",
        ] {
            assert_eq!(typedef(text), "t", "{text}");
        }
        let found = names(b"struct s{enum __attribute__((packed)) e{A=1<<2,B}x;};");
        let pair = |name: &str, text: &str| (name.as_bytes().to_vec(), text.as_bytes().to_vec());
        assert_eq!(found, [Names::Enumeration(Some(b"e".to_vec()), vec![pair("A", "A=1<<2"), pair("B", "B")])]);
    }
}

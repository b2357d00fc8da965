//! A file -> edits that change nothing: blank lines, comments in all places, a moved static, a renamed local.
//!
//! Each gives the whole edited text, or nothing where the file has no place for it. Hard because a no-op is a promise
//! about the compiler: what was moved must not be used on the way, and a renamed name must not be a member's too.

use std::collections::BTreeSet;
use std::ops::Range;

use super::random::Random;
use super::tokens::{Item, Kind, Source};

/// An edit: the text before, and numbers that pick the place; the text after.
pub type Make = fn(&Source, &mut Random) -> Option<Vec<u8>>;

/// All edits by name, in the order in which they are tried.
pub const EDITS: &[(&str, Make)] = &[
    ("blank line", blank_line),
    ("comment", comment),
    ("comment in a function", comment_in_function),
    ("comment in a macro", comment_in_macro),
    ("line in a block comment", line_in_comment),
    ("moved static function", moved_function),
    ("moved static variable", moved_variable),
    ("renamed local", renamed_local),
];

/// How many of them, the first, leave the tokens alone.
pub const QUIET: usize = 5;

fn insert(text: &[u8], at: usize, what: &str) -> Vec<u8> {
    [&text[..at], what.as_bytes(), &text[at..]].concat()
}

fn pick<T>(mut items: Vec<T>, random: &mut Random) -> Option<T> {
    if items.is_empty() { None } else { Some(items.swap_remove(random.below(items.len()))) }
}

/// Starts of lines at which a function's own code stands.
fn lines_in_functions(source: &Source) -> Vec<usize> {
    let mut starts = BTreeSet::new();
    for body in source.items.iter().filter_map(|i| i.body.as_ref()) {
        for token in body.clone() {
            let before = source.word(token.saturating_sub(1));
            let line = source.line(source.tokens[token].at.start).start;
            let first = source.tokens[token.saturating_sub(1)].at.end <= line;
            let plain = !source.directives.iter().chain(&source.comments).any(|d| d.contains(&line));
            if first && plain && matches!(before, ";" | "{" | "}") {
                starts.insert(line);
            }
        }
    }
    starts.into_iter().collect()
}

fn items_on_own_lines(source: &Source) -> Vec<(&Item, Range<usize>)> {
    let own = |item: &Item| -> Option<Range<usize>> {
        let span = source.span(&item.tokens);
        let (start, end) = (source.line(span.start).start, source.line(span.end).end);
        let clear =
            source.text[start..span.start].iter().chain(&source.text[span.end..end]).all(u8::is_ascii_whitespace);
        (clear && end < source.text.len()).then_some(start..end + 1)
    };
    source.items.iter().filter_map(|item| Some((item, own(item)?))).collect()
}

fn blank_line(source: &Source, random: &mut Random) -> Option<Vec<u8>> {
    let at = pick(lines_in_functions(source), random)?;
    Some(insert(&source.text, at, "\n"))
}

fn comment(source: &Source, random: &mut Random) -> Option<Vec<u8>> {
    let (_, lines) = pick(items_on_own_lines(source), random)?;
    Some(insert(&source.text, lines.start, "/*\n * It's (not\n * code; #if */\n"))
}

fn comment_in_function(source: &Source, random: &mut Random) -> Option<Vec<u8>> {
    let at = pick(lines_in_functions(source), random)?;
    Some(insert(&source.text, at, "\t// don't { */ \\\n\tgo on \"\n\t/* one */ /* two\n\tlines */\n"))
}

fn comment_in_macro(source: &Source, random: &mut Random) -> Option<Vec<u8>> {
    let macros = source.directives.iter().filter_map(|directive| {
        let text = &source.text[directive.clone()];
        let define = text.starts_with(b"#define") && !text.windows(2).any(|w| w == b"/*" || w == b"*/" || w == b"//");
        let end = text.windows(2).position(|w| w == b"\\\n")?;
        define.then_some(directive.start + end + 2)
    });
    let at = pick(macros.collect(), random)?;
    Some(insert(&source.text, at, "\t/* it's a (comment */ \\\n"))
}

fn line_in_comment(source: &Source, random: &mut Random) -> Option<Vec<u8>> {
    let places = source.comments.iter().filter_map(|comment| {
        let newline = source.text[comment.clone()].iter().position(|b| *b == b'\n')?;
        Some(comment.start + newline + 1)
    });
    let at = pick(places.collect(), random)?;
    Some(insert(&source.text, at, " * it's one (more line \\\n"))
}

/// Words of code that knows its line, or that is numbered as it comes.
const KNOWS_ITS_LINE: &[&str] = &[
    "WARN",
    "BUG",
    "ASSERT",
    "LINE",
    "UNIQUE",
    "lock",
    "LOCK",
    "might_sleep",
    "trace",
    "static_branch",
    "kmalloc",
    "kzalloc",
];

fn moved(source: &Source, random: &mut Random, function: bool) -> Option<Vec<u8>> {
    let items = items_on_own_lines(source);
    let mut moves = Vec::new();
    for at in 1..items.len() {
        let ((item, lines), (before, lines_before)) = (&items[at], &items[at - 1]);
        let words: BTreeSet<&str> = item.tokens.clone().map(|t| source.word(t)).collect();
        let right = source.word(item.tokens.start) == "static"
            && item.body.is_some() == function
            && !words.contains("inline")
            && !words.iter().any(|w| KNOWS_ITS_LINE.iter().any(|k| w.contains(k)));
        // Only over a function, which must not be used by what moves; nor may a directive lie between.
        let over =
            before.body.is_some() && !words.contains(before.name.as_str()) && before.tokens.end == item.tokens.start;
        let between = lines_before.start..lines.end;
        let free = !source.directives.iter().any(|d| between.contains(&d.start));
        // What the function before names must not be declared only by it: a prototype of what moves may stay away.
        if right && over && free {
            moves.push((lines.clone(), lines_before.start));
        }
    }
    let (lines, to) = pick(moves, random)?;
    let text = &source.text;
    Some([&text[..to], &text[lines.clone()], b"\n", &text[to..lines.start], &text[lines.end..]].concat())
}

fn moved_function(source: &Source, random: &mut Random) -> Option<Vec<u8>> {
    moved(source, random, true)
}

fn moved_variable(source: &Source, random: &mut Random) -> Option<Vec<u8>> {
    moved(source, random, false)
}

/// Types that begin the declaration of a local.
const TYPES: &[&str] = &[
    "int", "unsigned", "long", "bool", "char", "u8", "u16", "u32", "u64", "s32", "s64", "size_t", "ssize_t", "loff_t",
    "struct",
];

fn renamed_local(source: &Source, random: &mut Random) -> Option<Vec<u8>> {
    let mut names: Vec<(Range<usize>, String)> = Vec::new();
    for item in &source.items {
        let Some(body) = item.body.clone() else { continue };
        for token in body.clone() {
            let starts =
                matches!(source.word(token.saturating_sub(1)), ";" | "{") && TYPES.contains(&source.word(token));
            if !starts {
                continue;
            }
            let mut at = token + 1;
            while at < body.end && (source.tokens[at].kind == Kind::Word || source.word(at) == "*") {
                at += 1;
            }
            let name = source.word(at - 1).to_owned();
            let declared = matches!(source.word(at), ";" | "=" | ",") && source.tokens[at - 1].kind == Kind::Word;
            // A member of the same name, or another use as text, would not be renamed with it.
            let uses = |t: usize| source.word(t) == name && !matches!(source.word(t - 1), "." | "->");
            let members = |t: usize| source.word(t) == name && matches!(source.word(t - 1), "." | "->");
            let all = 1..source.tokens.len();
            if declared
                && at - 1 > token
                && !TYPES.contains(&name.as_str())
                && body.clone().filter(|t| uses(*t)).count() > 1
                && !all.clone().any(members)
                && !item.tokens.clone().take(body.start - item.tokens.start).any(|t| source.word(t) == name)
            {
                names.push((body.clone(), name));
            }
        }
    }
    let (body, name) = pick(names, random)?;
    let mut text = source.text.clone();
    for token in body.rev().filter(|t| source.word(*t) == name) {
        let at = source.tokens[token].at.clone();
        text.splice(at, format!("{name}_renamed").into_bytes());
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "/* a\n * b */\n#define M(x) \\\n\tdo_it(x)\nint f(int a)\n{\n\tint b = a;\n\n\treturn b + 1;\n}\n\n\
                        static int n;\n\nint g(void)\n{\n\treturn n;\n}\n\nstatic int h(int c)\n{\n\treturn c;\n}\n";

    fn make(name: &str) -> String {
        let source = Source::new(TEXT.as_bytes().to_vec());
        let (_, make) = EDITS.iter().find(|(n, _)| *n == name).expect("an edit");
        String::from_utf8(make(&source, &mut Random::new(3)).expect("a place")).expect("ASCII")
    }

    /// Each edit finds its place, and is what its name says.
    #[test]
    fn edits() {
        for (name, _) in EDITS {
            assert_ne!(make(name), TEXT, "{name}");
        }
        assert!(make("renamed local").contains("int b_renamed = a;\n\n\treturn b_renamed + 1;"));
        assert!(make("comment in a macro").contains("#define M(x) \\\n\t/* it's a (comment */ \\\n\tdo_it(x)\n"));
        let moved = make("moved static variable");
        assert!(moved.find("static int n;") < moved.find("int f(int a)"));
        let moved = make("moved static function");
        assert!(moved.find("int h(int c)") < moved.find("int g(void)") && moved.contains("static int n;"));
    }

    /// An edit that meant something would be no no-op: the tokens stay, apart from the order and the name.
    #[test]
    fn tokens_stay() {
        let words = |text: &str| {
            let source = Source::new(text.as_bytes().to_vec());
            let mut words: Vec<String> =
                (0..source.tokens.len()).map(|t| source.word(t).replace("_renamed", "")).collect();
            words.sort();
            words
        };
        for (name, _) in EDITS {
            assert_eq!(words(&make(name)), words(TEXT), "{name}");
        }
    }
}

//! Lines of a diff, and the names of both whole files -> the names that the change is about.
//!
//! No history comes with a source package: which part of a header changed *with* a file can only be told by the names
//! that both changes are about. What a patch must hold to stand alone is read from these.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// All names of a file in two versions, without those of comments and texts.
pub struct Sides {
    before: BTreeSet<String>,
    after: BTreeSet<String>,
    /// Structures that the newer version names.
    structs: Rc<BTreeSet<String>>,
}

/// Words of C, and constants that everybody uses: that two hunks have them says nothing.
const KEYWORDS: [&str; 37] = [
    "auto", "bool", "break", "case", "char", "const", "continue", "default", "define", "do", "else", "endif", "enum",
    "extern", "false", "for", "goto", "if", "ifdef", "include", "inline", "int", "long", "return", "short", "signed",
    "sizeof", "static", "struct", "switch", "true", "typedef", "union", "unsigned", "void", "while", "NULL",
];

/// Names of many files.
pub type Names = std::collections::HashSet<String>;

impl Sides {
    /// Adds the names of both versions to those of other files.
    pub fn add_to(&self, before: &mut Names, after: &mut Names) {
        before.extend(self.before.iter().cloned());
        after.extend(self.after.iter().cloned());
    }

    /// Names that are on lines of one sign only, among the changed lines of a hunk; C's own words are none.
    pub fn moved(&self, hunk: &str) -> BTreeSet<String> {
        let of = |sign: char, side: &BTreeSet<String>| -> BTreeSet<String> {
            let lines = hunk.lines().filter_map(|line| line.strip_prefix(sign));
            let words = lines.flat_map(names).filter(|n| side.contains(*n) && !KEYWORDS.contains(n));
            words.map(str::to_owned).collect()
        };
        let (went, came) = (of('-', &self.before), of('+', &self.after));
        went.symmetric_difference(&came).cloned().collect()
    }

    /// Reads both versions.
    pub fn new(old: &str, new: &str) -> Sides {
        let all = |text: &str| names(&code(text)).into_iter().map(str::to_owned).collect();
        Sides { before: all(old), after: all(new), structs: Rc::new(structs(&code(new))) }
    }
}

/// Names of a change.
#[derive(Debug, Default, Clone)]
pub struct Change {
    /// On added lines, and nowhere in the old file.
    pub fresh: BTreeSet<String>,
    /// On removed lines, and nowhere in the new file.
    pub gone: BTreeSet<String>,
    /// Declared or defined by a changed line: the first name before `(` of a line that starts at the margin.
    pub declared: BTreeSet<String>,
    /// Before `(` on any changed line.
    pub called: BTreeSet<String>,
    /// Declared or defined on a changed line in any way: functions, macros, members, variables, constants, types.
    pub brought: BTreeSet<String>,
    /// On any changed line.
    pub used: BTreeSet<String>,
    /// Declared at the end of a removed line and of an added one: a member or variable of another type.
    pub retyped: BTreeSet<String>,
    /// Members that structures get: of which, and what.
    pub members: BTreeSet<(String, String)>,
    /// On added lines of a hunk, and on none that it removes.
    pub arrived: BTreeSet<String>,
    /// All structures that the file names.
    pub structs: Rc<BTreeSet<String>>,
    /// Files that added lines include.
    pub includes: BTreeSet<String>,
}

impl Change {
    /// The names of the changed lines of `diff`, which may be a part of what differs between the two sides.
    pub fn new(diff: &str, sides: &Sides) -> Change {
        let mut change = Change { structs: sides.structs.clone(), ..Change::default() };
        let mut members = [BTreeMap::new(), BTreeMap::new()];
        for hunk in diff.split("\n@@ ") {
            let of = |sign| hunk.lines().filter(move |l| l.starts_with(sign)).flat_map(names).collect::<BTreeSet<_>>();
            let (came, went) = (of('+'), of('-'));
            change.arrived.extend(came.difference(&went).map(|n| (*n).to_owned()));
            change.members.extend(new_members(hunk));
        }
        for line in diff.lines().filter(|l| !l.starts_with("+++ ") && !l.starts_with("--- ")) {
            let Some((sign, text)) = line.split_at_checked(1).filter(|(s, _)| matches!(*s, "+" | "-")) else {
                continue;
            };
            // A line of a diff does not tell whether it is inside a comment: its side's whole text does.
            let (here, there) = if sign == "+" { (&sides.after, &sides.before) } else { (&sides.before, &sides.after) };
            let used: Vec<&str> = names(text).into_iter().filter(|n| here.contains(*n)).collect();
            let found = used.iter().filter(|n| !there.contains(**n)).map(|n| (*n).to_owned());
            if sign == "+" {
                change.fresh.extend(found);
                change.includes.extend(include(text).map(str::to_owned));
            } else {
                change.gone.extend(found);
            }
            let declared = member(text)
                .filter(|n| here.contains(*n))
                .map(|n| (n.to_owned(), without_comment(text).split_whitespace().collect::<Vec<_>>()));
            members[usize::from(sign == "+")].extend(declared);
            change.brought.extend(brought(text).filter(|n| here.contains(*n)).map(str::to_owned));
            change.used.extend(used.into_iter().map(str::to_owned));
            let calls: Vec<&str> = calls(text).into_iter().filter(|n| here.contains(*n)).collect();
            if text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '#')) {
                change.declared.extend(calls.first().map(|n| (*n).to_owned()));
            }
            change.called.extend(calls.into_iter().map(str::to_owned));
        }
        for (sign, here) in [('-', &sides.before), ('+', &sides.after)] {
            change.continued(diff, sign, here);
        }
        change.brought.extend(change.declared.iter().cloned());
        // What is only indented otherwise keeps its type.
        let [gone, came] = members;
        change.retyped =
            gone.into_iter().filter(|(n, was)| came.get(n).is_some_and(|is| is != was)).map(|(n, _)| n).collect();
        change
    }

    /// Forgets names that only this file did not have or has no more: that two changes begin to say `WRITE_ONCE` ties
    /// nothing together. `before` and `after` have all names of all files, and what some change brings stays.
    pub fn keep_own(&mut self, before: &Names, after: &Names, brought: &BTreeSet<String>) {
        self.fresh.retain(|n| brought.contains(n) || !before.contains(n));
        self.gone.retain(|n| brought.contains(n) || !after.contains(n));
    }

    /// What it declares or defines, but for members of structures: `rcu` is a member of many, and ties with the structure's name
    /// alone ([`Change::belongs_to`]).
    pub fn brought_alone(&self) -> impl Iterator<Item = &String> {
        self.brought.iter().filter(|name| !self.members.iter().any(|(_, member)| member == *name))
    }

    /// Parameters and arguments that changed on another line than the name that they belong to.
    fn continued(&mut self, diff: &str, sign: char, here: &BTreeSet<String>) {
        let mut open: Vec<(String, bool)> = Vec::new();
        for line in diff.lines() {
            let Some(text) = line.strip_prefix(' ').or_else(|| line.strip_prefix(sign)) else {
                if line.starts_with("@@") {
                    open.clear();
                }
                continue;
            };
            if line.starts_with(sign) {
                for (name, declared) in open.iter().filter(|(name, _)| here.contains(name.as_str())) {
                    self.called.insert(name.clone());
                    if *declared {
                        self.declared.insert(name.clone());
                    }
                }
            }
            let margin = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            for (at, byte) in text.bytes().enumerate().filter(|(_, byte)| matches!(byte, b'(' | b')')) {
                if byte == b')' {
                    open.pop();
                } else {
                    let name = calls(&text[..=at]).last().copied().unwrap_or_default();
                    open.push((name.to_owned(), margin && open.is_empty()));
                }
            }
        }
    }

    /// Whether a change of a header, `self`, belongs to the change of a file: both bring or take the same name, or one
    /// took it from the other, both touch the same function's declaration and uses, the file changes where it uses
    /// a member that gets another type, or begins to use a new one of a structure that it names.
    pub fn belongs_to(&self, file: &Change) -> bool {
        self.shares(file)
            || self.declared.iter().any(|n| file.called.contains(n))
            || self.retyped.iter().any(|n| file.used.contains(n))
            || self.members.iter().any(|(tag, name)| file.arrived.contains(name) && file.structs.contains(tag))
    }

    /// Whether both changes bring or take the same name.
    pub fn shares(&self, other: &Change) -> bool {
        let mut names = self.fresh.union(&self.gone);
        names.any(|n| n.len() > 2 && (other.fresh.contains(n) || other.gone.contains(n)))
    }

    /// Whether another file's change, `self`, is needed by a change that includes `header` changes: it defines what those
    /// newly use, newly uses what those define, or uses what they declare otherwise.
    pub fn needed_by(&self, others: &Change, header: bool) -> bool {
        let brings = |one: &Change, other: &Change| {
            one.declared.iter().any(|n| one.fresh.contains(n) && other.fresh.contains(n) && other.called.contains(n))
        };
        let defines = brings(self, others) || brings(others, self);
        let prototype = |n: &String| self.called.contains(n) && !others.fresh.contains(n);
        defines || (header && others.declared.iter().any(prototype)) || (header && others.loses(self))
    }

    /// Whether this header change takes away a name that the other file's old text uses and its new one does not.
    fn loses(&self, file: &Change) -> bool {
        self.gone.iter().any(|n| n.len() > 2 && file.gone.contains(n))
    }
}

/// What the text names as `struct NAME`.
fn structs(text: &str) -> BTreeSet<String> {
    let mut words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|w| !w.is_empty());
    let mut found = BTreeSet::new();
    while let Some(word) = words.next() {
        if word == "struct" {
            found.extend(words.next().map(str::to_owned));
        }
    }
    found
}

/// Members on added lines of a hunk that no removed line declares, with the structure that they are in.
fn new_members(hunk: &str) -> Vec<(String, String)> {
    let gone: BTreeSet<&str> = hunk.lines().filter_map(|l| member(l.strip_prefix('-')?)).collect();
    let (mut tag, mut found) = (None, Vec::new());
    for line in hunk.lines() {
        let Some(text) = line.strip_prefix(['+', ' ']) else { continue };
        if let Some(rest) = text.strip_prefix("struct ").filter(|_| text.trim_end().ends_with('{')) {
            tag = rest.split_whitespace().next();
        } else if text.starts_with('}') {
            tag = None;
        } else if let Some(tag) = tag.filter(|_| line.starts_with('+'))
            && let Some(name) = member(text).filter(|n| n.len() > 2 && !gone.contains(n))
        {
            found.push((tag.to_owned(), name.to_owned()));
        }
    }
    found
}

/// The line up to the comment that it ends with.
fn without_comment(line: &str) -> &str {
    let end = ["/*", "//"].iter().filter_map(|begin| line.find(begin)).min();
    &line[..end.unwrap_or(line.len())]
}

/// The name that a line like `struct pid *pid;` declares.
fn member(line: &str) -> Option<&str> {
    let head = without_comment(line).trim_end().strip_suffix(';')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name = head.rsplit(|c| !is_name(c)).next()?;
    let only_names = head.chars().all(|c| is_name(c) || c.is_whitespace() || matches!(c, '*' | ','));
    let is_statement = matches!(head.split_whitespace().next()?, "return" | "goto" | "else" | "case" | "typedef");
    (!name.is_empty() && head.trim_start().len() > name.len() && only_names && !is_statement).then_some(name)
}

/// The name that a line declares or defines, other than a function's: `#define N`, `struct n {`, `N = 1,`, `static int n[4] =`, and
/// what [`member`] sees.
fn brought(line: &str) -> Option<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let first = |text: &str| text.split(|c| !is_name(c)).next().map(str::len);
    let text = line.trim();
    if let Some(rest) = text.strip_prefix("#define ") {
        return first(rest.trim_start()).map(|len| &rest.trim_start()[..len]);
    }
    if let Some(head) = text.strip_suffix('{').map(str::trim_end)
        && let Some(tag) = ["struct ", "union ", "enum "].iter().find_map(|word| head.strip_prefix(word))
    {
        return tag.chars().all(is_name).then_some(tag);
    }
    let name = &text[..first(text)?];
    let rest = text[name.len()..].trim_start();
    if !name.is_empty() && (rest == "," || (rest.starts_with('=') && rest.ends_with(',') && !rest.starts_with("=="))) {
        return Some(name);
    }
    let margin = line.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let head = text.split(['=', '[']).next()?.trim_end();
    match margin && head.len() < text.len() && !head.contains('(') {
        true => head.rsplit(|c| !is_name(c)).next().filter(|n| !n.is_empty()),
        false => member(line),
    }
}

/// The text without its comments and without what is in quotes: their words are no names.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['/', '"', '\'']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = match rest.as_bytes() {
            [b'/', b'*', ..] => rest[2..].find("*/").map(|i| i + 4),
            [b'/', b'/', ..] => rest.find('\n'),
            [b'/', ..] => Some(1),
            [quote, ..] => quoted(rest, *quote),
            [] => None,
        };
        out.push(' ');
        rest = &rest[end.unwrap_or(rest.len())..];
    }
    out + rest
}

/// Where the literal that `text` begins with ends; at the end of its line if it is none.
fn quoted(text: &str, quote: u8) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'\n' if !escaped => return Some(at),
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if byte == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// All identifiers.
fn names(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_name(c)).filter(|w| w.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')).collect()
}

/// Identifiers that a `(` follows, in order.
pub fn calls(text: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    const WORDS: [&str; 9] =
        ["if", "while", "for", "switch", "return", "sizeof", "__attribute__", "defined", "__printf"];
    text.match_indices('(')
        .filter_map(|(at, _)| {
            let head = &text[..at];
            let start = head.rfind(|c| !is_name(c)).map_or(0, |i| i + 1);
            let name = &head[start..];
            (name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && !WORDS.contains(&name)).then_some(name)
        })
        .collect()
}

/// The file that an `#include` line names.
fn include(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim();
    let rest = rest.strip_prefix(['<', '"'])?;
    rest.split(['>', '"']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(old: &str, new: &str) -> Change {
        let minus = old.lines().map(|l| format!("-{l}\n"));
        let plus = new.lines().map(|l| format!("+{l}\n"));
        Change::new(&minus.chain(plus).collect::<String>(), &Sides::new(old, new))
    }

    /// A header that brings the name which the file begins to use goes with it; one about something else does not.
    #[test]
    fn headers_go_with_their_users() {
        let file = change("void f(void)\n{\n\tget(x);\n}\n", "void f(void)\n{\n\tget_locked(x);\n}\n");
        assert!(change("", "int get_locked(int);\n").belongs_to(&file));
        assert!(change("int get(int);\n", "int get(int, int);\n").belongs_to(&file));
        assert!(!change("int put(int);\n", "int put(int, int);\n").belongs_to(&file));
    }

    /// A parameter on a line of its own belongs to the function's name, on the line before.
    #[test]
    fn continued_lines() {
        let diff = "@@ -1,2 +1,2 @@\n int copy(struct vma **p,\n-\tbool *a);\n+\tlong *a);\n int other(void);\n";
        let text = |last: &str| format!("int copy(struct vma **p,\n\t{last} *a);\nint other(void);\n");
        let change = Change::new(diff, &Sides::new(&text("bool"), &text("long")));
        assert_eq!(change.declared, ["copy".to_owned()].into());
        assert_eq!(change.called, ["copy".to_owned()].into());
    }

    /// Words of comments and strings are no names: two changes that both speak of "kernel pages" have nothing to do with
    /// each other.
    #[test]
    fn words_of_comments_are_no_names() {
        let file = change("", "/*\n * counts kernel pages\n */\n\tfill(\"pages (now)\");\n");
        assert_eq!(file.fresh, ["fill".to_owned()].into());
        assert!(!change("int n;\n", "int n;\t/* pages(x) of a kernel */\n").belongs_to(&file));
        assert_eq!(code("a /* b\n */ '\"' c // d\ne \"f \\\" g\" h / i"), "a     c  \ne   h   i");
    }

    /// A prototype's change takes its definition and its callers along; a name that only both mention does not.
    #[test]
    fn files_that_must_change_together() {
        let header = change("int get(int);\n", "int get(int, int);\n");
        let caller = change("\tget(1);\n", "\tget(1, 2);\n");
        assert!(caller.needed_by(&header, true));
        let user = change("", "\tfoo_init(1);\n");
        let definer = change("", "int foo_init(int x)\n");
        assert!(definer.needed_by(&user, false));
        assert!(user.needed_by(&definer, false));
        assert!(!user.needed_by(&change("", "\tbar_init(1);\n"), false));
    }

    /// A member of another type goes with the files that change where they use it.
    #[test]
    fn retyped_members() {
        let header = change("struct s {\n\tpid_t pid;\n};\n", "struct s {\n\tstruct pid *pid;\n};\n");
        assert_eq!(header.retyped, ["pid".to_owned()].into());
        assert!(header.belongs_to(&change("\tput_it(s->pid);\n", "\tdrop_it(s->pid);\n")));
        assert!(!header.belongs_to(&change("\tput_it(s->pig);\n", "\tdrop_it(s->pig);\n")));
        assert!(change("\tpid_t pid;\n", "\t\tpid_t\t\tpid;\t/* of whom */\n").retyped.is_empty());
        assert_eq!(member("\tint a[4];"), None);
        assert_eq!(member("\tstruct rcu_head rcu;\t/* is read in a walk */"), Some("rcu"));
        assert_eq!(member("\treturn f(x);"), None);
        for statement in ["\treturn -EINVAL;", "\treturn error;", "\t\tgoto out;", "\tbreak;", "\tn->count;"] {
            assert_eq!(member(statement), None, "{statement}");
        }
    }

    /// A new member goes with the files that begin to use it, if they name its structure, however common its name is.
    #[test]
    fn new_members_of_structures() {
        let header = Change::new(
            "@@ -1,3 +1,4 @@\n struct s {\n \tint a;\n+\tstruct rcu_head rcu;\n };\n",
            &Sides::new(
                "struct s {\n\tint a;\n};\nint rcu;\n",
                "struct s {\n\tint a;\n\tstruct rcu_head rcu;\n};\nint rcu;\n",
            ),
        );
        assert_eq!(header.members, [("s".to_owned(), "rcu".to_owned())].into());
        let text = |line: &str| format!("int rcu;\nvoid f(struct s *s)\n{{\n\t{line}\n}}\n");
        let file = |tag: &str| {
            let sides = Sides::new(
                &text("kfree(s);").replace("struct s", tag),
                &text("kfree_rcu(s, rcu);").replace("struct s", tag),
            );
            Change::new("@@ -4 +4 @@\n-\tkfree(s);\n+\tkfree_rcu(s, rcu);\n", &sides)
        };
        assert!(header.belongs_to(&file("struct s")));
        assert!(!header.belongs_to(&file("struct t")));
        // Nor do both begin to say it, if it is no new name of the kernel's.
        assert_eq!(header.brought_alone().count(), 0);
        let begins = |text: &str| change("", text);
        let (mut one, mut other) = (begins("\tfree(a, rcu);\n"), begins("\tstruct rcu_head rcu;\n"));
        assert!(one.shares(&other));
        let known: Names = ["rcu", "rcu_head", "a", "free", "struct"].map(str::to_owned).into();
        [&mut one, &mut other].into_iter().for_each(|change| change.keep_own(&known, &known, &BTreeSet::new()));
        assert!(!one.shares(&other));
    }

    /// Names that are declared somewhere in the release keep their power to tie; names that are only used do not.
    #[test]
    fn words_of_the_kernel_tie_nothing() {
        let mut file = change("\ta = 1;\n", "\tWRITE_ONCE(a, 1);\n\tfresh(a);\n");
        let all = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Names>();
        file.keep_own(&all(&["WRITE_ONCE", "a"]), &all(&["WRITE_ONCE", "a", "fresh"]), &BTreeSet::new());
        assert_eq!(file.fresh, ["fresh".to_owned()].into());
        for (line, name) in [
            ("#define N(x) 1", Some("N")),
            ("struct s {", Some("s")),
            ("\tCONSTANT = 1,", Some("CONSTANT")),
            ("\tCONSTANT,", Some("CONSTANT")),
            ("static int n[4] = {", Some("n")),
            ("\tint m;", Some("m")),
            ("\tn = f(x);", None),
            ("\tif (a == b) {", None),
        ] {
            assert_eq!(brought(line), name, "{line}");
        }
    }

    /// What is included, however it is written.
    #[test]
    fn includes_are_read() {
        assert_eq!(include("#include <linux/a.h>"), Some("linux/a.h"));
        assert_eq!(include("# include \"b.h\""), Some("b.h"));
        assert_eq!(include("#define include"), None);
    }
}

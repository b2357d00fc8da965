//! What the C preprocessor makes of each physical line's start: enough of a lexer to place a directive.
//!
//! In: the text of a `.c` or `.h` file. Out: per physical line, whether a directive may stand before it, and
//! whether it opens, splits or closes a conditional group. Hard because a line start means nothing by
//! itself: it may lie in a block comment, in a macro body or a `//` comment that a backslash continues, in a
//! literal, between the parentheses of a macro call (where a directive is undefined, C11 6.10.3p11), or between the name of
//! a macro and its parenthesis, where a directive ends the search for it and the macro is not expanded.
//! Raw strings are not C; digraphs and trigraphs are not kernel C.

/// A conditional directive, as far as nesting goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conditional {
    /// `#if`, `#ifdef`, `#ifndef`.
    Open,
    /// `#elif` and its kin.
    Elif,
    /// `#else`.
    Else,
    /// `#endif`.
    Close,
}

/// A physical line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LineStart {
    /// A directive may stand right before this line.
    pub(super) safe: bool,
    /// What the line does to the nesting of conditional groups.
    pub(super) conditional: Option<Conditional>,
    /// The line is a `#line` directive or a line marker.
    pub(super) renumbers: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    Block,
    LineComment,
    Literal(u8),
}

/// Classifies the start of every physical line.
pub(super) fn line_starts(text: &[u8]) -> Vec<LineStart> {
    Lexer {
        text,
        out: Vec::new(),
        state: State::Code,
        line_begins: true,
        directive: false,
        prose: false,
        depth: 0,
        callable: false,
        since: 0,
        groups: Vec::new(),
    }
    .run()
}

struct Lexer<'a> {
    text: &'a [u8],
    out: Vec<LineStart>,
    state: State,
    /// Only blanks and comments so far on this logical line.
    line_begins: bool,
    /// In a directive.
    directive: bool,
    /// In `#error` or `#warning`, whose text is not made of literals.
    prose: bool,
    /// Open parentheses outside directives.
    depth: usize,
    /// The last token may be the name of a macro, or end in one when it is expanded: a `(` that follows begins its arguments.
    callable: bool,
    /// The first line that starts after the last token.
    since: usize,
    /// Per open conditional group: the depth at its `#if`, and the largest depth at the end of a branch.
    groups: Vec<(usize, usize)>,
}

impl Lexer<'_> {
    fn run(mut self) -> Vec<LineStart> {
        let mut at = 0;
        let mut spliced = false;
        let mut starts = true;
        while at < self.text.len() {
            if starts {
                self.start_line(at, spliced);
                starts = false;
            }
            let byte = self.text[at];
            if let Some(next) = self.splice(at) {
                (at, spliced, starts) = (next, true, true);
                continue;
            }
            if byte == b'\n' {
                self.newline();
                (at, spliced, starts) = (at + 1, false, true);
                continue;
            }
            at += self.byte(at, byte);
        }
        self.out
    }

    /// A backslash before the newline, blanks between allowed as gcc and clang do: where the next line starts.
    fn splice(&self, at: usize) -> Option<usize> {
        if self.text[at] != b'\\' {
            return None;
        }
        let blanks = self.text[at + 1..].iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\r')).count();
        (self.text.get(at + 1 + blanks) == Some(&b'\n')).then_some(at + 2 + blanks)
    }

    fn start_line(&mut self, at: usize, spliced: bool) {
        let fresh = !spliced && self.state == State::Code && self.line_begins;
        // A brace in the first column ends a function: parentheses that seem open there were counted wrongly,
        // as in the branches of an `#if` that open one each.
        if fresh && self.text[at] == b'}' {
            self.depth = 0;
        }
        self.out.push(LineStart { safe: fresh && self.depth == 0, ..LineStart::default() });
    }

    fn newline(&mut self) {
        match self.state {
            State::Block => return,
            // An unterminated literal ends with its line.
            State::LineComment | State::Literal(_) => self.state = State::Code,
            State::Code => {}
        }
        (self.line_begins, self.directive, self.prose) = (true, false, false);
    }

    /// Takes in what starts at `at`; how many bytes that was (never past the end of the line).
    fn byte(&mut self, at: usize, byte: u8) -> usize {
        let next = self.text.get(at + 1).copied();
        match self.state {
            State::Block => {
                if byte == b'*' && next == Some(b'/') {
                    self.state = State::Code;
                    return 2;
                }
            }
            State::LineComment => {}
            State::Literal(quote) => {
                if byte == quote {
                    self.state = State::Code;
                } else if byte == b'\\' && next.is_some_and(|next| next != b'\n') && self.splice(at + 1).is_none() {
                    return 2;
                }
            }
            State::Code => return self.code(at, byte, next),
        }
        1
    }

    fn code(&mut self, at: usize, byte: u8, next: Option<u8>) -> usize {
        match (byte, next) {
            (b'/', Some(b'*')) => {
                self.state = State::Block;
                return 2;
            }
            (b'/', Some(b'/')) => {
                self.state = State::LineComment;
                return 2;
            }
            (b' ' | b'\t' | b'\r' | 0x0b | 0x0c, _) => return 1,
            (b'#', _) if self.line_begins => {
                self.directive = true;
                self.start_directive(at + 1);
            }
            (b'"' | b'\'', _) if !self.prose => self.state = State::Literal(byte),
            (b'(', _) if !self.directive => {
                if self.callable {
                    self.out[self.since..].iter_mut().for_each(|line| line.safe = false);
                }
                self.depth += 1;
            }
            (b')', _) if !self.directive => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        let may_be_name = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b')') || !byte.is_ascii();
        self.callable = may_be_name && !self.directive;
        self.since = self.out.len();
        self.line_begins = false;
        1
    }

    fn start_directive(&mut self, at: usize) {
        let rest = self.text[at..].trim_ascii_start();
        let len = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        let conditional = match &rest[..len] {
            b"if" | b"ifdef" | b"ifndef" => Some(Conditional::Open),
            b"elif" | b"elifdef" | b"elifndef" => Some(Conditional::Elif),
            b"else" => Some(Conditional::Else),
            b"endif" => Some(Conditional::Close),
            _ => None,
        };
        self.prose = matches!(&rest[..len], b"error" | b"warning");
        match conditional {
            Some(Conditional::Open) => self.groups.push((self.depth, 0)),
            Some(Conditional::Elif | Conditional::Else) => {
                if let Some((entry, most)) = self.groups.last_mut() {
                    *most = (*most).max(self.depth);
                    self.depth = *entry;
                }
            }
            Some(Conditional::Close) => {
                if let Some((_, most)) = self.groups.pop() {
                    self.depth = self.depth.max(most);
                }
            }
            None => {}
        }
        if let Some(line) = self.out.last_mut() {
            line.conditional = conditional;
            line.renumbers = &rest[..len] == b"line" || rest.first().is_some_and(u8::is_ascii_digit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One character per line: `s` where a directive may stand, `-` where not.
    fn safe(text: &str) -> String {
        line_starts(text.as_bytes()).iter().map(|line| if line.safe { 's' } else { '-' }).collect()
    }

    /// Comments, continued lines, literals and calls are not safe; what comes after them is.
    #[test]
    fn safe_places() {
        assert_eq!(safe("a\n/* x\n y */ b\nc\n"), "ss-s");
        assert_eq!(safe("#define A \\\n b \\\n c\nd\n"), "s--s");
        assert_eq!(safe("#define A \\ \n b\nd\n"), "s-s");
        assert_eq!(safe("// x \\\n y\nz\n"), "s-s");
        assert_eq!(safe("f(a,\n b(c),\n d);\ne\n"), "s--s");
        assert_eq!(safe("\"a ( /* \\\n b\";\nc\n"), "s-s");
        assert_eq!(safe("'(' ;\n'\\'' ; \"\\\"(\";\n'\"' ;\nx\n"), "ssss");
        assert_eq!(safe("a\"x\\\\\\\ny\"(\nb)\nc\n"), "s--s");
        assert_eq!(safe("// it's (\nb /* ' */\nc\n"), "sss");
    }

    /// A `(` may be far from the name of its macro; where no name is before it, or a directive is between, it is one like any other.
    #[test]
    fn parenthesis_on_the_next_line() {
        assert_eq!(safe("y = foo\n(x);\nz\n"), "s-s");
        assert_eq!(safe("y = foo\n\n/* a\n b */\n// c\n\t/* d */ (x);\nz\n"), "s-----s");
        assert_eq!(safe("y = foo(1)\n (x);\nfoo /*\n*/ (x)\nz\n"), "s-s-s");
        assert_eq!(safe("y = foo \\\n\n(x);\nz\n"), "s--s");
        assert_eq!(safe("f();\n(void)y;\n{\n(x)++;\n}\ny = \"a\"\n(z)\n"), "sssssss");
        assert_eq!(safe("foo\n#define A foo\n(x);\ny = foo\nz\n"), "sssss");
    }

    /// Text in `#error` and in skipped groups may hold lone quotes; they end with the line.
    #[test]
    fn lone_quotes() {
        assert_eq!(safe("#error don't /* x\n y */\nz\n"), "s-s");
        assert_eq!(safe("#if 0\ndon't (\n#endif\nz\n"), "ssss");
        assert_eq!(safe("#if 0\ndo not (\n#endif\n}\nz\n"), "ss-ss");
    }

    /// A comment that begins on a directive's line carries the directive on: the next line is not a fresh one.
    #[test]
    fn directive_with_comment() {
        assert_eq!(safe("#define A /* x\n*/ (\nb\n"), "s-s");
        let lines =
            line_starts(b"int x; /*\n*/ #if\n/* a\n*/ # /* b */ ifdef X\n# else\n#\tendif\n#line 3\n# 4 \"x\"\n");
        let conditionals: Vec<_> = lines.iter().map(|line| line.conditional).collect();
        assert_eq!(conditionals[1], None, "`#` after code is not a directive");
        assert_eq!(conditionals[4], Some(Conditional::Else));
        assert_eq!(conditionals[5], Some(Conditional::Close));
        assert!(lines[6].renumbers && lines[7].renumbers && !lines[5].renumbers);
    }

    /// Branches that open a parenthesis each do not make the rest of the file unsafe.
    #[test]
    fn branches() {
        assert_eq!(safe("#ifdef X\nif (a &&\n#else\nif (\n#endif\nb) {\nx\n}\n"), "ss-s--ss");
    }
}

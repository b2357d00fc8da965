//! C text -> tokens and top-level items, without comments and preprocessor lines: enough to edit at the right place.
//!
//! Hard because nothing is preprocessed: what looks like a function may be a macro, and branches of an `#if` may not
//! balance. An edit at a wrong place does not compile, and another one is taken; so this may be crude.

use std::ops::Range;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An identifier or keyword.
    Word,
    /// A number.
    Number,
    /// A string literal, with its quotes.
    Text,
    /// A character literal.
    Char,
    /// An operator or bracket: two characters where C has such an operator, else one.
    Mark,
}

/// A token and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    pub at: Range<usize>,
}

/// What stands at file scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its tokens, as a range of their indices.
    pub tokens: Range<usize>,
    /// A function's body: the tokens between its braces.
    pub body: Option<Range<usize>>,
    /// The tokens between the braces of an initialiser.
    pub values: Option<Range<usize>>,
    /// The word before the first parenthesis, or before `=`, `[` or `;`: the name, unless a macro makes it.
    pub name: String,
}

/// A file.
pub struct Source {
    /// Its text.
    pub text: Vec<u8>,
    /// Its tokens.
    pub tokens: Vec<Token>,
    /// Its items.
    pub items: Vec<Item>,
    /// Preprocessor lines, continued ones whole.
    pub directives: Vec<Range<usize>>,
    /// Block comments.
    pub comments: Vec<Range<usize>>,
}

impl Source {
    /// Reads a file.
    pub fn new(text: Vec<u8>) -> Source {
        let mut source =
            Source { text, tokens: Vec::new(), items: Vec::new(), directives: Vec::new(), comments: Vec::new() };
        source.lex();
        source.cut();
        source
    }

    /// A token's text.
    pub fn word(&self, token: usize) -> &str {
        self.tokens.get(token).map_or("", |t| std::str::from_utf8(&self.text[t.at.clone()]).unwrap_or(""))
    }

    /// The bytes of a run of tokens.
    pub fn span(&self, tokens: &Range<usize>) -> Range<usize> {
        self.tokens[tokens.start].at.start..self.tokens[tokens.end - 1].at.end
    }

    /// The line that has this byte, without its newline.
    pub fn line(&self, at: usize) -> Range<usize> {
        let start = self.text[..at].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let end = self.text[at..].iter().position(|b| *b == b'\n').map_or(self.text.len(), |i| at + i);
        start..end
    }

    fn lex(&mut self) {
        let text = std::mem::take(&mut self.text);
        let mut at = 0;
        let mut fresh = true;
        while at < text.len() {
            let rest = &text[at..];
            match rest[0] {
                b'\n' => {
                    fresh = true;
                    at += 1;
                }
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => at += 1,
                b'\\' => at += 1,
                b'/' if rest.starts_with(b"/*") => {
                    let end = find(rest, b"*/", 2).map_or(text.len(), |i| at + i + 2);
                    self.comments.push(at..end);
                    at = end;
                }
                b'/' if rest.starts_with(b"//") => at = logical_end(&text, at),
                b'#' if fresh => {
                    let end = directive_end(&text, at);
                    self.directives.push(at..end);
                    at = end;
                }
                byte => {
                    fresh = false;
                    let (kind, len) = token(rest, byte);
                    self.tokens.push(Token { kind, at: at..at + len });
                    at += len;
                }
            }
        }
        self.text = text;
    }

    /// Cuts the tokens into items: up to a `;`, or to the end of a function's body.
    fn cut(&mut self) {
        let mut items = Vec::new();
        let (mut start, mut open) = (0, 0);
        let (mut braces, mut parens) = (0usize, 0usize);
        let (mut assigned, mut body) = (false, false);
        let (mut values, mut name) = (None, None);
        for at in 0..self.tokens.len() {
            let word = self.word(at);
            let top = braces == 0 && parens == 0;
            match word {
                "(" | "[" => {
                    if top && name.is_none() && at > start {
                        name = Some(self.word(at - 1).to_owned());
                    }
                    parens += 1;
                }
                ")" | "]" => parens = parens.saturating_sub(1),
                "=" if top => {
                    assigned = true;
                    if name.is_none() && at > start {
                        name = Some(self.word(at - 1).to_owned());
                    }
                }
                "{" => {
                    if top {
                        body = !assigned
                            && at > start
                            && self.tokens[start..at].iter().any(|t| self.text[t.at.start] == b'(');
                        open = at + 1;
                    }
                    braces += 1;
                }
                "}" => {
                    braces = braces.saturating_sub(1);
                    // A brace in the first column ends what is at file scope, however branches were counted.
                    if self.line(self.tokens[at].at.start).start == self.tokens[at].at.start {
                        (braces, parens) = (0, 0);
                    }
                }
                _ => {}
            }
            if braces > 0 || parens > 0 {
                continue;
            }
            if word == "}" && assigned {
                values = Some(open..at);
            }
            if (word == "}" && body) || word == ";" {
                let whole = (word == "}" && body).then_some(open..at);
                if name.is_none() && at > start {
                    name = Some(self.word(at - 1).to_owned());
                }
                items.push(Item {
                    tokens: start..at + 1,
                    body: whole,
                    values: values.take(),
                    name: name.take().unwrap_or_default(),
                });
                start = at + 1;
                (assigned, body) = (false, false);
            }
        }
        self.items = items;
    }
}

fn find(text: &[u8], what: &[u8], from: usize) -> Option<usize> {
    text.get(from..)?.windows(what.len()).position(|w| w == what).map(|i| i + from)
}

/// The newline that ends the logical line.
fn logical_end(text: &[u8], mut at: usize) -> usize {
    while at < text.len() {
        if text[at] == b'\n' && text[..at].last() != Some(&b'\\') {
            return at;
        }
        at += 1;
    }
    at
}

/// Where a directive ends: a comment that begins on it carries it on.
fn directive_end(text: &[u8], mut at: usize) -> usize {
    while at < text.len() {
        if text[at..].starts_with(b"/*") {
            at = find(text, b"*/", at + 2).map_or(text.len(), |i| i + 2);
            continue;
        }
        if text[at] == b'\n' && text[..at].last() != Some(&b'\\') {
            return at;
        }
        at += 1;
    }
    at
}

fn token(rest: &[u8], byte: u8) -> (Kind, usize) {
    let run = |ok: &dyn Fn(u8) -> bool| rest.iter().take_while(|b| ok(**b)).count();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
    if byte.is_ascii_digit() {
        return (Kind::Number, run(&|b| word(b) || b == b'.'));
    }
    if word(byte) {
        return (Kind::Word, run(&word));
    }
    if byte == b'"' || byte == b'\'' {
        let mut len = 1;
        while len < rest.len() && rest[len] != byte && rest[len] != b'\n' {
            len += if rest[len] == b'\\' { 2 } else { 1 };
        }
        let kind = if byte == b'"' { Kind::Text } else { Kind::Char };
        return (kind, (len + 1).min(rest.len()));
    }
    const PAIRS: &[&[u8]] = &[
        b"==", b"!=", b"<=", b">=", b"&&", b"||", b"->", b"++", b"--", b"<<", b">>", b"+=", b"-=", b"*=", b"/=", b"|=",
        b"&=", b"^=", b"%=",
    ];
    (Kind::Mark, if PAIRS.iter().any(|p| rest.starts_with(p)) { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(String, bool, bool)> {
        let source = Source::new(text.as_bytes().to_vec());
        source.items.iter().map(|i| (i.name.clone(), i.body.is_some(), i.values.is_some())).collect()
    }

    /// Functions, tables and declarations are told apart; comments, directives and literals hide nothing.
    #[test]
    fn items() {
        let text = "#define X(a) { \\\n a; }\n/* f() { } */ int a;\nstatic int f(int x) __must_hold(x)\n{ return '{' + \"}\"; }\n\
                    static int t[] = { 1, 2 };\nstruct s { int x; };\nSYSCALL_DEFINE1(foo, int, a)\n{ }\n";
        let expected = [
            ("a", false, false),
            ("f", true, false),
            ("t", false, true),
            ("}", false, false),
            ("SYSCALL_DEFINE1", true, false),
        ];
        assert_eq!(names(text), expected.map(|(name, body, values)| (name.to_owned(), body, values)));
    }

    /// An edit goes between tokens: operators of two characters are one.
    #[test]
    fn operators() {
        let source = Source::new(b"a<=b->c<<1;//x\n".to_vec());
        let words: Vec<&str> = (0..source.tokens.len()).map(|t| source.word(t)).collect();
        assert_eq!(words, ["a", "<=", "b", "->", "c", "<<", "1", ";"]);
    }
}

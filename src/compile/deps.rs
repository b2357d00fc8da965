//! Reads the dependency file that a compiler writes for make.
//!
//! In: its text. Out: the paths, spelled as the compiler spelled them; the spelling matters, since `a/../x.h`
//! goes through `a`, which in the mirror may be a link to somewhere else.

use std::path::PathBuf;

/// The prerequisites of the first rule.
pub(super) fn parse(text: &str) -> Vec<PathBuf> {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars().peekable();
    let mut finish = |word: &mut String| {
        if !word.is_empty() {
            words.push(std::mem::take(word));
        }
    };
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.peek() {
                Some('\n') => finish(&mut word),
                Some(&escaped @ (' ' | '#' | '\\')) => {
                    chars.next();
                    word.push(escaped);
                }
                _ => word.push('\\'),
            },
            '$' => {
                chars.next_if_eq(&'$');
                word.push('$');
            }
            // The first rule is the one; `-MP` adds empty ones.
            '\n' if !word.is_empty() || chars.peek() == Some(&'\n') => {
                finish(&mut word);
                break;
            }
            c if c.is_whitespace() => finish(&mut word),
            c => word.push(c),
        }
    }
    finish(&mut word);
    let target = words.iter().position(|word| word.ends_with(':')).map_or(0, |at| at + 1);
    words.drain(..target);
    words.into_iter().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Continued lines, escaped blanks and dollars, and the empty rules after the first one.
    #[test]
    fn forms() {
        let text = "fs/x.o: fs/x.c include/a\\ b.h \\\n  ../c$$d.h \\\n e.h\n\ninclude/z.h:\n";
        let want = ["fs/x.c", "include/a b.h", "../c$d.h", "e.h"].map(PathBuf::from);
        assert_eq!(parse(text), want);
        assert!(parse("x.o:\n").is_empty());
    }
}

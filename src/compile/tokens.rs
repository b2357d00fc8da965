//! Preprocessed text as the compiler proper sees it: tokens, without line markers and layout.
//!
//! In: the output of `-E`. Out: a form that is equal for two texts only if their tokens are equal, with `__LINE__`
//! and `__FILE__` expanded already. Blanks go only where they cannot separate two tokens; in literals
//! every byte stays. In assembly lines mean something, and stay. Being too strict costs one needless compile; being too lax would lose a change.

/// The folded text.
pub(super) fn fold(text: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(text.len() / 2);
    for line in text.split(|&b| b == b'\n') {
        if is_marker(line) {
            continue;
        }
        // Pragmas end with their line; nothing else does.
        let directive = line.trim_ascii_start().starts_with(b"#");
        if directive {
            out.push(b'\n');
        }
        fold_line(line, &mut out);
        if directive {
            out.push(b'\n');
        }
    }
    out
}

/// The same for assembly: its lines. More blanks than one are as good as one, except in literals.
pub(super) fn lines(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() / 2);
    for line in text.split(|&b| b == b'\n').filter(|line| !is_marker(line)).map(<[u8]>::trim_ascii) {
        if line.is_empty() {
            continue;
        }
        if memchr::memchr2(b'"', b'\'', line).is_some() {
            out.extend_from_slice(line);
        } else {
            let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            out.extend_from_slice(words.next().unwrap_or_default());
            words.for_each(|word| out.extend([&b" "[..], word].concat()));
        }
        out.push(b'\n');
    }
    out
}

/// `# 12 "file" 1` or `#line 12`.
fn is_marker(line: &[u8]) -> bool {
    match line.strip_prefix(b"#") {
        Some(rest) => {
            let rest = rest.trim_ascii_start();
            rest.first().is_some_and(u8::is_ascii_digit) || rest.starts_with(b"line ")
        }
        None => false,
    }
}

fn fold_line(line: &[u8], out: &mut Vec<u8>) {
    // The end of the line before is as good as a blank.
    let mut pending = true;
    let mut at = 0;
    while at < line.len() {
        let byte = line[at];
        if byte.is_ascii_whitespace() || byte == 0x0b {
            pending = true;
            at += 1;
            continue;
        }
        if pending && out.last().is_some_and(|&last| separates(last, byte)) {
            out.push(b' ');
        }
        pending = false;
        let end = if byte == b'"' || byte == b'\'' { literal(line, at) } else { at + 1 };
        out.extend_from_slice(&line[at..end]);
        at = end;
    }
}

/// Where the literal that starts at `at` ends; an unterminated one (in assembly text) takes the line.
fn literal(line: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < line.len() {
        match line[end] {
            b'\\' => end += 2,
            byte if byte == line[at] => return end + 1,
            _ => end += 1,
        }
    }
    line.len()
}

/// Whether a blank between these two may matter: between two words, two operators, or a word and what could be
/// a literal it prefixes or a number it is part of.
fn separates(last: u8, next: u8) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80;
    let quote = |byte: u8| byte == b'"' || byte == b'\'';
    // A number takes in a dot, and a sign after its exponent.
    let number = |byte: u8| matches!(byte, b'.' | b'+' | b'-');
    match (word(last), word(next)) {
        (true, true) => true,
        (true, false) => quote(next) || number(next),
        (false, true) => last == b'.' || quote(last),
        (false, false) => {
            !matches!(last, b';' | b'{' | b'}' | b',' | b'\n') && !matches!(next, b';' | b'{' | b'}' | b',')
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, two: &str) -> bool {
        fold(one.as_bytes()) == fold(two.as_bytes())
    }

    /// Line markers, line breaks and blanks are layout.
    #[test]
    fn layout() {
        assert!(same("# 1 \"a.c\"\nint f(void)\n{\n\treturn 1;\n}\n", "# 9 \"b.c\" 2\nint f(void)\n\n{ return 1; }\n"));
        assert!(same("int  a ;\n", "int a;\n# 3 \"x\"\n"));
        assert!(same("f(a,\n  b)", "f(a, b)"));
    }

    /// In assembly a line is a statement, and a blank may separate what would be one in C.
    #[test]
    fn assembly() {
        let same = |one: &str, two: &str| lines(one.as_bytes()) == lines(two.as_bytes());
        assert!(same("# 1 \"e.S\"\n\tret\n\n\tnop\n", "\tret\n# 7 \"e.S\"\n\tnop"));
        assert!(same("  lock\t incl (%rdi) \n", "lock incl (%rdi)\n"));
        assert!(!same("lock\nincl (%rdi)\n", "lock incl (%rdi)\n"));
        assert!(!same("m a (b)\n", "m a(b)\n"));
        assert!(!same(".ascii \"a  b\"\n", ".ascii \"a b\"\n"));
        assert!(!same("a\n# b\n", "a\n# c\n"));
    }

    /// Nothing that could be another token is folded away.
    #[test]
    fn tokens() {
        for (one, two) in [
            ("ab", "a b"),
            ("a + +b", "a ++b"),
            ("\"a  b\"", "\"a b\""),
            ("' '", "'  '"),
            ("\"\\\" x\"", "\"\\\"  x\""),
            ("0xe +1", "0xe+1"),
            ("1 .f", "1.f"),
            ("L \"x\"", "L\"x\""),
            ("#pragma pack(1)\nint a;", "#pragma pack(1) int a;"),
            ("int x = 3;", "int x = 4;"),
        ] {
            assert!(!same(one, two), "{one} / {two}");
        }
    }
}

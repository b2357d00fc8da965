//! A file's text as its tokens are cut from it: without splices, comments and digraphs.
//!
//! In: a file before preprocessing. Out: the same in logical lines, a comment as one blank. Hard because each of these may stand
//! anywhere: in the middle of a name, between `#` and `define`, a splice in the `/*` of a comment. So whoever looks for
//! directives, words or calls looks at this text only.

use std::borrow::Cow;

/// The text of logical lines. In literals nothing but splices is undone.
pub(super) fn plain(text: &[u8]) -> Vec<u8> {
    let text = joined(text);
    let mut out = Vec::with_capacity(text.len());
    let (mut at, mut done) = (0, 0);
    while at < text.len() {
        let byte = text[at];
        if !SPECIAL[byte as usize] {
            at += 1;
            continue;
        }
        let (by, end): (&[u8], usize) = match (byte, text.get(at + 1)) {
            (b'"' | b'\'', _) => {
                at = literal_end(&text, at).unwrap_or(at + 1);
                continue;
            }
            (b'/', Some(b'*')) => {
                let length = memchr::memmem::find(&text[at + 2..], b"*/");
                (b" ", length.map_or(text.len(), |length| at + 2 + length + 2))
            }
            (b'/', Some(b'/')) => (b" ", memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |length| at + length)),
            (b'%', Some(b':')) => (b"#", at + 2),
            (b'<', Some(b'%')) => (b"{", at + 2),
            (b'%', Some(b'>')) => (b"}", at + 2),
            (b'<', Some(b':')) => (b"[", at + 2),
            (b':', Some(b'>')) => (b"]", at + 2),
            (b'\x0b' | b'\x0c' | b'\0', _) => (b" ", at + 1),
            _ => {
                at += 1;
                continue;
            }
        };
        out.extend_from_slice(&text[done..at]);
        out.extend_from_slice(by);
        (at, done) = (end, end);
    }
    out.extend_from_slice(&text[done..]);
    out
}

/// Bytes that something may begin with which is not left as it is.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let bytes = b"\"'/%<:\x0b\x0c\0";
    let mut at = 0;
    while at < bytes.len() {
        special[bytes[at] as usize] = true;
        at += 1;
    }
    special
};

/// Lines that end in a backslash, with or without blanks behind it, joined with the next; and line ends of one form.
fn joined(text: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::new();
    let mut done = 0;
    for at in memchr::memchr2_iter(b'\\', b'\r', text) {
        if at < done {
            continue;
        }
        let behind = &text[at + 1..];
        let (length, kept) = if text[at] == b'\r' {
            (usize::from(behind.starts_with(b"\n")), 1)
        } else {
            let is_blank = |byte: &&u8| matches!(**byte, b' ' | b'\t' | b'\x0b' | b'\x0c' | b'\0');
            let blanks = behind.iter().take_while(is_blank).count();
            let end = [&b"\n"[..], b"\r\n"].into_iter().find(|end| behind[blanks..].starts_with(end));
            (end.map_or(0, |end| blanks + end.len()), 0)
        };
        if length > 0 {
            out.extend_from_slice(&text[done..at]);
            done = at + 1 + length - kept;
        }
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(&text[done..]);
    Cow::Owned(out)
}

/// One past the literal that starts at `at`; nothing for a quote that stands alone on its line.
pub(super) fn literal_end(text: &[u8], at: usize) -> Option<usize> {
    let mut end = at + 1;
    while end < text.len() {
        match text[end] {
            b'\\' => end += 2,
            b'\n' => return None,
            byte if byte == text[at] => return Some(end + 1),
            _ => end += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splices, comments and digraphs, in each other and in the middle of what they are not part of; literals stay.
    #[test]
    fn spellings() {
        for (text, expected) in [
            ("a b\n\"c\"\n", "a b\n\"c\"\n"),
            ("us\\\ner", "user"),
            ("us\\ \t\ner us\\\r\ner", "user user"),
            ("a\r\nb\rc\n", "a\nb\rc\n"),
            ("a\\\\\nb", "a\\b"),
            ("a\\b\\", "a\\b\\"),
            ("#def\\\nine X", "#define X"),
            ("#/* c */define X", "# define X"),
            ("#define X /* of\ntwo lines */ 1\n", "#define X   1\n"),
            ("a /\\\n* c *\\\n/ b", "a   b"),
            ("a // c \\\n d\nb", "a  \nb"),
            ("a%:%:b %:define <% %> <: :>", "a##b #define { } [ ]"),
            ("\"%: /* \\\" // \" '\"' /**/", "\"%: /* \\\" // \" '\"'  "),
            ("\"one \\\ntwo\"", "\"one two\""),
            ("#error don't /* say */\nx /* y", "#error don't  \nx  "),
            ("a\x0cb\x0bc", "a b c"),
            ("x / y % z < a : b", "x / y % z < a : b"),
        ] {
            assert_eq!(String::from_utf8_lossy(&plain(text.as_bytes())), expected, "{text}");
        }
    }
}

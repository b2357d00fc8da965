//! Tests of the patch reader: what tools and mailers really produce.

use super::*;

fn one(text: &str) -> FilePatch {
    let mut files = parse(text.as_bytes(), "t.patch").unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(files.len(), 1);
    files.remove(0)
}

fn problem(text: &str) -> String {
    format!("{:#}", parse(text.as_bytes(), "t.patch").expect_err("should be refused"))
}

const BODY: &str = "--- a/fs/x.c\n+++ b/fs/x.c\n@@ -1,2 +1,2 @@\n a\n-b\n+B\n";

/// Mail headers, prose with dashes, a diffstat, and git's signature around the diff are not part of it.
#[test]
fn mail() {
    let text = format!(
        "From 0123 Mon Sep 17 00:00:00 2001\nSubject: x\nX-Klp-Expect: patch\n\n--- not a header\n- a list\n+ more\n---\n fs/x.c | 2 +-\n\ndiff --git a/fs/x.c b/fs/x.c\nindex 1..2 100644\n{BODY}-- \n2.43.0\n\n"
    );
    let file = one(&text);
    assert_eq!((file.path.to_str(), file.kind, file.line), (Some("fs/x.c"), Kind::Modify, 11));
    assert_eq!(file.hunks[0].lines.len(), 3);
}

/// A removed line that starts with `-- ` makes a `--- ` line; the counts say that it is no header.
#[test]
fn dashes_in_a_hunk() {
    let text = "--- a/x/y.c\n+++ b/x/y.c\n@@ -1,3 +1,3 @@\n a\n--- b;\n+++ c;\n d\n";
    let file = one(text);
    let lines: Vec<_> = file.hunks[0].lines.iter().map(|line| (line.op, line.text.as_slice())).collect();
    assert_eq!(lines[1], (Op::Remove, b"-- b;\n".as_slice()));
    assert_eq!(lines[2], (Op::Add, b"++ c;\n".as_slice()));
}

/// New and deleted files, by git's words and by GNU diff's epoch stamps.
#[test]
fn new_and_deleted() {
    let new = "diff --git a/f/n.c b/f/n.c\nnew file mode 100644\n--- /dev/null\n+++ b/f/n.c\n@@ -0,0 +1 @@\n+x\n";
    assert_eq!(one(new).kind, Kind::Create);
    let gone = "--- a/f/n.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n";
    assert_eq!((one(gone).kind, one(gone).path.to_str()), (Kind::Delete, Some("f/n.c")));
    let stamp =
        "--- a/f/n.c\t1970-01-01 00:00:00.000000000 +0000\n+++ b/f/n.c\t2026-01-01 00:00:00 +0000\n@@ -0,0 +1 @@\n+x\n";
    assert_eq!(one(stamp).kind, Kind::Create);
    let empty = "diff --git a/f/n.h b/f/n.h\nnew file mode 100644\nindex 0000000..e69de29\n";
    assert_eq!(one(empty).kind, Kind::Create);
    let mode = "diff --git a/f/n.h b/f/n.h\nold mode 100644\nnew mode 100755\n";
    assert_eq!(one(mode).kind, Kind::Mode);
}

/// Renames and copies, with changes and without; both names are needed.
#[test]
fn renames() {
    let head = "diff --git a/f/old.c b/f/new.c\nsimilarity index 90%\nrename from f/old.c\nrename to f/new.c\n";
    let file = one(&format!("{head}index 1..2\n--- a/f/old.c\n+++ b/f/new.c\n@@ -1 +1 @@\n-a\n+b\n"));
    assert_eq!(file.kind, Kind::Rename("f/old.c".into()));
    let file = one(head);
    assert_eq!((file.kind, file.path.to_str(), file.hunks.len()), (Kind::Rename("f/old.c".into()), Some("f/new.c"), 0));
    let file = one("diff --git a/f/a.h b/f/b.h\nsimilarity index 100%\ncopy from f/a.h\ncopy to f/b.h\n");
    assert_eq!((file.kind, file.path.to_str()), (Kind::Copy("f/a.h".into()), Some("f/b.h")));
    assert!(problem("diff --git a/f/a.h b/f/b.h\nrename from f/a.h\n").contains("does not name both files"));
}

/// A section of git's that has no hunks ends where another file's begins, also when that has no `diff --git` line of its own.
#[test]
fn a_plain_section_behind_one_of_git() {
    let files = |head: &str| -> Vec<(Kind, PathBuf, usize)> {
        let text = format!("{head}{BODY}");
        let files = parse(text.as_bytes(), "t.patch").unwrap_or_else(|error| panic!("{error:#}"));
        files.into_iter().map(|file| (file.kind, file.path, file.hunks.len())).collect()
    };
    let then = (Kind::Modify, PathBuf::from("fs/x.c"), 1);
    let rename = "diff --git a/f/a.c b/f/b.c\nsimilarity index 100%\nrename from f/a.c\nrename to f/b.c\n";
    assert_eq!(files(rename), [(Kind::Rename("f/a.c".into()), "f/b.c".into(), 0), then.clone()]);
    let copy = rename.replace("rename ", "copy ");
    assert_eq!(files(&copy), [(Kind::Copy("f/a.c".into()), "f/b.c".into(), 0), then.clone()]);
    let empty = "diff --git a/f/n.h b/f/n.h\nnew file mode 100644\nindex 0000000..e69de29\n";
    assert_eq!(files(empty), [(Kind::Create, "f/n.h".into(), 0), then.clone()]);
    let mode = "diff --git a/f/n.h b/f/n.h\nold mode 100644\nnew mode 100755\n";
    assert_eq!(files(mode), [(Kind::Mode, "f/n.h".into(), 0), then.clone()]);
    assert_eq!(files(&mode.replace("f/n.h", "fs/x.c")), [then]);
}

/// A mailbox, `git log -p` and diffs one after the other hold several changes; prose that looks a bit like it begins none.
#[test]
fn changes() {
    let of = |name: &str| BODY.replace("fs/x.c", name);
    let changes = |text: &str| parse(text.as_bytes(), "t").unwrap().iter().map(|f| f.change).collect::<Vec<_>>();
    let mail = "From 0123abc Mon Sep 17 00:00:00 2001\nSubject: x\n\n";
    let found = changes(&format!("{mail}{}{}-- \n2.43.0\n\n{mail}{}", of("f/a.c"), of("f/b.c"), of("f/c.c")));
    assert_eq!(found, [1, 1, 2]);
    let commit = "\ncommit 0123456789abcdef (HEAD)\nAuthor: x\n\n    text\n\n";
    assert_eq!(changes(&format!("{commit}{}{commit}{}", of("f/a.c"), of("f/b.c"))), [1, 2]);
    assert_eq!(changes(&format!("{}{}{}", of("f/a.c"), of("f/b.c"), of("f/a.c"))), [0, 0, 1]);
    assert_eq!(changes(&format!("{}\nFrom here on: the rest\ncommit it\n{}", of("f/a.c"), of("f/b.c"))), [0, 0]);
}

/// No newline at the end, on either side, and blank context that lost its blank.
#[test]
fn line_ends() {
    let file = one("--- a/f/x\n+++ b/f/x\n@@ -1,3 +1,3 @@\n a\n\n-b\n\\ No newline at end of file\n+b\n");
    let texts: Vec<&[u8]> = file.hunks[0].lines.iter().map(|line| line.text.as_slice()).collect();
    assert_eq!(texts, [b"a\n".as_slice(), b"\n", b"b", b"b\n"]);
    let file = one(&format!("{}\\ No newline at end of file\n", BODY));
    assert_eq!(file.hunks[0].lines[2].text, b"B");
    assert_eq!(one(&BODY.replace('\n', "\r\n")), one(BODY), "a CRLF patch is read as its LF form");
}

/// What cannot be a source patch is told, all of it at once and with its line.
#[test]
fn garbage() {
    assert!(problem("").contains("the patch is empty"));
    assert!(problem("hello\nworld\n").contains("there is no diff in it"));
    let binary = "diff --git a/f/x.png b/f/x.png\nindex 1..2 100644\nGIT binary patch\nliteral 3\nKcmZQ\n";
    assert!(problem(binary).contains("t.patch:3: a binary change (of `f/x.png`)"));
    assert!(problem("Binary files a/x.o and b/x.o differ\n").contains("binary"));
    assert!(problem("--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n").contains("leaves the kernel tree"));
    assert!(problem("--- /etc/x\n+++ /etc/x\n@@ -1 +1 @@\n-a\n+b\n").contains("absolute"));
    assert!(problem(&format!("{BODY}Only in b/fs: new.c\n")).contains("make the diff with -N"));
    assert!(problem("diff --cc fs/x.c\nindex 1,2..3\n@@@ -1,1 -1,1 +1,1 @@@\n").contains("combined diff"));
    assert!(problem("@@ -1 +1 @@\n-a\n+b\n").contains("a hunk without"));
    let context = "*** a/f/x\n--- b/f/x\n***************\n*** 1,2 ****\n  a\n! b\n--- 1,2 ----\n  a\n! B\n";
    for text in [format!("{context}{BODY}"), format!("{BODY}{}", context.replace("***\n***", "*** f(void)\n***"))] {
        assert!(problem(&text).contains("a change in context format is not read; make the diff with -u"), "{text}");
    }
    assert_eq!(one(&format!("***************\n* a title\n***************\n\n{BODY}")).hunks.len(), 1);
    let both = problem(&format!("{binary}--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n"));
    assert!(both.contains("binary") && both.contains("leaves"), "{both}");
}

/// Wrong counts in `@@` would lose a change in silence: they are errors.
#[test]
fn wrong_counts() {
    assert!(problem(&format!("{BODY}+C\n")).contains("has more lines"));
    assert!(problem("--- a/f/x\n+++ b/f/x\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n").contains("ends in the middle"));
    assert!(problem("--- a/f/x\n+++ b/f/x\n@@ -1,2 +1,1 @@\n-a\n+B\n+C\n c\n").contains("other lines than"));
    assert!(problem("--- a/f/x\n+++ b/f/x\n@@ -1,2 +1,2 @@\n-a\n+B\n*c\n").contains("does not belong"));
    assert!(problem("--- a/f/x\n+++ b/f/x\n").contains("without a hunk"));
}

/// Bytes that are not UTF-8 go through unchanged.
#[test]
fn any_bytes() {
    let files = parse(b"--- a/f/x\n+++ b/f/x\n@@ -1 +1 @@\n-\xe9\n+\xe8\n", "t").unwrap();
    assert_eq!(files[0].hunks[0].lines[1].text, b"\xe8\n");
}

/// A hunk is named as it stands in the patch: with its counts, but for a count of one.
#[test]
fn ranges() {
    let range = |text: &str| one(text).hunks[0].range();
    assert_eq!(range(BODY), "@@ -1,2 +1,2 @@");
    assert_eq!(range("--- a/f/x\n+++ b/f/x\n@@ -7 +7,2 @@\n-a\n+b\n+c\n"), "@@ -7 +7,2 @@");
}

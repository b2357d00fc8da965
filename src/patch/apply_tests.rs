//! Tests of applying patches in memory.

use super::super::parse;
use super::*;

fn run(tree: &[(&str, &str)], patches: &[&str]) -> Result<Applied> {
    let mut files = Vec::new();
    for (number, text) in patches.iter().enumerate() {
        files.extend(parse(text.as_bytes(), &format!("p{number}"))?);
    }
    apply(&files, |path| {
        Ok(tree.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| text.as_bytes().to_vec()))
    })
}

fn patched(applied: &Applied, path: &str) -> String {
    String::from_utf8(applied.get(Path::new(path)).unwrap().patched.clone().unwrap()).unwrap()
}

const TREE: &[(&str, &str)] = &[("f/x.c", "a\nb\nc\nd\ne\nf\ng\nh\n"), ("f/y.c", "one\n")];

/// The second patch builds on what the first one made (upstream's tool fails here).
#[test]
fn stacked() {
    let first = "--- a/f/x.c\n+++ b/f/x.c\n@@ -1,3 +1,4 @@\n a\n+new\n b\n c\n";
    let second = "--- a/f/x.c\n+++ b/f/x.c\n@@ -1,4 +1,4 @@\n a\n-new\n+newer\n b\n c\n";
    let applied = run(TREE, &[first, second]).unwrap();
    assert_eq!(patched(&applied, "f/x.c"), "a\nnewer\nb\nc\nd\ne\nf\ng\nh\n");
    assert_eq!(applied.files[0].spans, [Span { original: 2..2, patched: 2..3 }]);
    assert!(applied.notes.is_empty() && applied.warnings.is_empty());
}

/// A patch and its reverse leave no touched file.
#[test]
fn undone() {
    let there = "--- a/f/y.c\n+++ b/f/y.c\n@@ -1 +1 @@\n-one\n+two\n";
    let back = "--- a/f/y.c\n+++ b/f/y.c\n@@ -1 +1 @@\n-two\n+one\n";
    assert!(run(TREE, &[there, back]).unwrap().files.is_empty());
}

/// An offset is a note, and later hunks of the file profit from it; fuzz is a warning that quotes the hunk.
#[test]
fn offset_and_fuzz() {
    let moved = "--- a/f/x.c\n+++ b/f/x.c\n@@ -11,3 +11,4 @@\n b\n+new\n c\n d\n@@ -15,3 +16,3 @@\n f\n-g\n+G\n h\n";
    let applied = run(TREE, &[moved]).unwrap();
    assert_eq!(patched(&applied, "f/x.c"), "a\nb\nnew\nc\nd\ne\nf\nG\nh\n");
    assert!(applied.notes[0].contains("hunk 1 of `f/x.c` applied at line 2 (offset -9 lines)"), "{:?}", applied.notes);
    let fuzzy = "--- a/f/x.c\n+++ b/f/x.c\n@@ -2,5 +2,5 @@\n WRONG\n c\n-d\n+D\n e\n f\n";
    let applied = run(TREE, &[fuzzy]).unwrap();
    assert_eq!(patched(&applied, "f/x.c"), "a\nb\nc\nD\ne\nf\ng\nh\n", "the file's own context stays");
    assert!(applied.warnings[0].contains("fuzz 1") && applied.warnings[0].contains("+D"), "{:?}", applied.warnings);
}

/// All failures of a run are told, each with its hunk and the place that is nearest.
#[test]
fn failures() {
    let bad = "--- a/f/x.c\n+++ b/f/x.c\n@@ -3,3 +3,3 @@\n cc\n-dd1\n+D\n ee\n--- a/f/z.c\n+++ b/f/z.c\n@@ -1 +1 @@\n-x\n+y\n";
    let done = "--- a/f/y.c\n+++ b/f/y.c\n@@ -1 +1 @@\n-zero\n+one\n";
    let error = format!("{:#}", run(TREE, &[bad, done]).unwrap_err());
    for part in ["p0:3: hunk 1 of `f/x.c` does not apply", "-dd1", "the tree does not have", "has this change already"]
    {
        assert!(error.contains(part), "no `{part}` in:\n{error}");
    }
    let near = "--- a/f/w.c\n+++ b/f/w.c\n@@ -1,3 +1,3 @@\n int one;\n-int too;\n+int 2;\n int three;\n";
    let error = format!("{:#}", run(&[("f/w.c", "x\nx\nint one;\nint two;\nint three;\n")], &[near]).unwrap_err());
    assert!(error.contains("nearest place: line 3, where 2 of its 3 old lines match"), "{error}");
    assert!(error.contains("     4  int two;"), "{error}");
}

/// A patch that was made with --no-prefix, and one of a file that is nowhere.
#[test]
fn no_prefix() {
    let tree = &[("fs/proc/m.c", "a\n")];
    let of = |name: &str| {
        let patch = format!("--- {name}\n+++ {name}\n@@ -1 +1 @@\n-a\n+b\n");
        format!("{:#}", run(tree, &[&patch]).unwrap_err())
    };
    assert!(of("fs/proc/m.c").contains("`proc/m.c`, which the tree does not have, but `fs/proc/m.c`; the first"));
    assert!(of("a/fs/proc/n.c").ends_with("`fs/proc/n.c`, which the tree does not have"));
}

/// New, deleted and renamed files; and those that cannot be.
#[test]
fn whole_files() {
    let new = "--- /dev/null\n+++ b/f/n.c\n@@ -0,0 +1,2 @@\n+x\n+y\n";
    let applied = run(TREE, &[new, "--- a/f/y.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n"]).unwrap();
    assert_eq!((patched(&applied, "f/n.c").as_str(), &applied.files[0].original), ("x\ny\n", &None));
    assert_eq!(applied.get(Path::new("f/y.c")).unwrap().patched, None);
    let exists = "--- /dev/null\n+++ b/f/y.c\n@@ -0,0 +1 @@\n+x\n";
    assert!(format!("{:#}", run(TREE, &[exists]).unwrap_err()).contains("exists already"));
    let rename = "diff --git a/f/y.c b/f/z.c\nrename from f/y.c\nrename to f/z.c\n--- a/f/y.c\n+++ b/f/z.c\n@@ -1 +1 @@\n-one\n+two\n";
    let applied = run(TREE, &[rename]).unwrap();
    assert_eq!(applied.get(Path::new("f/y.c")).unwrap().patched, None);
    assert_eq!(patched(&applied, "f/z.c"), "two\n");
}

/// Renames and copies start from what was there before their change, wherever in it they stand; the next change from what this one made.
#[test]
fn moves_start_from_before() {
    let edit = |from: &str, to: &str| format!("@@ -1 +1 @@\n-{from}\n+{to}\n");
    let modify = |name: &str, body: &str| format!("diff --git a/{name} b/{name}\n--- a/{name}\n+++ b/{name}\n{body}");
    let moves = |verb: &str, from: &str, to: &str| {
        format!("diff --git a/{from} b/{to}\nsimilarity index 90%\n{verb} from {from}\n{verb} to {to}\n")
    };
    let change = modify("f/y.c", &edit("one", "two"));
    // Without a change of its own, and with one.
    let applied = run(TREE, &[&(change.clone() + &moves("copy", "f/y.c", "f/z.c"))]).unwrap();
    assert_eq!((patched(&applied, "f/y.c").as_str(), patched(&applied, "f/z.c").as_str()), ("two\n", "one\n"));
    let copy = moves("copy", "f/y.c", "f/z.c") + "--- a/f/y.c\n+++ b/f/z.c\n" + &edit("one", "three");
    assert_eq!(patched(&run(TREE, &[&(change.clone() + &copy)]).unwrap(), "f/z.c"), "three\n");
    // In the next mail, and in the next patch, the file is what the change made of it.
    let mail = "From 0123abc Mon Sep 17 00:00:00 2001\nSubject: x\n\n";
    let copy = moves("copy", "f/y.c", "f/z.c") + "--- a/f/y.c\n+++ b/f/z.c\n" + &edit("two", "three");
    let both = format!("{mail}{change}-- \n2.43.0\n\n{mail}{copy}");
    for patches in [&[both.as_str()][..], &[&change, &copy]] {
        assert_eq!(patched(&run(TREE, patches).unwrap(), "f/z.c"), "three\n");
    }
    // Two files that change places, and a new one in the place of one that went.
    let swap =
        moves("rename", "f/x.c", "f/y.c") + &moves("rename", "f/y.c", "f/x.c") + &modify("f/w.c", &edit("w", "W"));
    let applied = run(&[TREE[1], ("f/x.c", "x\n"), ("f/w.c", "w\n")], &[&swap]).unwrap();
    assert_eq!((patched(&applied, "f/x.c").as_str(), patched(&applied, "f/y.c").as_str()), ("one\n", "x\n"));
    let new = "diff --git a/f/y.c b/f/y.c\nnew file mode 100644\n--- /dev/null\n+++ b/f/y.c\n@@ -0,0 +1 @@\n+new\n";
    let applied = run(TREE, &[&(new.to_owned() + &moves("rename", "f/y.c", "f/z.c"))]).unwrap();
    assert_eq!((patched(&applied, "f/y.c").as_str(), patched(&applied, "f/z.c").as_str()), ("new\n", "one\n"));
    let over = moves("copy", "f/x.c", "f/y.c") + &modify("f/x.c", &edit("a", "A"));
    assert!(format!("{:#}", run(TREE, &[&over]).unwrap_err()).contains("exists already"));
    // Nothing but moves is nothing to patch, in however many patches.
    let only = [moves("rename", "f/y.c", "f/z.c"), moves("copy", "f/x.c", "f/w.c")];
    let error = format!("{:#}", run(TREE, &[&only[0], &only[1]]).unwrap_err());
    assert!(error.contains("renames `f/y.c` without changing it") && error.contains("p1:1: copies `f/x.c`"), "{error}");
}

/// A line without a newline is the last one of its file, or it gets one: two lines never become one.
#[test]
fn newlines() {
    let none = "\\ No newline at end of file\n";
    let middle = format!("--- a/f.c\n+++ b/f.c\n@@ -1,2 +1,2 @@\n a\n-b\n+B\n{none}");
    let end = format!("--- a/f.c\n+++ b/f.c\n@@ -2,2 +2,2 @@\n b\n-c\n+C\n{none}");
    let append = "--- a/f.c\n+++ b/f.c\n@@ -3,0 +4 @@\n+d\n";
    let cases = [
        ("a\nb\nc\n", middle.as_str(), "a\nB\nc\n"),
        ("a\nb\nc\n", &end, "a\nb\nC"),
        ("a\nb\nc", append, "a\nb\nc\nd\n"),
    ];
    for (tree, patch, want) in cases {
        assert_eq!(patched(&run(&[("f.c", tree)], &[patch]).unwrap(), "f.c"), want, "{patch}");
        if let Some(theirs) = gnu_patch(tree, patch) {
            assert_eq!(theirs.as_deref(), Ok(want), "{patch}");
        }
    }
}

/// GNU patch is what patches are tested with: on random edits of a shifted file both give the same text.
#[test]
fn like_gnu_patch() {
    let base: Vec<String> = (0..60).map(|n| format!("line {} {}", n, n % 7)).collect();
    for (cut, edit) in [(0, 20), (3, 30), (5, 57), (1, 2), (2, 59), (7, 8)] {
        let mut new = base.clone();
        new[edit] = "edited".into();
        new.insert(edit + 1, "added".into());
        let (lo, hi) = (edit.saturating_sub(3), (edit + 4).min(60));
        let mut patch = format!("--- a/f.c\n+++ b/f.c\n@@ -{},{} +{},{} @@\n", lo + 1, hi - lo, lo + 1, hi - lo + 1);
        for (at, line) in base.iter().enumerate().take(hi).skip(lo) {
            let mark = if at == edit { '-' } else { ' ' };
            patch.push_str(&format!("{mark}{line}\n"));
            if at == edit {
                patch.push_str("+edited\n+added\n");
            }
        }
        let tree = base[cut..].join("\n") + "\n";
        let ours = run(&[("f.c", &tree)], &[&patch]).map(|applied| patched(&applied, "f.c")).ok();
        let Some(theirs) = gnu_patch(&tree, &patch) else { return };
        assert_eq!(ours, theirs.ok(), "cut {cut}, edit {edit}");
    }
}

/// What GNU patch makes of it; `None` when there is no such program here.
fn gnu_patch(tree: &str, patch: &str) -> Option<Result<String, ()>> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f.c"), tree).unwrap();
    std::fs::write(dir.path().join("p"), patch).unwrap();
    let status = std::process::Command::new("patch")
        .args(["-s", "-f", "-p1", "-i", "p", "-r", "-"])
        .current_dir(dir.path())
        .stdout(std::process::Stdio::null())
        .status()
        .ok()?;
    let text = std::fs::read_to_string(dir.path().join("f.c")).unwrap();
    Some(if status.success() { Ok(text) } else { Err(()) })
}

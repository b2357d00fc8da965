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

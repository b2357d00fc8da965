//! The command line as scripts and people see it: texts of refusals and errors, exit statuses, the JSON's form.
//!
//! `SNAPSHOTS=overwrite cargo test --test cli` writes the expected texts (`tests/fixtures/*/output.txt`) anew.

#[path = "support/fixture.rs"]
#[allow(dead_code)]
mod fixture;
#[path = "support/objects.rs"]
#[allow(dead_code)]
mod objects;

use std::fs;
use std::path::{Path, PathBuf};

use fixture::Fixture;
use snapbox::cmd::{Command, cargo_bin};
use snapbox::{Data, str};
use tempfile::TempDir;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Both objects of a fixture, in a folder of their own.
fn objects_of(name: &str) -> (TempDir, PathBuf, PathBuf) {
    let work = tempfile::tempdir().expect("a temporary folder");
    let compiled = Fixture::read(&folder(name)).compile(work.path(), &[]);
    let (before, after) = compiled.expect("it compiles").expect("gcc is installed");
    (work, before, after)
}

fn klp_build() -> Command {
    Command::new(cargo_bin!("klp-build"))
}

/// Each refusal says what is wrong, where, and what to do: one fixture for every reason that `diff` can reach.
#[test]
fn refusals() {
    const REACHABLE: &[(&str, &str)] = &[
        ("init-section", "init-data"),
        ("not-hookable", "notrace-global"),
        ("data-changed", "data-changed"),
        ("data-resized", "data-grows"),
        ("ambiguous-twin", "static-local-replaced"),
        ("ambiguous-symbol", "ambiguous-position"),
        ("unresolved-symbol", "code-without-name"),
        ("module-key", "module-key"),
        ("new-dependency", "new-dependency"),
        ("never-runs", "new-initcall"),
        ("unknown-section", "unknown-section-into-code"),
        ("unknown-relocation", "unknown-relocation"),
        ("bad-name", "long-name"),
        ("kernel-lacks", "runtime-constant-shift"),
        ("layout-changed", "layout-insert"),
    ];
    for (reason, name) in REACHABLE {
        let work = tempfile::tempdir().expect("a temporary folder");
        let output = Fixture::read(&folder(name)).output(work.path());
        let text =
            format!("{}--\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(&format!("[{reason}]")), "{name} is not refused as {reason}:\n{text}");
        assert_eq!(output.status.code(), Some(1), "{name}");
        let expected = Data::read_from(&folder(name).join("output.txt"), None);
        snapbox::Assert::new().action_env("SNAPSHOTS").eq(text, expected);
    }
}

/// What is no object is an error with status 2 that names the file and the trouble.
#[test]
fn garbage_in() {
    let (work, before, after) = objects_of("README");
    let bytes = fs::read(&before).expect("readable");
    let write = |name: &str, bytes: &[u8]| fs::write(work.path().join(name), bytes).expect("writable");
    write("empty.o", b"");
    write("text.o", b"int main(void) { return 0; }\n");
    write("cut.o", &bytes[..bytes.len() / 2]);
    write("head.o", &bytes[..40]);
    let mut narrow = bytes.clone();
    narrow[4] = 1;
    write("narrow.o", &narrow);
    let mut foreign = bytes.clone();
    foreign[18] = 183;
    write("foreign.o", &foreign);
    let mut program = bytes.clone();
    program[16] = 2;
    write("program.o", &program);
    let mut sparc = bytes.clone();
    sparc[18] = 43;
    write("sparc.o", &sparc);
    fs::copy(&before, work.path().join("good.o")).expect("copied");
    fs::copy(&after, work.path().join("better.o")).expect("copied");
    write("bad.symvers", b"not exports\n");
    let fails = |args: &[&str], expected: Data| {
        klp_build()
            .current_dir(work.path())
            .arg("diff")
            .args(args)
            .args(["-o", "out.o"])
            .assert()
            .code(2)
            .stdout_eq(str![""])
            .stderr_eq(expected);
        assert!(!work.path().join("out.o").exists(), "{args:?} left an output");
    };
    fails(
        &["good.o", "missing.o"],
        str![[r#"
error: failed to read `missing.o`
  caused by: No such file or directory (os error 2)

"#]]
        .into(),
    );
    fails(
        &["empty.o", "good.o"],
        str![[r#"
error: failed to read the object `empty.o`
  caused by: not an ELF file

"#]]
        .into(),
    );
    fails(
        &["good.o", "text.o"],
        str![[r#"
error: failed to read the object `text.o`
  caused by: not an ELF file

"#]]
        .into(),
    );
    fails(
        &["good.o", "cut.o"],
        str![[r#"
error: failed to read the object `cut.o`
  caused by: the section headers are damaged or cut short
  caused by: Invalid ELF section header offset/size/alignment

"#]]
        .into(),
    );
    fails(
        &["head.o", "good.o"],
        str![[r#"
error: failed to read the object `head.o`
  caused by: the ELF header is damaged
  caused by: Invalid ELF header size or alignment

"#]]
        .into(),
    );
    fails(
        &["narrow.o", "good.o"],
        str![[r#"
error: failed to read the object `narrow.o`
  caused by: a 32-bit ELF file; only 64-bit kernels are supported

"#]]
        .into(),
    );
    fails(
        &["program.o", "good.o"],
        str![[r#"
error: failed to read the object `program.o`
  caused by: not a relocatable object or kernel module (e_type 2)

"#]]
        .into(),
    );
    fails(
        &["good.o", "foreign.o"],
        str![[r#"
error: failed to compare `good.o` and `foreign.o`
  caused by: the objects are for different machines (62 and 183)

"#]]
        .into(),
    );
    fails(
        &["sparc.o", "sparc.o"],
        str![[r#"
error: failed to compare `sparc.o` and `sparc.o`
  caused by: machine 43 is not supported (x86-64 and AArch64 are)

"#]]
        .into(),
    );
    fails(
        &["good.o", "better.o", "--symvers", "bad.symvers"],
        str![[r#"
error: failed to read exports from `bad.symvers`
  caused by: line 1: 1 tab-separated fields where 4 or 5 are expected

"#]]
        .into(),
    );
}

/// A missing operand is a usage error, status 2.
#[test]
fn usage() {
    klp_build().args(["diff", "only.o"]).assert().code(2).stdout_eq(str![""]);
    klp_build().assert().code(2);
}

/// The verdict a line per finding; nothing changed is status 0 as well, and writes nothing.
#[test]
fn verdicts() {
    let (work, before, after) = objects_of("README");
    let out = work.path().join("out.o");
    let diff = |a: &Path, b: &Path| klp_build().arg("diff").arg(a).arg(b).arg("-o").arg(&out);
    diff(&before, &before).assert().success().stderr_eq(str![""]).stdout_eq(str![[r#"
nothing changed

"#]]);
    assert!(!out.exists());
    diff(&before, &after).assert().success().stderr_eq(str![""]).stdout_eq(str![[r#"
vmlinux: new function: name
vmlinux: changed function: greet

"#]]);
    assert!(out.exists());
    diff(&before, &after).arg("--object").arg("ext4").assert().success().stdout_eq(str![[r#"
ext4: new function: name
ext4: changed function: greet

"#]]);
    // The kernel's name of a module, whatever its file is called; an empty one is none.
    diff(&before, &after).args(["--object", "kvm-intel"]).assert().success().stdout_eq(str![[r#"
kvm_intel: new function: name
kvm_intel: changed function: greet

"#]]);
    diff(&before, &after).args(["--object", ""]).assert().code(2).stdout_eq(str![""]);
}

/// The output is this run's or is not there: an earlier run's goes when nothing changed, at a refusal, and at an error.
#[test]
fn no_stale_output() {
    let (work, before, after) = objects_of("README");
    let (_refused, data_before, data_after) = objects_of("data-changed");
    let out = work.path().join("out.o");
    let diff = |a: &Path, b: &Path, status: i32| {
        fs::write(&out, "from before").expect("writable");
        klp_build().arg("diff").arg(a).arg(b).arg("-o").arg(&out).assert().code(status);
    };
    diff(&before, &after, 0);
    assert!(fs::read(&out).expect("written").starts_with(b"\x7fELF"));
    for (a, b, status) in
        [(&before, &before, 0), (&data_before, &data_after, 1), (&before, &work.path().join("none"), 2)]
    {
        diff(a, b, status);
        assert!(!out.exists(), "an earlier output is left after status {status}");
    }
    // An input is never taken for an output.
    let bytes = fs::read(&after).expect("readable");
    let same = klp_build().arg("diff").arg(&before).arg(&after).arg("-o").arg(&after).assert();
    same.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: `-o [..]` would overwrite the input `[..]`

"#]]);
    assert_eq!(fs::read(&after).expect("there"), bytes);
}

/// An output that cannot be written is an error, not a success without a file.
#[test]
fn unwritable_output() {
    let (work, before, after) = objects_of("README");
    let out = work.path().join("no/such/folder/out.o");
    klp_build().arg("diff").arg(&before).arg(&after).arg("-o").arg(out).assert().code(2).stdout_eq(str![""]);
}

/// The JSON's form (docs/json.md): verdicts for every function, every refusal with its six fields.
#[test]
fn json() {
    let (_work, before, after) = objects_of("README");
    let run = |a: &Path, b: &Path| -> serde_json::Value {
        let output = klp_build().args(["diff", "--json"]).arg(a).arg(b).output().expect("it runs");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let report = run(&before, &after);
    assert_eq!(report["schema"], 1);
    assert_eq!(report["outcome"], "done");
    let functions = report["objects"][0]["functions"].as_array().expect("functions");
    let verdict = |name: &str| functions.iter().find(|f| f["function"] == name).map(|f| f["verdict"].clone());
    assert_eq!(verdict("greet"), Some("changed".into()));
    assert_eq!(verdict("name"), Some("new".into()));
    assert_eq!(report["refusals"], serde_json::json!([]));
    assert_eq!(run(&before, &before)["outcome"], "unchanged");

    let (_work, before, after) = objects_of("data-changed");
    let report = run(&before, &after);
    assert_eq!(report["outcome"], "refused");
    for refusal in report["refusals"].as_array().expect("refusals") {
        for key in ["reason", "object", "symbol", "section", "offset", "message", "advice"] {
            assert!(!refusal[key].is_null(), "a refusal lacks `{key}`: {refusal}");
        }
    }
}

/// `inspect` tells a module that is no livepatch from one, and garbage from both.
#[test]
fn inspect_refuses_what_is_no_livepatch() {
    let (work, before, _) = objects_of("README");
    fs::copy(&before, work.path().join("plain.ko")).expect("copied");
    fs::write(work.path().join("text.ko"), "text").expect("written");
    klp_build().current_dir(work.path()).args(["inspect", "plain.ko"]).assert().code(2).stdout_eq(str![""]).stderr_eq(
        str![[r#"
error: `plain.ko` is not a livepatch module: its .modinfo does not say `livepatch=Y`

"#]],
    );
    klp_build().current_dir(work.path()).args(["inspect", "text.ko"]).assert().code(2).stdout_eq(str![""]).stderr_eq(
        str![[r#"
error: failed to read the module `text.ko`
  caused by: not an ELF file

"#]],
    );
}

/// Patches and trees that are none: one clear error, and nothing left behind.
#[test]
fn garbage_patches_and_trees() {
    let work = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        let path = work.path().join(name);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("writable");
        fs::write(path, text).expect("writable");
    };
    write("empty.patch", "");
    write("text.patch", "just text\n");
    write("binary.patch", "diff --git a/x.bin b/x.bin\nindex 1..2 100644\nBinary files a/x.bin and b/x.bin differ\n");
    write("good.patch", "--- a/fs/x.c\n+++ b/fs/x.c\n@@ -1 +1 @@\n-int a;\n+int b;\n");
    write("nothing/README", "no kernel\n");
    for file in ["Makefile", "Kbuild", "Kconfig", "scripts/Kbuild.include", "include/linux/kernel.h"] {
        write(&format!("tree/{file}"), "\n");
    }
    let files = || {
        let all = walkdir::WalkDir::new(work.path()).into_iter().flatten();
        all.map(|entry| entry.into_path()).collect::<std::collections::BTreeSet<_>>()
    };
    let before = files();
    let fails = |args: &[&str], expected: Data| {
        let command = klp_build().current_dir(work.path()).env("TMPDIR", work.path()).args(args);
        command.assert().code(2).stdout_eq(str![""]).stderr_eq(expected);
        assert_eq!(files(), before, "{args:?} left something behind");
    };
    fails(
        &["-k", "tree", "missing.patch"],
        str![[r#"
error: failed to find the patch `missing.patch`

"#]]
        .into(),
    );
    fails(
        &["-k", "tree", "empty.patch"],
        str![[r#"
error: failed to parse `empty.patch`
  caused by: the patch is empty

"#]]
        .into(),
    );
    fails(
        &["-k", "tree", "text.patch"],
        str![[r#"
error: failed to parse `text.patch`
  caused by: there is no diff in it (expected `--- a/FILE`, `+++ b/FILE` and `@@` lines)

"#]]
        .into(),
    );
    fails(
        &["-k", "tree", "binary.patch"],
        str![[r#"
error: failed to parse `binary.patch`
  caused by: binary.patch:3: a binary change (of `x.bin`) cannot become a livepatch

"#]]
        .into(),
    );
    fails(
        &["-k", "nothing", "good.patch"],
        str![[r#"
error: `[..]/nothing` is not a Linux source tree
  run klp-build in the kernel's source tree, or name it with -k

"#]]
        .into(),
    );
    fails(
        &["-k", "tree", "good.patch"],
        str![[r#"
...
error: failed to read `[..]/tree/.config`: No such file or directory (os error 2)
  configure the tree first, or name the kernel's configuration with --config
...
"#]]
        .into(),
    );
}

/// A stream that takes nothing is no bug of ours: nothing panics; what standard error cannot say is lost, what standard output
/// cannot take is an error.
#[test]
fn full_streams() {
    let (work, before, after) = objects_of("data-changed");
    let full = || fs::File::options().write(true).open("/dev/full").expect("it is there");
    let diff = || {
        let mut command = std::process::Command::new(cargo_bin!("klp-build"));
        command.arg("diff").args([&before, &after]);
        command
    };
    let status = diff().stderr(full()).stdout(std::process::Stdio::null()).status().expect("it runs");
    assert_eq!(status.code(), Some(1));
    // The reader left, as `head -1` does.
    let gone = || std::io::pipe().expect("a pipe").1;
    assert_eq!(diff().stderr(gone()).stdout(std::process::Stdio::null()).status().expect("it runs").code(), Some(1));
    for arguments in [&["diff", "--json"][..], &["--help"], &["completions", "man"]] {
        let mut command = std::process::Command::new(cargo_bin!("klp-build"));
        command.args(arguments).stdout(gone());
        if arguments[0] == "diff" {
            command.args([&before, &before]);
        }
        let output = command.output().expect("it runs");
        let status = if arguments[0] == "--help" { 0 } else { 2 };
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(status), &b""[..]), "{arguments:?}");
    }
    for arguments in [["completions", "bash"], ["completions", "man"], ["cache", "show"], ["cache", "--json"]] {
        let mut command = std::process::Command::new(cargo_bin!("klp-build"));
        let output =
            command.args(arguments).env("XDG_CACHE_HOME", work.path()).stdout(full()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.starts_with("error: failed to write to standard output\n"), "{arguments:?}: {said}");
    }
}

/// With `--json` there is a document also where an error ends the run, or the line is wrong.
#[test]
fn json_of_failures() {
    let failed = |arguments: &[&str]| -> Vec<String> {
        let output = klp_build().args(arguments).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&report["schema"], &report["outcome"]), (&1.into(), &"failed".into()), "{arguments:?}");
        report["error"].as_array().expect("texts").iter().map(ToString::to_string).collect()
    };
    assert!(failed(&["diff", "--json", "no.o", "no.o"])[0].contains("failed to read `no.o`"));
    assert!(failed(&["--json", "no.patch"])[0].contains("failed to find the patch `no.patch`"));
    assert!(failed(&["inspect", "--json", "no.ko"])[0].contains("failed to read `no.ko`"));
    assert!(failed(&["--json"])[0].contains("<PATCH>"));
}

/// Each of several problems is marked as one, and a subcommand that was taken for a patch is recognized.
#[test]
fn several_problems() {
    let work = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(work.path().join("d.ko")).expect("writable");
    let run = |arguments: &[&str]| klp_build().current_dir(work.path()).args(arguments).assert().code(2);
    run(&["-o", "d.ko", "--sign-key", "nope", "--sign-cert", "d.ko", "one.patch", "d.ko"]).stderr_eq(str![[r#"
error: failed to find the patch `one.patch`
error: failed to read the patch `d.ko`: it is a directory
error: failed to write `d.ko`: it is a directory
error: failed to find the key `nope` to sign with
error: failed to find the certificate `d.ko` to sign with

"#]]);
    run(&["-v", "diff", "d.ko", "d.ko"]).stderr_eq(str![[r#"
error: failed to find the patch `diff`
error: failed to read the patch `d.ko`: it is a directory
error: failed to read the patch `d.ko`: it is a directory
  options of `diff` stand behind its name: klp-build diff [OPTIONS] ...

"#]]);
    run(&["chekc", "no.ko"]).stderr_eq(str![[r#"
error: failed to find the patch `chekc`
error: failed to find the patch `no.ko`
  nor is there a subcommand `chekc`: they are diff, inspect, check, cache, completions

"#]]);
}

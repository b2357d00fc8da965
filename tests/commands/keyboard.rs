//! The person at the keyboard: where patches come from, Ctrl-C, streams that take nothing, and a document for each way to fail.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use snapbox::cmd::cargo_bin;

use crate::klp_build;
use crate::runs::{PATCH, SOURCE, heeding_interrupts, wait};
use crate::small_kernel::{Has, SmallKernel};

/// A kernel with one unit, whose function it knows.
fn kernel() -> SmallKernel {
    kernel_of(SOURCE)
}

fn kernel_of(source: &str) -> SmallKernel {
    let kernel = SmallKernel::new(Has::Boolean);
    kernel.unit("fs/x.c", source, "gcc");
    let symbols = fs::read_to_string(kernel.path().join("System.map")).expect("readable");
    kernel.write("System.map", &format!("{symbols}ffffffff81000700 T answer\n"));
    kernel
}

/// The program in `work`, which has its temporary files and its cache, too.
fn program(work: &Path) -> Command {
    let mut command = heeding_interrupts();
    command.arg(cargo_bin!("klp-build")).current_dir(work).env("LC_ALL", "C");
    command.env("TMPDIR", work).env("XDG_CACHE_HOME", work.join("cache"));
    command
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).expect("readable").flatten().map(|e| e.file_name().display().to_string()).collect();
    names.sort();
    names
}

/// What Ctrl-C sends, and how the run ends: within a second, which is long before anything is done about a run that goes on.
fn interrupted(child: &mut Child, what: &str) {
    let start = Instant::now();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
    let status = wait(child, what);
    assert_eq!(status.signal(), Some(2), "{what}: {status}");
    assert!(start.elapsed() < Duration::from_secs(2), "{what}: {:?}", start.elapsed());
}

/// Ctrl-C ends what waits for something else than a child, as it ends any program, and nothing is left: not what an earlier comparison
/// wrote either, which could be taken for this one's.
#[test]
fn ctrl_c_while_nothing_runs() {
    let (kernel, work) = (kernel(), tempfile::tempdir().expect("a temporary folder"));
    assert!(Command::new("mkfifo").arg(work.path().join("pipe")).status().expect("mkfifo runs").success());
    for arguments in [&["diff", "pipe", "pipe", "-o", "old.o"][..], &["-o", "new.ko", "-k"], &["check", "pipe", "-k"]] {
        fs::write(work.path().join("old.o"), "from before").expect("writable");
        let mut command = program(work.path());
        command.args(arguments).stderr(Stdio::null());
        if arguments.last() == Some(&"-k") {
            command.arg(kernel.path());
        }
        if arguments[0] == "-o" {
            command.arg("pipe");
        }
        let mut child = command.spawn().expect("it runs");
        std::thread::sleep(Duration::from_millis(500));
        interrupted(&mut child, arguments[0]);
        let left = if arguments[0] == "diff" { vec!["pipe"] } else { vec!["old.o", "pipe"] };
        assert_eq!(names(work.path()), left, "{arguments:?}");
    }
}

/// A run under nohup(1) does not end with the terminal.
#[test]
fn no_hangup() {
    let work = tempfile::tempdir().expect("a temporary folder");
    assert!(Command::new("mkfifo").arg(work.path().join("pipe")).status().expect("mkfifo runs").success());
    let mut command = heeding_interrupts();
    command.args(["sh", "-c", "trap '' HUP; exec \"$0\" diff pipe pipe"]).arg(cargo_bin!("klp-build"));
    let mut child = command.current_dir(work.path()).stderr(Stdio::null()).spawn().expect("it runs");
    std::thread::sleep(Duration::from_millis(500));
    let kill = Command::new("kill").args(["-HUP", &child.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().expect("it is our child").is_none(), "it ended");
    interrupted(&mut child, "diff");
}

/// A run that waits for the build directory of another one says so, and Ctrl-C ends it.
#[test]
fn ctrl_c_while_another_run_is_waited_for() {
    let (kernel, work) = (kernel(), tempfile::tempdir().expect("a temporary folder"));
    let mark = work.path().join("mark");
    // Configured, not built, and its make never ends.
    fs::remove_file(kernel.path().join("init/.main.o.cmd")).expect("it is there");
    kernel.write("Makefile", &format!("olddefconfig:\n\ttouch {}\n\tsleep 996\n", mark.display()));
    fs::write(work.path().join("fix.patch"), PATCH).expect("writable");
    let run = || {
        let mut command = program(work.path());
        command.arg("-k").arg(kernel.path()).arg("fix.patch").stderr(Stdio::piped());
        command.spawn().expect("it runs")
    };
    let said = |child: Child| String::from_utf8(child.wait_with_output().expect("its output").stderr).expect("text");
    let mut first = run();
    let start = Instant::now();
    while !mark.exists() {
        let ended = first.try_wait().expect("it is our child");
        assert!(ended.is_none() && start.elapsed() < Duration::from_secs(60), "make was not started: {ended:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut second = run();
    std::thread::sleep(Duration::from_millis(500));
    assert!(second.try_wait().expect("it is our child").is_none());
    interrupted(&mut second, "the one that waits");
    let waits = said(second);
    assert!(waits.starts_with("note: waiting for another run, which has locked `"), "{waits}");
    interrupted(&mut first, "the one with make");
    assert_eq!(names(work.path()), ["cache", "fix.patch", "mark"], "{}", said(first));
}

/// A patch is read from standard input and from a pipe, and the module is not named after either.
#[test]
fn patches_from_pipes() {
    let (kernel, work) = (kernel(), tempfile::tempdir().expect("a temporary folder"));
    for pipe in ["-", "/dev/stdin"] {
        let mut command = program(work.path());
        command.arg("-k").arg(kernel.path()).args(["--no-link", "--no-verify", "--json", pipe]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        child.stdin.take().expect("piped").write_all(PATCH.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("its output");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(output.status.code(), Some(0), "{pipe}: {report}");
        assert_eq!(report["objects"][0]["functions"][0]["function"], "answer", "{pipe}");
    }
    let wrong = klp_build().arg("-k").arg(kernel.path()).arg("-").stdin("no patch\n").assert().code(2);
    wrong.stderr_eq("error: failed to parse `standard input`\n...\n");
}

/// With `-T` the work directory is told of at once, so that it can be looked at when the compiler fails, and stays.
#[test]
fn a_work_directory_that_is_kept() {
    let (kernel, work) = (kernel(), tempfile::tempdir().expect("a temporary folder"));
    fs::write(work.path().join("fix.patch"), PATCH.replace("42;", "42")).expect("writable");
    let run = |keep: &[&str]| {
        let mut command = program(work.path());
        command.arg("-k").arg(kernel.path()).args(["--no-link", "--no-verify", "fix.patch"]).args(keep);
        let output = command.output().expect("it runs");
        (output.status.code(), output.stdout, String::from_utf8(output.stderr).expect("text"))
    };
    let (status, _, said) = run(&["-T"]);
    assert_eq!(status, Some(3), "{said}");
    let dir = said.strip_prefix("note: the work directory is kept: `").expect("it says so first");
    let dir = Path::new(dir.split('`').next().expect("a name"));
    fs::write(work.path().join("fix.patch"), PATCH).expect("writable");
    let (status, report, _) = run(&["-T", "--json"]);
    assert_eq!(status, Some(0));
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    assert!(Path::new(report["work_directory"].as_str().expect("a text")).is_dir(), "{report}");
    assert_eq!(run(&[]).0, Some(0));
    assert!(dir.is_dir() && names(work.path()).len() == 4, "{:?}", names(work.path()));
}

/// With `-d`, where each reference of the new code went; repeated options are as given once.
#[test]
fn references() {
    let kernel = kernel_of("long vfs_read(void);\nlong answer(void)\n{\n\treturn vfs_read() + 41;\n}\n");
    let work = tempfile::tempdir().expect("a temporary folder");
    let patch = "--- a/fs/x.c\n+++ b/fs/x.c\n@@ -4 +4 @@\n-\treturn vfs_read() + 41;\n+\treturn vfs_read() + 42;\n";
    fs::write(work.path().join("fix.patch"), patch).expect("writable");
    let mut command = program(work.path());
    command.arg("-k").arg(kernel.path()).args(["-vv", "-d", "-d", "--no-link", "--no-verify", "fix.patch"]);
    let output = command.output().expect("it runs");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(0), "{said}");
    for line in [
        "vmlinux: 3 references: 1 carried, 1 exported, 1 livepatch\n",
        "  livepatch answer+0x",
        " -> vmlinux.vfs_read,",
    ] {
        assert!(said.contains(line), "{line} is not in: {said}");
    }
}

/// Where a livepatch replaces none, a set is refused with that, not with a boolean which the kernel has not either.
#[test]
fn a_set_where_nothing_replaces() {
    let (kernel, work) = (kernel(), tempfile::tempdir().expect("a temporary folder"));
    let header = fs::read_to_string(kernel.path().join("include/linux/livepatch.h")).expect("readable");
    kernel.write("include/linux/livepatch.h", &header.replace("_Bool replace;", ""));
    fs::write(work.path().join("fix.patch"), PATCH).expect("writable");
    let command = klp_build().current_dir(work.path()).env("TMPDIR", work.path()).env("XDG_CACHE_HOME", work.path());
    let command = command.arg("-k").arg(kernel.path()).args(["--no-link", "--no-verify", "-s", "2", "fix.patch"]);
    let output = command.output().expect("it runs");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("neither `replace_set` nor `replace`"), "{said}");
    assert!(said.contains("advice: leave out -s, or use a kernel with replace sets"), "{said}");
}

/// With `--json` there is one document on standard output, whatever ends the run before there is a report.
#[test]
fn a_document_for_each_way_to_fail() {
    let (kernel, work) = (kernel(), tempfile::tempdir().expect("a temporary folder"));
    fs::create_dir(work.path().join("nothing")).expect("writable");
    fs::write(work.path().join("fix.patch"), PATCH).expect("writable");
    fs::write(work.path().join("other.patch"), PATCH.replace("41", "40")).expect("writable");
    let tree = kernel.path().display().to_string();
    for (arguments, status, error) in [
        (&["-k", "nothing", "fix.patch"][..], 2, "nothing` is not a Linux source tree"),
        (&["-k", "missing", "fix.patch"], 2, "missing`: No such file or directory"),
        (&["-k", &tree, "other.patch"], 2, "failed to apply the patch"),
        (&["-k", &tree, "-o", "x", "fix.patch"], 2, "`x` is not NAME.ko"),
        (&["-k", &tree, "-o", "none/x.ko", "fix.patch"], 2, "failed to find the output directory `none`"),
        (&["-k", &tree, "--jobs", "many", "fix.patch"], 2, "invalid value 'many'"),
        (&["-k", &tree, "--bogus", "fix.patch"], 2, "unexpected argument '--bogus'"),
        (&["check", "-k", "nothing", "x.ko"], 2, "nothing` is not a Linux source tree"),
        (&["check", "-k", &tree, "x.ko"], 2, "failed to read `x.ko`"),
        (&["cache", "prune", "--to", "much"], 2, "failed to understand `--to much`"),
        (&["inspect"], 2, "<MODULE.ko>"),
    ] {
        let output = program(work.path()).args(arguments).arg("--json").output().expect("it runs");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}"));
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {report}");
        assert_eq!((&report["schema"], &report["outcome"]), (&1.into(), &"failed".into()), "{arguments:?}");
        assert!(report["error"][0].as_str().is_some_and(|text| text.contains(error)), "{arguments:?}: {report}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    // A refusal before there is anything to report on.
    let config =
        fs::read_to_string(kernel.path().join(".config")).expect("readable").replace("CONFIG_LIVEPATCH=y\n", "");
    kernel.write(".config", &config);
    kernel.write("include/config/auto.conf", &config);
    let output = program(work.path()).args(["--json", "-k", &tree, "fix.patch"]).output().expect("it runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), &report["outcome"]), (Some(1), &"refused".into()));
    assert_eq!(report["refusals"][0]["reason"], "kernel-lacks");
}

//! Runs that are interrupted, that are about many kernels, and what is kept between them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use snapbox::cmd::cargo_bin;
use snapbox::str;

use crate::klp_build;
use crate::small_kernel::{Has, SmallKernel};

pub const SOURCE: &str = "int answer(void)\n{\n\treturn 41;\n}\n";
pub const PATCH: &str =
    "--- a/fs/x.c\n+++ b/fs/x.c\n@@ -1,4 +1,4 @@\n int answer(void)\n {\n-\treturn 41;\n+\treturn 42;\n }\n";

/// Every file below a directory, with what would show that it was touched.
fn listing(dir: &Path) -> BTreeMap<PathBuf, String> {
    let entries = walkdir::WalkDir::new(dir).into_iter().map(|entry| entry.expect("readable"));
    let describe = |entry: walkdir::DirEntry| {
        let meta = entry.metadata().expect("readable");
        let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        let text = if meta.is_file() { fs::read(entry.path()).expect("readable") } else { Vec::new() };
        (entry.into_path(), format!("{:o} {times:?} {text:?}", meta.mode()))
    };
    entries.map(describe).collect()
}

/// Processes that were given this text in their environment: whatever the run started.
fn started_with(text: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("readable").flatten();
    let of = |path: PathBuf| {
        let environment = fs::read(path.join("environ")).ok()?;
        let has = String::from_utf8_lossy(&environment).contains(text);
        has.then(|| format!("{} {}", path.display(), fs::read_to_string(path.join("cmdline")).unwrap_or_default()))
    };
    processes.filter_map(|entry| of(entry.path())).collect()
}

pub fn wait(child: &mut Child, what: &str) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status;
        }
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().expect("it is our child");
            panic!("{what}: the run does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs what is given to it. A script that runs the tests in its background has them ignore Ctrl-C, which what is begun here is not to.
pub fn heeding_interrupts() -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=INT");
    command
}

/// Ctrl-C while compilers run, preprocessing or compiling: the run ends as by the signal and says why, and nothing is left of it: no process, no
/// temporary file, no module, and not a time stamp in the tree (P32).
#[test]
fn an_interrupted_run_leaves_nothing() {
    for phase in ["-E", "-c"] {
        let kernel = SmallKernel::new(Has::Boolean);
        let work = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| work.path().join(name);
        for dir in ["tmp", "cache", "out"] {
            fs::create_dir(at(dir)).expect("writable");
        }
        // A compiler whose child never ends, in the phase that is asked for.
        let script =
            "#!/bin/sh\ncase \" $* \" in *\" $SLOW \"*) touch $MARK; sleep 997 & wait;; esac\nexec gcc \"$@\"\n";
        fs::write(at("cc"), script).expect("writable");
        fs::set_permissions(at("cc"), fs::Permissions::from_mode(0o755)).expect("ours");
        fs::write(at("fix.patch"), PATCH).expect("writable");
        kernel.unit("fs/x.c", SOURCE, &at("cc").display().to_string());
        let before = listing(kernel.path());
        let mut child = heeding_interrupts()
            .arg(cargo_bin!("klp-build"))
            .current_dir(at("out"))
            .args(["-k".as_ref(), kernel.path().as_os_str(), at("fix.patch").as_os_str()])
            .envs([("TMPDIR", at("tmp")), ("XDG_CACHE_HOME", at("cache")), ("MARK", at("mark"))])
            .env("SLOW", phase)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let start = Instant::now();
        while !at("mark").exists() {
            let ended = child.try_wait().expect("it is our child");
            assert!(
                ended.is_none() && start.elapsed() < Duration::from_secs(60),
                "{phase}: no compiler was started: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        let status = wait(&mut child, phase);
        let output = child.wait_with_output().expect("its output");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(status.signal(), Some(2), "{phase}: {status} {said}");
        assert!(said.contains("interrupted"), "{phase}: {said}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
        assert_eq!(started_with(&at("mark").display().to_string()), [""; 0], "{phase}");
        for dir in ["tmp", "out"] {
            assert_eq!(listing(&at(dir)).len(), 1, "{phase}: something is left: {:?}", listing(&at(dir)).keys());
        }
        let cached = listing(&at("cache"));
        let halves: Vec<_> = cached.keys().filter(|path| path.display().to_string().contains("/.new-")).collect();
        assert!(halves.is_empty(), "{halves:?}");
        assert_eq!(before, listing(kernel.path()), "{phase}: the tree was touched");
    }
}

/// Several kernels in one call: a line for each and what is wrong with it, and the exit status of the one that fared worst; as JSON, the
/// object of each run.
#[test]
fn many_kernels() {
    let [same, refused, other] = [(); 3].map(|()| SmallKernel::new(Has::Boolean));
    for kernel in [&same, &refused, &other] {
        kernel.unit("fs/x.c", SOURCE, "gcc");
    }
    // One reads the file only in a comment's place, one cannot be livepatched, and in one the patch does not apply.
    same.write("fs/x.c", &SOURCE.replace("41", "42 /* 41 */"));
    let patch = "--- a/fs/x.c\n+++ b/fs/x.c\n@@ -1,4 +1,4 @@\n int answer(void)\n {\n-\treturn 42 /* 41 */;\n+\treturn 42 /* 40 */;\n }\n";
    let config =
        fs::read_to_string(refused.path().join(".config")).expect("readable").replace("CONFIG_LIVEPATCH=y\n", "");
    refused.write(".config", &config);
    refused.write("include/config/auto.conf", &config);
    let work = tempfile::tempdir().expect("a temporary folder");
    fs::write(work.path().join("fix.patch"), patch).expect("writable");
    let command = |kernels: &[&SmallKernel]| {
        let mut command =
            klp_build().current_dir(work.path()).env("XDG_CACHE_HOME", work.path()).env("TMPDIR", work.path());
        for kernel in kernels {
            command = command.arg("-k").arg(kernel.path());
        }
        command.args(["-j", "2", "fix.patch"])
    };
    command(&[&same, &refused, &other])
        .assert()
        .code(2)
        .stdout_eq(str![[r#"
7.3.4: nothing changed
[..]: refused for 1 reason
7.3.4.2: failed

"#]])
        .stderr_eq(str![[r#"
[..]:
refused: the kernel is built without CONFIG_LIVEPATCH [kernel-lacks]
  advice: set CONFIG_LIVEPATCH=y, rebuild and boot that kernel; no module can add it
7.3.4.2:
error: failed to apply the patch
...
"#]]);
    command(&[&same, &refused]).assert().code(1);
    command(&[&same, &same]).assert().code(4);
    let output = command(&[&same, &other]).arg("--json").output().expect("it runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["schema"], &report["outcome"], &report["status"]), (&1.into(), &"failed".into(), &2.into()));
    let kernels = report["kernels"].as_array().expect("kernels");
    let facts = |at: usize| ["label", "status", "outcome"].map(|key| kernels[at][key].to_string());
    assert_eq!(facts(0), ["\"7.3.4\"", "4", "\"unchanged\""]);
    assert_eq!(facts(1), ["\"7.3.4.2\"", "2", "\"failed\""]);
    assert_eq!(kernels[1]["error"][0], "failed to apply the patch");
    // One kernel is what it always was: its own object, not a list.
    let output = command(&[&same]).arg("--json").output().expect("it runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report["kernels"].is_null() && report["outcome"] == "unchanged", "{report}");
}

/// A module of an earlier run stays when there is none of this one, and who would take it for the new one is told.
#[test]
fn a_module_from_before() {
    let kernel = SmallKernel::new(Has::Boolean);
    kernel.unit("fs/x.c", SOURCE, "gcc");
    let work = tempfile::tempdir().expect("a temporary folder");
    fs::write(work.path().join("fix.patch"), PATCH.replace("42;", "41; /* 42 */")).expect("writable");
    let run = || {
        let command =
            klp_build().current_dir(work.path()).env("XDG_CACHE_HOME", work.path()).env("TMPDIR", work.path());
        command.arg("-k").arg(kernel.path()).args(["-o", "fix.ko", "fix.patch"]).assert().code(4)
    };
    run().stderr_eq(str![""]);
    fs::write(work.path().join("fix.ko"), "from before").expect("writable");
    run().stderr_eq(str![[r#"
warning: `fix.ko` is from before: this run wrote no module

"#]]);
    assert_eq!(fs::read(work.path().join("fix.ko")).expect("it stays"), b"from before");
}

/// The cache is shown, pruned and cleared; what is no size is an error.
#[test]
fn the_cache() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let objects = home.path().join("klp-build/objects/ab");
    fs::create_dir_all(&objects).expect("writable");
    for (name, size, age) in [("one.o", 3000, 100), ("two.o", 1000, 50)] {
        fs::write(objects.join(name), vec![0; size]).expect("writable");
        let file = fs::File::options().write(true).open(objects.join(name)).expect("it is there");
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("ours");
    }
    fs::create_dir_all(home.path().join("klp-build/trees/0123")).expect("writable");
    let cache = || klp_build().env("XDG_CACHE_HOME", home.path()).env("KLP_BUILD_CACHE_SIZE", "1M").arg("cache");
    cache().assert().code(0).stderr_eq(str![""]).stdout_eq(str![[r#"
objects: [..]/klp-build/objects
  2 entries, 3.9 KiB of 1.0 MiB
build directories: [..]/klp-build/trees
  1 entry of 8, [..]

"#]]);
    cache().args(["prune", "--to", "1K"]).assert().code(0).stdout_eq(str![[r#"
objects: [..]/klp-build/objects
  1 entry, 1000 bytes of 1.0 MiB
...
"#]]);
    let output = cache().args(["clear", "--json"]).output().expect("it runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["schema"], 1);
    assert_eq!((&report["objects"]["entries"], &report["trees"]["entries"]), (&0.into(), &0.into()));
    assert_eq!((&report["objects"]["limit_bytes"], &report["trees"]["limit_entries"]), (&(1 << 20).into(), &8.into()));
    cache().args(["prune", "--to", "much"]).assert().code(2).stderr_eq(str![[r#"
error: failed to understand `--to much`
...
"#]]);
}

/// A function that some task never leaves can be patched, and the run says that the transition may not end (N15).
#[test]
fn a_function_on_every_stack() {
    let kernel = SmallKernel::new(Has::Boolean);
    kernel.unit("fs/x.c", &SOURCE.replace("answer", "schedule"), "gcc");
    let work = tempfile::tempdir().expect("a temporary folder");
    fs::write(work.path().join("fix.patch"), PATCH.replace("answer", "schedule")).expect("writable");
    let command = klp_build().current_dir(work.path()).env("XDG_CACHE_HOME", work.path()).env("TMPDIR", work.path());
    let command = command.arg("-k").arg(kernel.path()).args(["--no-link", "--no-verify", "fix.patch"]);
    command.assert().code(0).stdout_eq("vmlinux: changed function: schedule\n").stderr_eq(str![[r#"
warning: vmlinux: every sleeping task is in `schedule`: kernel threads never leave it, so the transition may not end [always-running]
...
"#]]);
}

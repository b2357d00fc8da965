//! Tests of the whole stage, with the real compiler on small trees built like a kernel's.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::patch::{apply, parse};

/// A source tree with a build directory, and the commands of its units.
pub(super) struct Kernel {
    _dir: Option<tempfile::TempDir>,
    pub(super) tree: Tree,
    pub(super) work: PathBuf,
    style: Style,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Style {
    InTree,
    Absolute,
    Relative,
}

pub(super) const STYLES: [Style; 3] = [Style::InTree, Style::Absolute, Style::Relative];

const FILES: &[(&str, &str)] = &[
    ("include/lib.h", "#define LIB 1\nstatic inline int lib(void)\n{\n\treturn LIB;\n}\n"),
    ("fs/local.h", "#define LOCAL 10\n"),
    (
        "fs/one.c",
        "#include <lib.h>\n#include \"local.h\"\nconst char *where(void)\n{\n\treturn __FILE__;\n}\nint one(void)\n{\n\treturn lib() + LOCAL;\n}\nint line(void)\n{\n\treturn __LINE__;\n}\n",
    ),
    ("fs/sub/two.c", "#include \"../local.h\"\nint two(void)\n{\n\treturn LOCAL;\n}\n"),
    ("fs/three.c", "#include <generated.h>\nint three(void)\n{\n\treturn GENERATED;\n}\n"),
];

impl Kernel {
    pub(super) fn new(style: Style) -> Kernel {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        let kernel = Kernel::in_dir(&base, style, Some(dir));
        for (path, text) in FILES {
            write(&kernel.tree.source.join(path), text);
        }
        write(&kernel.tree.objdir.join("include/generated.h"), "#define GENERATED 5\n");
        fs::create_dir_all(kernel.tree.objdir.join("fs/sub")).unwrap();
        fs::create_dir(&kernel.work).unwrap();
        kernel
    }

    /// The same, in a directory that has it already.
    fn in_dir(base: &Path, style: Style, dir: Option<tempfile::TempDir>) -> Kernel {
        let source = base.join("linux");
        let objdir = match style {
            Style::InTree => source.clone(),
            Style::Absolute => base.join("build"),
            Style::Relative => source.join("build"),
        };
        Kernel { _dir: dir, tree: Tree { source, objdir }, work: base.join("work"), style }
    }

    pub(super) fn unit(&self, source: &str) -> Unit {
        let root = match self.style {
            Style::InTree => ".".to_string(),
            Style::Absolute => self.tree.source.display().to_string(),
            Style::Relative => "..".to_string(),
        };
        let main = if self.style == Style::InTree { source.to_string() } else { format!("{root}/{source}") };
        let object = source.replace(".c", ".o");
        let dir = source.rsplit_once('/').unwrap().0;
        let command = format!(
            "gcc -Wp,-MMD,{dir}/.x.o.d -nostdinc -I{root}/include -I./include -fmacro-prefix-map={root}/= -g -O2 -Wall -c -o {object} {main}"
        );
        Unit {
            target: object.into(),
            source: source.into(),
            command: command.split(' ').map(String::from).collect(),
            objtool: None,
            deps: Vec::new(),
            object: "vmlinux".into(),
        }
    }

    fn compile(
        &self,
        sources: &[&str],
        edits: &[(&str, &str, &str)],
        cache: Option<&ObjectCache>,
    ) -> Result<Vec<Compiled>> {
        let units: Vec<Unit> = sources.iter().map(|source| self.unit(source)).collect();
        let options =
            Options { jobs: 2, launcher: Vec::new(), cache, debug: false, work: &self.work, progress: &|_| {} };
        compile_units(&units, &self.tree, &self.edited(edits), &options)
    }

    /// What a patch with these replacements comes to.
    pub(super) fn edited(&self, edits: &[(&str, &str, &str)]) -> Applied {
        let mut text = String::new();
        for (path, old, new) in edits {
            let file = fs::read_to_string(self.tree.source.join(path)).unwrap_or_default();
            let lines =
                |text: &str, mark: &str| -> String { text.lines().map(|line| format!("{mark}{line}\n")).collect() };
            if old.is_empty() {
                text +=
                    &format!("--- /dev/null\n+++ b/{path}\n@@ -0,0 +1,{} @@\n{}", new.lines().count(), lines(new, "+"));
                continue;
            }
            let at = file.lines().position(|line| line == *old).unwrap() + 1;
            let count = new.lines().count();
            text += &format!("--- a/{path}\n+++ b/{path}\n@@ -{at} +{at},{count} @@\n-{old}\n{}", lines(new, "+"));
        }
        let source = self.tree.source.clone();
        apply(&parse(text.as_bytes(), "t").unwrap(), |path| Ok(fs::read(source.join(path)).ok())).unwrap()
    }
}

pub(super) fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// All there is to know of a tree: root may write to a read-only one, so nothing but this is a proof.
fn listing(dir: &Path) -> BTreeMap<PathBuf, String> {
    let entries = walkdir::WalkDir::new(dir).into_iter().map(|entry| entry.unwrap());
    let describe = |entry: walkdir::DirEntry| {
        let meta = entry.metadata().unwrap();
        let bytes =
            if meta.is_file() { blake3::hash(&fs::read(entry.path()).unwrap()).to_string() } else { String::new() };
        let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        (entry.into_path(), format!("{:o} {} {times:?} {bytes}", meta.mode(), meta.ino()))
    };
    entries.map(describe).collect()
}

fn pair(compiled: &Compiled) -> (Vec<u8>, Vec<u8>) {
    match &compiled.outcome {
        Outcome::Pair { original, patched } => (fs::read(original).unwrap(), fs::read(patched).unwrap()),
        other => panic!("{other:?}"),
    }
}

/// Whether a function returns a constant, by the immediate in its code.
fn returns(object: &[u8], function: &str, value: u8) -> bool {
    let text = section(object, &format!(".text.{function}"));
    // `mov $value,%eax`
    text.windows(5).any(|code| code == [0xb8, value, 0, 0, 0])
}

fn section(object: &[u8], name: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("x.o"), dir.path().join("x.bin"));
    fs::write(&from, object).unwrap();
    let status = Command::new("objcopy").args(["-O", "binary", "--only-section", name]).arg(&from).arg(&to).status();
    assert!(status.expect("binutils are needed for this test").success());
    fs::read(to).unwrap()
}

/// Both sides are what they should be, for every way to build; functions have sections of their own.
#[test]
fn both_sides() {
    for style in STYLES {
        let kernel = Kernel::new(style);
        let compiled = kernel
            .compile(
                &["fs/one.c"],
                &[("fs/one.c", "\treturn lib() + LOCAL;", "\tint x = 31;\n\treturn lib() + x;")],
                None,
            )
            .unwrap();
        let (original, patched) = pair(&compiled[0]);
        assert!(returns(&original, "one", 11) && returns(&patched, "one", 32), "{style:?}");
        assert!(returns(&patched, "line", 13), "{style:?}: __LINE__ of untouched code");
    }
}

/// Nothing but the patch makes a difference: a change that compiles to the same code gives the same bytes, debug
/// information with its directory names and `__FILE__` included.
#[test]
fn same_bytes() {
    for style in STYLES {
        let kernel = Kernel::new(style);
        let edit = ("fs/one.c", "\treturn lib() + LOCAL;", "\treturn lib() + 0x00a;");
        let compiled = kernel.compile(&["fs/one.c", "fs/sub/two.c"], &[edit], None).unwrap();
        let (original, patched) = pair(&compiled[0]);
        assert!(original == patched, "{style:?}");
        assert_eq!(compiled[1].outcome, Outcome::Same);
        assert!(String::from_utf8_lossy(&original).contains("fs/one.c"), "{style:?}: __FILE__ is in it");
    }
}

/// A sanitizer's data names source files in its own way: nothing but the patch makes a difference there, either.
#[test]
fn same_bytes_for_sanitizers() {
    for style in STYLES {
        let kernel = Kernel::new(style);
        let text = "#include <lib.h>\nint table[4];\nint one(int i)\n{\n\treturn table[i] + lib();\n}\n";
        write(&kernel.tree.source.join("fs/one.c"), text);
        let lib =
            "extern int other[2];\nstatic inline int lib(void)\n{\n\tint i = table[0];\n\treturn other[i] << i;\n}\n";
        write(&kernel.tree.source.join("include/lib.h"), &format!("extern int table[4];\n{lib}"));
        let mut unit = kernel.unit("fs/one.c");
        unit.command.retain(|argument| argument != "-g");
        unit.command.splice(1..1, ["-fsanitize=bounds-strict".to_owned(), "-fsanitize=shift".to_owned()]);
        let edit = ("fs/one.c", "\treturn table[i] + lib();", "\treturn table[i] + lib() + 0;");
        let options =
            Options { jobs: 2, launcher: Vec::new(), cache: None, debug: false, work: &kernel.work, progress: &|_| {} };
        let compiled = compile_units(&[unit], &kernel.tree, &kernel.edited(&[edit]), &options).unwrap();
        let (original, patched) = pair(&compiled[0]);
        let has = |object: &[u8], name: &str| memchr::memmem::find(object, name.as_bytes()).is_some();
        let header = kernel.unit("include/lib.h").command.pop().unwrap();
        let header = if style == Style::InTree { "./include/lib.h" } else { &header };
        for object in [&original, &patched] {
            assert!(has(object, &format!("{header}\0")) && has(object, "__ubsan_handle"), "{style:?}: {header}");
        }
        assert!(!has(&patched, &kernel.work.display().to_string()), "{style:?}");
    }
}

/// What a kernel build's own command gives is what the original side is, section flags aside.
#[test]
fn like_the_build() {
    for style in STYLES {
        let kernel = Kernel::new(style);
        let unit = kernel.unit("fs/one.c");
        let edit = ("fs/one.c", "\treturn lib() + LOCAL;", "\treturn 3;");
        let compiled = kernel.compile(&["fs/one.c"], &[edit], None).unwrap();
        let (original, _) = pair(&compiled[0]);
        let mut args = unit.command.clone();
        args.extend(["-ffunction-sections".into(), "-fdata-sections".into()]);
        assert!(Command::new(&args[0]).args(&args[1..]).current_dir(&kernel.tree.objdir).status().unwrap().success());
        assert_eq!(fs::read(kernel.tree.objdir.join("fs/one.o")).unwrap(), original, "{style:?}");
    }
}

/// A header read through a directory that is only a link in the mirror must be the patched one.
#[test]
fn header_by_the_back_door() {
    for style in STYLES {
        let kernel = Kernel::new(style);
        let edit = ("fs/local.h", "#define LOCAL 10", "#define LOCAL 20");
        let compiled = kernel.compile(&["fs/sub/two.c", "fs/one.c", "fs/three.c"], &[edit], None).unwrap();
        let (original, patched) = pair(&compiled[0]);
        assert!(returns(&original, "two", 10) && returns(&patched, "two", 20), "{style:?}");
        assert!(returns(&pair(&compiled[1]).1, "one", 21), "{style:?}");
        assert_eq!(compiled[2].outcome, Outcome::Same, "{style:?}: not reached by the header");
    }
}

/// A path to a touched file that the mirror cannot stand in for is an error, never a silent miss.
#[test]
fn unreachable_by_the_mirror() {
    let kernel = Kernel::new(Style::Absolute);
    let local = kernel.tree.source.join("fs/local.h");
    write(&kernel.tree.source.join("fs/sub/two.c"), &format!("#include \"{}\"\nint two = LOCAL;\n", local.display()));
    let error =
        kernel.compile(&["fs/sub/two.c"], &[("fs/local.h", "#define LOCAL 10", "#define LOCAL 20")], None).unwrap_err();
    assert!(format!("{error:#}").contains("inside the mirror"), "{error:#}");
}

/// A comment, blank lines, and a header that reaches no token: nothing is compiled.
#[test]
fn same_tokens() {
    let kernel = Kernel::new(Style::Absolute);
    let comment = ("fs/one.c", "int one(void)", "/* new\n * words */\n\nint one(void)");
    let macro_only = ("fs/local.h", "#define LOCAL 10", "#define LOCAL 10\n#define UNUSED 11");
    let compiled = kernel.compile(&["fs/one.c", "fs/sub/two.c"], &[comment, macro_only], None).unwrap();
    assert!(compiled.iter().all(|unit| unit.outcome == Outcome::Same));
}

/// Assembly is no C: a word before parentheses is no function that nobody uses, and a line is a statement.
#[test]
fn assembly() {
    for (old, new, differs) in [
        (
            "#define LOCK push %rax; lock incl (%rdi); pop %rax",
            "#define LOCK push %rax; lock decl (%rdi); pop %rax",
            true,
        ),
        ("#define LOCK push %rax; lock incl (%rdi); pop %rax", "#define LOCK push %rax;  nop; pop %rax", true),
        ("#define OTHER 1", "#define OTHER 2", false),
    ] {
        let kernel = Kernel::new(Style::Absolute);
        let header = "#define OTHER 1\n#define LOCK push %rax; lock incl (%rdi); pop %rax\n";
        write(&kernel.tree.source.join("include/lock.h"), header);
        write(&kernel.tree.source.join("fs/e.S"), "#include <lock.h>\n.globl e\ne:\n\tLOCK\n\tret\n");
        let mut unit = kernel.unit("fs/e.c");
        let main = kernel.tree.source.join("fs/e.S").display().to_string();
        unit.source = "fs/e.S".into();
        *unit.command.last_mut().unwrap() = main;
        let options =
            Options { jobs: 1, launcher: Vec::new(), cache: None, debug: false, work: &kernel.work, progress: &|_| {} };
        let applied = kernel.edited(&[("include/lock.h", old, new)]);
        let compiled = compile_units(&[unit], &kernel.tree, &applied, &options).unwrap();
        assert_eq!(compiled[0].outcome != Outcome::Same, differs, "{new}");
    }
}

/// A unit whose source the patch creates has only a patched side.
#[test]
fn new_unit() {
    for style in STYLES {
        let kernel = Kernel::new(style);
        let new = ("fs/new.c", "", "#include \"local.h\"\nint fresh(void)\n{\n\treturn LOCAL;\n}\n");
        let compiled = kernel.compile(&["fs/new.c"], &[new], None).unwrap();
        let Outcome::New { patched } = &compiled[0].outcome else { panic!("{style:?}: {compiled:?}") };
        assert!(returns(&fs::read(patched).unwrap(), "fresh", 10));
    }
}

/// Neither a byte nor a time stamp changes in the trees: when all goes well, when a compile fails, and from a
/// second run at the same time.
#[test]
fn trees_are_only_read() {
    for style in STYLES {
        let kernel = Kernel::new(style);
        let before = (listing(&kernel.tree.source), listing(&kernel.tree.objdir));
        let good = [("fs/local.h", "#define LOCAL 10", "#define LOCAL 20")];
        let bad = [("fs/local.h", "#define LOCAL 10", "#define LOCAL )")];
        let all = ["fs/one.c", "fs/sub/two.c", "fs/three.c"];
        std::thread::scope(|scope| {
            scope.spawn(|| kernel.compile(&all, &good, None).unwrap());
            scope.spawn(|| kernel.compile(&all, &good, None).unwrap());
            scope.spawn(|| kernel.compile(&all, &bad, None).unwrap_err());
        });
        assert_eq!(before, (listing(&kernel.tree.source), listing(&kernel.tree.objdir)), "{style:?}");
    }
}

/// All failed compiles are told, as a tool's failure, with the files' names in the source tree.
#[test]
fn failed_compile() {
    for style in STYLES {
        let kernel = Kernel::new(style);
        let bad = ("fs/local.h", "#define LOCAL 10", "#define LOCAL nosuch");
        let error = kernel.compile(&["fs/one.c", "fs/sub/two.c"], &[bad], None).unwrap_err();
        let failure = error.downcast_ref::<ToolFailure>().expect("a tool's failure");
        assert!(failure.doing.contains("and 1 more"), "{failure}");
        assert!(failure.output.contains("fs/one.c") && failure.output.contains("nosuch"), "{failure}");
        assert!(!failure.output.contains("/tree/"), "no path of the mirror: {failure}");
    }
}

/// Warnings of the patched side are handed on.
#[test]
fn warnings() {
    let kernel = Kernel::new(Style::Absolute);
    let edit = ("fs/one.c", "\treturn lib() + LOCAL;", "\tint unused;\n\treturn 4;");
    let compiled = kernel.compile(&["fs/one.c"], &[edit], None).unwrap();
    assert!(compiled[0].warnings.contains("fs/one.c:9:13: warning: unused variable"), "{}", compiled[0].warnings);
}

/// An original that was compiled before comes from the cache, byte for byte; another source does not.
#[test]
fn cached() {
    let kernel = Kernel::new(Style::Absolute);
    let cache = ObjectCache::new(&kernel.work.join("cache"), 1 << 20);
    let run = |value: &str| {
        let edit = ("fs/one.c", "\treturn lib() + LOCAL;", value);
        kernel.compile(&["fs/one.c"], &[edit], Some(&cache)).unwrap().remove(0)
    };
    let (first, second) = (run("\treturn 7;"), run("\treturn 8;"));
    assert_eq!((first.cached, second.cached), (false, true));
    assert_eq!(pair(&first).0, pair(&second).0);
    assert!(returns(&pair(&second).1, "one", 8));
    write(&kernel.tree.source.join("include/lib.h"), "static inline int lib(void)\n{\n\treturn 2;\n}\n");
    assert!(!run("\treturn 9;").cached, "a header has changed");
}

/// Another copy of a tree has what one copy compiled, unless the object names its tree, as one with debug information does; what a configuration
/// changes (another -D on the command line) is another object.
#[test]
fn shared_between_trees() {
    let store = tempfile::tempdir().unwrap();
    let cache = ObjectCache::new(store.path(), 1 << 20);
    let run = |flags: &str| {
        let kernel = Kernel::new(Style::Absolute);
        let mut unit = kernel.unit("fs/one.c");
        unit.command.retain(|arg| arg != "-g");
        unit.command.splice(1..1, flags.split_whitespace().map(String::from));
        let options = Options {
            jobs: 1,
            launcher: Vec::new(),
            cache: Some(&cache),
            debug: false,
            work: &kernel.work,
            progress: &|_| {},
        };
        let edit = kernel.edited(&[("fs/one.c", "\treturn lib() + LOCAL;", "\treturn 7;")]);
        compile_units(&[unit], &kernel.tree, &edit, &options).unwrap().remove(0).cached
    };
    assert_eq!([run(""), run(""), run("-DCONFIG_X"), run("-DCONFIG_X")], [false, true, false, true]);
    assert_eq!([run("-g"), run("-g")], [false, false]);
}

/// A launcher runs the compiles, and only those.
#[test]
fn launcher() {
    let kernel = Kernel::new(Style::Absolute);
    let (script, log) = (kernel.work.join("launch"), kernel.work.join("log"));
    write(&script, &format!("#!/bin/sh\necho run >> {}\nexec \"$@\"\n", log.display()));
    assert!(Command::new("chmod").arg("+x").arg(&script).status().unwrap().success());
    let launcher = vec![script.display().to_string()];
    let options = Options { jobs: 1, launcher, cache: None, debug: false, work: &kernel.work, progress: &|_| {} };
    let edit = kernel.edited(&[("fs/one.c", "\treturn lib() + LOCAL;", "\treturn 4;")]);
    compile_units(&[kernel.unit("fs/one.c")], &kernel.tree, &edit, &options).unwrap();
    assert_eq!(fs::read_to_string(log).unwrap(), "run\nrun\n");
}

/// Helper of the next test: when asked to, this very program runs a child that would take a minute.
#[test]
fn slow_child() {
    if std::env::var_os("KLP_TEST_SLOW_CHILD").is_some() {
        run::on_signals(|| true, || ()).unwrap();
        println!("ready");
        let error = run::output(Command::new("sh").args(["-c", "sleep 61 & wait"])).unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
    }
}

/// Helper of the next test: when asked to, compiles without end in the trees it is given.
#[test]
fn endless_compiles() {
    let Some(base) = std::env::var_os("KLP_TEST_ENDLESS").map(PathBuf::from) else { return };
    let kernel = Kernel::in_dir(&base, Style::InTree, None);
    println!("ready");
    loop {
        kernel
            .compile(&["fs/one.c", "fs/sub/two.c"], &[("fs/local.h", "#define LOCAL 10", "#define LOCAL 20")], None)
            .unwrap();
    }
}

/// SIGKILL in the middle of compiles leaves the trees as they were.
#[test]
fn killed() {
    let kernel = Kernel::new(Style::InTree);
    let before = listing(&kernel.tree.source);
    for wait in [50, 130, 250, 410] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["compile::tests::endless_compiles", "--exact", "--nocapture"])
            .env("KLP_TEST_ENDLESS", kernel.work.parent().unwrap())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        use std::io::BufRead;
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("ready")));
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // Compilers that are still at work end by themselves.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(before, listing(&kernel.tree.source));
}

/// SIGINT ends a run at once, and the children of its children too.
#[test]
fn interrupted() {
    // Whoever runs the tests in the background of a script has them ignore the signal.
    let mut child = Command::new("env")
        .arg("--default-signal=INT")
        .arg(std::env::current_exe().unwrap())
        .args(["compile::tests::slow_child", "--exact", "--nocapture"])
        .env("KLP_TEST_SLOW_CHILD", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::BufRead;
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("ready")));
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(start.elapsed() < Duration::from_secs(20));
}

//! One fixture: its directives, its compilation, and the checks on what `klp-build diff` made of it.
//!
//! Both sides are compiled as `unit.c` in folders of their own, so that `__FILE__` and the file symbol are equal, as
//! they are in a kernel build.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use iced_x86::{Decoder, DecoderOptions};
use klp_build::elf::klp::KlpSymbol;
use klp_build::elf::object::{shf, stb, stt};
use klp_build::elf::{self, Object, Place};

use crate::objects;

/// What the kernel is compiled with (linux 7, gcc 12, x86-64), as far as it shapes the object.
const X86_64: &str = "-O2 -std=gnu11 -ffreestanding -fms-extensions -fshort-wchar -funsigned-char -fno-common -fno-PIE \
     -fno-strict-aliasing -fno-asynchronous-unwind-tables -fno-delete-null-pointer-checks -fno-stack-protector \
     -fno-strict-overflow -fcf-protection=branch -fno-jump-tables -m64 -mno-red-zone -mcmodel=kernel -mno-sse -mno-mmx \
     -mno-80387 -mpreferred-stack-boundary=3 -mskip-rax-setup -pg -mfentry -mrecord-mcount -falign-functions=16 \
     -ffunction-sections -fdata-sections -w";
const AARCH64: &str = "-O2 -std=gnu11 -ffreestanding -fno-common -fno-PIE -fno-strict-aliasing \
     -fno-asynchronous-unwind-tables -fno-stack-protector -mgeneral-regs-only -fpatchable-function-entry=2 \
     -ffunction-sections -fdata-sections -w";

/// A meaning that cannot be read from the compiled object alone.
const ANYTHING: &str = "?";

/// Between the things that a reference through a section may mean.
const OR: &str = " or ";

/// How a check of one fixture ended.
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not run, for this reason.
    Skipped(String),
    /// Not as it should.
    Failed(String),
}

/// A pair of sources and what is to come of it.
pub struct Fixture {
    /// Name of its folder.
    pub name: String,
    dir: PathBuf,
    directives: BTreeMap<String, Vec<String>>,
}

/// What can be said of a fixture; anything else is a spelling mistake.
const KNOWN: &[&str] = &[
    "cc",
    "flags",
    "without",
    "args",
    "symvers",
    "same",
    "changed",
    "new",
    "removed",
    "refuse",
    "says",
    "quiet",
    "klp",
    "lacks",
    "needs",
    "defines",
    "section",
    "lacks-section",
    "text",
    "refers",
    "holds",
];

impl Fixture {
    /// Reads the directives at the head of both files.
    pub fn read(dir: &Path) -> Fixture {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut directives: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for file in ["before.c", "after.c"] {
            let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
            for line in text.lines().filter_map(|l| l.strip_prefix("//# ")) {
                let (key, value) = line.split_once(':').unwrap_or((line, ""));
                assert!(KNOWN.contains(&key.trim()), "{name}/{file}: unknown directive `{key}`");
                directives.entry(key.trim().to_owned()).or_default().push(value.trim().to_owned());
            }
        }
        Fixture { name, dir: dir.to_owned(), directives }
    }

    fn lines(&self, key: &str) -> &[String] {
        self.directives.get(key).map_or(&[], Vec::as_slice)
    }

    fn words(&self, key: &str) -> BTreeSet<String> {
        self.lines(key).iter().flat_map(|line| line.split_whitespace()).map(str::to_owned).collect()
    }

    /// Compiles both sides into `work`; `Ok(None)` when the compiler is not there.
    pub fn compile(&self, work: &Path, more: &[&str]) -> Result<Option<(PathBuf, PathBuf)>, String> {
        let (program, flags) = match self.lines("cc").first().map_or("gcc", String::as_str) {
            "gcc" => ("gcc", X86_64),
            "clang" => ("clang", X86_64),
            // Debian 12's own knows no kCFI.
            "clang-19" => ("clang-19", X86_64),
            "aarch64" => ("aarch64-linux-gnu-gcc", AARCH64),
            other => return Err(format!("unknown compiler `{other}`")),
        };
        if Command::new(program).arg("--version").output().is_err() {
            return Ok(None);
        }
        let without = self.words("without");
        // clang has these under other names, or not at all.
        let foreign = |flag: &str| {
            program.starts_with("clang")
                && matches!(flag, "-mskip-rax-setup" | "-mpreferred-stack-boundary=3" | "-mrecord-mcount")
        };
        let mut flags: Vec<&str> =
            flags.split_whitespace().filter(|flag| !without.contains(*flag) && !foreign(flag)).collect();
        flags.extend(self.lines("flags").iter().flat_map(|line| line.split_whitespace()));
        flags.extend(more);
        let mut sides = Vec::new();
        for side in ["before", "after"] {
            let folder = work.join(side);
            fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
            let mut objects = Vec::new();
            for (source, name) in self.sources(side) {
                // The head must not count as lines: one side has it and the other has not.
                let text = fs::read_to_string(&source).map_err(|e| format!("{}: {e}", source.display()))?;
                let body: Vec<&str> = text.lines().skip_while(|line| line.starts_with("//")).collect();
                fs::write(folder.join(&name), body.join("\n") + "\n").map_err(|e| e.to_string())?;
                let object = Path::new(&name).with_extension("o");
                let mut command = Command::new(program);
                command.current_dir(&folder).args(&flags).arg("-I").arg(self.dir.parent().expect("in a folder"));
                command.args(["-c", "-o"]).arg(&object).arg(&name);
                run(&mut command)?;
                objects.push(object);
            }
            let whole = folder.join("whole.o");
            if let [only] = objects.as_slice() {
                fs::rename(folder.join(only), &whole).map_err(|e| e.to_string())?;
            } else {
                run(Command::new("ld").current_dir(&folder).args(["-r", "-o", "whole.o"]).args(&objects))?;
            }
            sides.push(whole);
        }
        let patched = sides.pop().expect("two sides");
        Ok(Some((sides.pop().expect("two sides"), patched)))
    }

    /// `before.c` is `unit.c`; `before-x.c` is a second unit of the same object, `x.c`.
    fn sources(&self, side: &str) -> Vec<(PathBuf, String)> {
        let mut files: Vec<(PathBuf, String)> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                let rest = name.strip_prefix(side)?.strip_suffix(".c")?.to_owned();
                let unit = if rest.is_empty() { "unit" } else { rest.strip_prefix('-')? };
                Some((entry.path(), format!("{unit}.c")))
            })
            .collect();
        files.sort_by(|a, b| (a.1 != "unit.c", &a.1).cmp(&(b.1 != "unit.c", &b.1)));
        files
    }

    /// The main check: verdict, refusals, and what was written.
    pub fn check(&self) -> Outcome {
        let work = tempfile::tempdir().expect("a temporary folder");
        let (before, after) = match self.compile(work.path(), &[]) {
            Ok(Some(pair)) => pair,
            Ok(None) => return Outcome::Skipped("its compiler is not installed".to_owned()),
            Err(what) => return Outcome::Failed(what),
        };
        let problems = self.problems(work.path(), &before, &after);
        if problems.is_empty() { Outcome::Passed } else { Outcome::Failed(problems.join("\n    ")) }
    }

    /// The comparison as a command.
    fn command(&self, work: &Path, before: &Path, after: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_klp-build"));
        command.args(["diff", "-o"]).arg(work.join("out.o")).arg(before).arg(after);
        command.args(self.lines("args").iter().flat_map(|line| line.split_whitespace()));
        let line = |l: &String| {
            let mut words = l.split_whitespace();
            let (name, object) = (words.next().unwrap_or_default(), words.next().unwrap_or("vmlinux"));
            format!("0x00000000\t{name}\t{object}\tEXPORT_SYMBOL\t{}\n", words.next().unwrap_or_default())
        };
        // Every kernel that can be patched exports the tracer's entry.
        let tracer = "__fentry__ vmlinux".to_owned();
        let text: String = self.lines("symvers").iter().chain([&tracer]).map(line).collect();
        fs::write(work.join("Module.symvers"), text).expect("writable");
        command.arg("--symvers").arg(work.join("Module.symvers"));
        command
    }

    /// What a person sees of the comparison; for the tests of the command line.
    pub fn output(&self, work: &Path) -> std::process::Output {
        let (before, after) = self.compile(work, &[]).expect("it compiles").expect("its compiler is installed");
        self.command(work, &before, &after).output().expect("klp-build runs")
    }

    fn problems(&self, work: &Path, before: &Path, after: &Path) -> Vec<String> {
        let out = work.join("out.o");
        let output = self.command(work, before, after).arg("--json").output().expect("klp-build runs");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let Ok(report) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
            return vec![format!("no report, status {:?}: {errors}", output.status.code())];
        };
        let mut problems = Vec::new();
        let mut expect = |what: &str, want: &BTreeSet<String>, got: &BTreeSet<String>| {
            if want != got {
                problems.push(format!("{what}: expected {want:?}, got {got:?}"));
            }
        };
        let of_verdict = |verdict: &str| -> BTreeSet<String> {
            let objects = report["objects"].as_array().into_iter().flatten();
            let functions = objects.flat_map(|o| o["functions"].as_array().into_iter().flatten());
            functions
                .filter(|f| f["verdict"] == verdict)
                .filter_map(|f| f["function"].as_str())
                .map(str::to_owned)
                .collect()
        };
        let refusals: BTreeSet<String> = report["refusals"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|r| r["reason"].as_str())
            .map(str::to_owned)
            .collect();
        let refuse = self.words("refuse");
        expect("refusals", &refuse, &refusals);
        // A refusal alone is enough to say where functions do not matter.
        if refuse.is_empty() || self.directives.contains_key("changed") {
            expect("changed", &self.words("changed"), &of_verdict("changed"));
        }
        if refuse.is_empty() || self.directives.contains_key("new") {
            expect("new", &self.words("new"), &of_verdict("new"));
        }
        if self.directives.contains_key("removed") {
            expect("removed", &self.words("removed"), &of_verdict("removed"));
        }
        let same = self.directives.contains_key("same");
        let outcome = if !refuse.is_empty() {
            "refused"
        } else if same {
            "unchanged"
        } else {
            "done"
        };
        if report["outcome"] != outcome {
            problems.push(format!("outcome: expected {outcome}, got {}", report["outcome"]));
        }
        let status = if refuse.is_empty() { 0 } else { 1 };
        if output.status.code() != Some(status) {
            problems.push(format!("exit status: expected {status}, got {:?}", output.status.code()));
        }
        let account = &report["account"];
        let count = |key: &str| account[key].as_u64().unwrap_or(0);
        let buckets = ["carried", "exported", "linked", "livepatch", "constant", "weak", "dropped", "refused"];
        if buckets.iter().map(|b| count(b)).sum::<u64>() != count("seen") {
            problems.push(format!("the account does not add up: {account}"));
        }
        for text in self.lines("says").iter().filter(|text| !errors.contains(*text)) {
            problems.push(format!("does not say `{text}`"));
        }
        for text in self.lines("quiet").iter().filter(|text| errors.contains(*text)) {
            problems.push(format!("says `{text}`"));
        }
        let written = out.exists();
        if written != (refuse.is_empty() && !same) {
            problems.push(format!("the patch object is {}", if written { "there" } else { "missing" }));
        }
        if written {
            match fs::read(&out).map_err(anyhow::Error::from).and_then(|bytes| elf::read(&bytes)) {
                Ok(object) => {
                    self.object_problems(&object, &mut problems);
                    let patched = elf::read(&fs::read(after).expect("readable")).expect("an object");
                    self.code_problems(&object, &patched, &mut problems);
                }
                Err(error) => problems.push(format!("the patch object cannot be read: {error:#}")),
            }
        }
        if !problems.is_empty() && !errors.trim().is_empty() {
            problems.push(format!("stderr: {}", errors.trim().replace('\n', "\n      ")));
        }
        problems
    }

    fn object_problems(&self, object: &Object, problems: &mut Vec<String>) {
        let undefined = |klp: bool| -> BTreeSet<String> {
            let all =
                object.symbols.iter().filter(|s| s.place == Place::Undefined && s.name.starts_with(".klp.sym.") == klp);
            all.map(|s| s.name.clone()).collect()
        };
        if self.directives.contains_key("klp") {
            let (want, got) = (self.words("klp"), undefined(true));
            if want != got {
                problems.push(format!("livepatch symbols: expected {want:?}, got {got:?}"));
            }
        }
        for name in self.words("needs").difference(&undefined(false)) {
            problems.push(format!("`{name}` is no ordinary undefined symbol"));
        }
        let defined: BTreeSet<String> = object
            .symbols
            .iter()
            .filter(|s| matches!(s.place, Place::Section(_)) && s.st_type != stt::SECTION)
            .map(|s| s.name.clone())
            .collect();
        for name in self.words("defines").difference(&defined) {
            problems.push(format!("`{name}` is not defined"));
        }
        for name in self.words("lacks").into_iter().filter(|name| object.symbols.iter().any(|s| s.name.contains(name)))
        {
            problems.push(format!("a symbol has `{name}` in its name"));
        }
        let sections: BTreeSet<String> = object.sections.iter().map(|s| s.name.clone()).collect();
        for name in self.words("section").difference(&sections) {
            problems.push(format!("section `{name}` is missing"));
        }
        for name in self.words("lacks-section").intersection(&sections) {
            problems.push(format!("section `{name}` is there"));
        }
        for line in self.lines("text") {
            let (function, text) = line.split_once(' ').unwrap_or((line, ""));
            let found = texts_of(object, function);
            if !found.contains(text) {
                problems.push(format!("`{function}` does not refer to \"{text}\" but to {found:?}"));
            }
        }
        for line in self.lines("refers") {
            let (function, what) = line.split_once(' ').unwrap_or((line, ""));
            let found = meanings(object, function).unwrap_or_default();
            if !found.iter().any(|(_, _, meaning)| meaning == what) {
                problems.push(format!("`{function}` does not refer to `{what}` but to {found:?}"));
            }
        }
        for text in self.lines("holds") {
            let bytes: Vec<u8> = text.split_whitespace().filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
            let found = object.sections.iter().any(|s| s.data.windows(bytes.len().max(1)).any(|w| w == bytes));
            if !found {
                problems.push(format!("no section holds the bytes {text}"));
            }
        }
    }

    /// Every carried function means what the compiled one means: the same code, and every reference to the same thing.
    fn code_problems(&self, out: &Object, patched: &Object, problems: &mut Vec<String>) {
        for name in out.sections.iter().filter_map(|s| s.name.strip_prefix(".text.")) {
            let section = |object: &Object| {
                object.section_named(&format!(".text.{name}")).map(|id| object.section(id).data.clone())
            };
            let (Some(want), Some(got)) = (section(patched), section(out)) else { continue };
            // `ld -r` puts equally named sections of several units together.
            let functions = patched.symbols.iter().filter(|s| s.name == name && s.st_type == stt::FUNC).count();
            // Boot-time constants are rewritten, with a reference that was not there.
            let rewritten = patched.sections.iter().any(|s| s.name.starts_with("runtime_"));
            if rewritten || functions > 1 || patched.e_machine != 62 {
                continue;
            }
            if want != got {
                problems.push(format!("the code of `{name}` is not the compiled one"));
            }
            let (want, got) = (meanings(patched, name), meanings(out, name));
            let equal = match (&want, &got) {
                (Some(want), Some(got)) => {
                    want.len() == got.len()
                        && want
                            .iter()
                            .zip(got)
                            .all(|(a, b)| (a.0, a.1) == (b.0, b.1) && (a.2 == ANYTHING || agree(&a.2, &b.2)))
                }
                _ => false,
            };
            if !equal {
                problems.push(format!("references of `{name}`: compiled {want:?}, written {got:?}"));
            }
        }
    }

    /// Each side against itself.
    pub fn check_self(&self) -> Outcome {
        self.on_each_side(|object| objects::differs(object, object))
    }

    /// Each side against itself in another order, and compiled in another order.
    pub fn check_order(&self) -> Outcome {
        self.on_each_side(|object| objects::differs(object, &objects::reversed(object)))
    }

    /// Each side, and the written patch object too, through the writer and the reader.
    pub fn check_round_trip(&self) -> Outcome {
        self.on_each_side(objects::lost_in_writing)
    }

    /// Forty changes to each side.
    pub fn check_mutations(&self) -> Outcome {
        self.on_each_side(|object| {
            let unseen = objects::unseen_mutations(object, 40, 0x5eed);
            (!unseen.is_empty()).then(|| format!("unseen: {}", unseen.join(", ")))
        })
    }

    fn on_each_side(&self, check: impl Fn(&Object) -> Option<String>) -> Outcome {
        let work = tempfile::tempdir().expect("a temporary folder");
        let sides = match self.compile(work.path(), &[]) {
            Ok(Some((before, after))) => [before, after],
            Ok(None) => return Outcome::Skipped("its compiler is not installed".to_owned()),
            Err(what) => return Outcome::Failed(what),
        };
        for (path, side) in sides.iter().zip(["before.c", "after.c"]) {
            let object = match fs::read(path).map_err(anyhow::Error::from).and_then(|bytes| elf::read(&bytes)) {
                Ok(object) => object,
                Err(error) => return Outcome::Failed(format!("{side}: {error:#}")),
            };
            if let Some(what) = check(&object) {
                return Outcome::Failed(format!("{side}: {what}"));
            }
        }
        Outcome::Passed
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{:?} failed:\n{}", command.get_program(), String::from_utf8_lossy(&output.stderr)))
}

/// For each relocation of a function's section, what it means, read as the processor would: a PC-relative field
/// counts from the end of its instruction. Shares nothing with the code under test but the ELF reader.
fn meanings(object: &Object, function: &str) -> Option<Vec<(u64, u32, String)>> {
    let section = object.section(object.section_named(&format!(".text.{function}"))?);
    let decoder = Decoder::with_ip(64, &section.data, 0, DecoderOptions::NONE);
    let ends: Vec<u64> = decoder.into_iter().map(|insn| insn.next_ip()).collect();
    let mut found = Vec::new();
    for reloc in &section.relocs {
        let symbol = object.symbol(reloc.symbol?);
        let end = ends.iter().copied().find(|end| *end > reloc.r_offset).unwrap_or(reloc.r_offset + 4);
        // R_X86_64_PC32 and R_X86_64_PLT32.
        let relative = matches!(reloc.r_type, 2 | 4);
        let addend = reloc.r_addend + if relative { (end - reloc.r_offset) as i64 } else { 0 };
        let what = match (&symbol.place, KlpSymbol::parse(&symbol.name)) {
            (_, Some(klp)) => format!("{}+{addend}", stem(&klp.name)),
            (Place::Section(id), _) => {
                let at = symbol.st_value as i64 + addend;
                let target = object.section(*id);
                if target.sh_flags & shf::STRINGS != 0 {
                    if symbol.st_type != stt::SECTION && addend < 0 {
                        // A label may be far from what its addend leads to.
                        ANYTHING.to_owned()
                    } else {
                        let text = target.data.get(at.max(0) as usize..).unwrap_or(&[]).split(|b| *b == 0).next();
                        format!("\"{}\"", String::from_utf8_lossy(text.unwrap_or(&[])))
                    }
                } else {
                    let of_section = |s: &&elf::Symbol| {
                        s.place == symbol.place && s.st_type != stt::SECTION && !s.name.starts_with("__pfx_")
                    };
                    let named = || object.symbols.iter().filter(of_section).filter(|s| s.st_value as i64 <= at);
                    // Of several names for one place, a weak one is meant only where it is the one referred to.
                    let rank = |s: &&elf::Symbol| {
                        let is_weak = s.st_bind == stb::WEAK;
                        (s.st_value, !is_weak || s.name == symbol.name, is_weak && s.name == symbol.name)
                    };
                    let nearest = named().map(|s| rank(&s)).max();
                    // Where one thing ends another one starts.
                    let ends = |s: &&elf::Symbol| s.st_size > 0 && (s.st_value + s.st_size) as i64 == at;
                    let meant = named().filter(|s| Some(rank(s)) == nearest || ends(s));
                    let all: Vec<String> =
                        meant.map(|s| format!("{}+{}", stem(&s.name), at - s.st_value as i64)).collect();
                    if all.is_empty() { "something without a name".to_owned() } else { all.join(OR) }
                }
            }
            _ => format!("{}+{addend}", stem(&symbol.name)),
        };
        found.push((reloc.r_offset, reloc.r_type, what));
    }
    found.sort();
    Some(found)
}

/// Whether two references may mean the same.
fn agree(one: &str, other: &str) -> bool {
    one.split(OR).any(|meaning| other.split(OR).any(|m| m == meaning))
}

fn stem(name: &str) -> String {
    let name = name.split(".llvm.").next().unwrap_or(name);
    let parts = name.split('.').filter(|part| !part.bytes().all(|b| b.is_ascii_digit()));
    parts.collect::<Vec<_>>().join(".").trim_end_matches(|c: char| c.is_ascii_digit() || c == '_').to_owned()
}

/// The texts that a function's instructions refer to.
fn texts_of(object: &Object, function: &str) -> BTreeSet<String> {
    let mut texts = BTreeSet::new();
    let Some(id) = object.section_named(&format!(".text.{function}")) else { return texts };
    let section = object.section(id);
    let mut ends = Vec::new();
    for insn in &mut Decoder::with_ip(64, &section.data, 0, DecoderOptions::NONE) {
        ends.push(insn.next_ip());
    }
    for reloc in &section.relocs {
        let Some(symbol) = reloc.symbol.map(|s| object.symbol(s)) else { continue };
        let Place::Section(target) = symbol.place else { continue };
        let end = ends.iter().copied().find(|end| *end > reloc.r_offset).unwrap_or(reloc.r_offset + 4);
        // R_X86_64_PC32 and R_X86_64_PLT32 count from the field.
        let relative = matches!(reloc.r_type, 2 | 4);
        let distance = if relative { (end - reloc.r_offset) as i64 } else { 0 };
        let at = symbol.st_value as i64 + reloc.r_addend + distance;
        let data = object.section(target).data.get(at as usize..).unwrap_or(&[]);
        let text = data.split(|b| *b == 0).next().unwrap_or(&[]);
        texts.insert(String::from_utf8_lossy(text).into_owned());
    }
    texts
}

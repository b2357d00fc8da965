//! One unit: preprocess both sides, and compile them if their tokens differ.
//!
//! In: the unit's command, the mirror. Out: objects in the run's private directory. Preprocessing comes first
//! since it is cheap, says what the compile will read, and settles most units that a header reaches.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cache::Keys;
use super::mentions::Mentions;
use super::paths::Paths;
use super::poison::Poison;
use super::skip::Skip;
use super::watch::{self, Others, Watch};
use super::{Compiled, Mirror, Options, Outcome, command, deps, is_c, run, shape, spelled, tokens, unused};
use crate::error::ToolFailure;
use crate::kernel::unit::Unit;

/// Longest compiler output that is passed on, in lines.
const OUTPUT_LINES: usize = 60;

/// What is needed to compile one unit.
pub(super) struct Job<'a> {
    index: usize,
    unit: &'a Unit,
    /// The source is only in the patched tree.
    new: bool,
    paths: &'a Paths,
    options: &'a Options<'a>,
    watch: &'a Watch<'a>,
    dir: PathBuf,
    /// The command without outputs: on the tree, and on the mirror.
    original: Vec<String>,
    patched: Vec<String>,
}

/// What preprocessing showed.
pub(super) struct Seen {
    pub(super) same: bool,
    /// Cache keys of the original's object.
    key: Option<Keys>,
    /// What of the difference may give types another layout.
    pub(super) shape: Option<String>,
    /// Compile with debug information, too.
    pub(super) debug: bool,
    /// Files the patched side read around the mirror, as spelled.
    pub(super) misses: Vec<PathBuf>,
    /// Files that were read besides the recorded ones.
    others: Others,
}

impl Seen {
    /// Nothing that the compiler would see differs.
    pub(super) fn same() -> Seen {
        Seen { same: true, key: None, shape: None, debug: false, misses: Vec::new(), others: Others::default() }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Original,
    Patched,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        index: usize,
        unit: &'a Unit,
        new: bool,
        paths: &'a Paths,
        options: &'a Options<'a>,
        watch: &'a Watch<'a>,
        dir: &Path,
    ) -> Result<Job<'a>> {
        let what = || format!("failed to prepare the compile of `{}`", unit.source.display());
        let original = command::without_outputs(&unit.command).with_context(what)?;
        if command::source_index(&original).is_none() {
            bail!("{}: its command names no source file", what());
        }
        fs::create_dir_all(dir.join("tmp")).with_context(what)?;
        let patched = paths.in_mirror(&original);
        Ok(Job { index, unit, new, paths, options, watch, dir: dir.to_path_buf(), original, patched })
    }

    fn file(&self, side: Side, suffix: &str) -> PathBuf {
        self.dir.join(match side {
            Side::Original => format!("original.{suffix}"),
            Side::Patched => format!("patched.{suffix}"),
        })
    }

    fn base(&self, side: Side) -> &[String] {
        if side == Side::Original { &self.original } else { &self.patched }
    }

    /// Runs a command of one side; its standard output, and its messages made readable.
    fn run(&self, verb: &str, side: Side, args: &[String]) -> Result<(Vec<u8>, String)> {
        (self.options.progress)(&format!("{verb} {}", self.unit.source.display()));
        let output = run::output(
            Command::new(&args[0])
                .args(&args[1..])
                .current_dir(self.paths.cwd(side == Side::Patched))
                // Messages that can be read by machines, and temporary files where they are removed with the run.
                .env("LC_ALL", "C")
                .env("GCC_COLORS", "")
                .env("TMPDIR", self.dir.join("tmp"))
                // gcc believes it, where it names the same directory, and debug information repeats it.
                .env("PWD", self.paths.cwd(side == Side::Patched)),
        )?;
        let mut messages = self.paths.readable(&String::from_utf8_lossy(&output.stderr));
        if side == Side::Patched {
            messages = without_quotes(&messages);
        }
        if output.status.success() {
            return Ok((output.stdout, messages));
        }
        let side = if side == Side::Original { "the unpatched" } else { "the patched" };
        let mut lines: Vec<&str> = messages.lines().collect();
        let more = lines.len().saturating_sub(OUTPUT_LINES);
        lines.truncate(OUTPUT_LINES);
        let mut text = lines.join("\n");
        if more > 0 {
            text.push_str(&format!("\n... {more} more lines"));
        }
        if text.is_empty() {
            text = format!("{} ended with {}", args[0], output.status);
        }
        Err(ToolFailure { doing: format!("{verb} {side} `{}`", self.unit.source.display()), output: text }.into())
    }

    /// Whether the original alone may say enough.
    pub(super) fn may_be_settled_by(&self, skip: &Skip<'_>) -> bool {
        !self.new && skip.may_settle(self.unit)
    }

    /// Whether an earlier run has seen enough of the original.
    pub(super) fn settled_by(&self, skip: &Skip<'_>) -> bool {
        !self.new && skip.settles(self.unit, self.paths.cwd(false))
    }

    /// Whether the unit has none of the names that the patch is about.
    pub(super) fn settled_by_names(&self, mentions: &Mentions<'_>, poison: &Poison) -> bool {
        if self.new || !mentions.may_settle(self.unit) {
            return false;
        }
        (self.options.progress)(&format!("search {}", self.unit.source.display()));
        poison.is_free(&self.original)
    }

    /// Preprocesses what there is of both sides.
    pub(super) fn preprocess(&self, mirror: &Mirror, skip: Option<&Skip<'_>>) -> Result<Seen> {
        let side =
            |side: Side| self.run("preprocess", side, &command::preprocess(self.base(side), &self.file(side, "d")));
        if self.new {
            side(Side::Patched)?;
            let (misses, others) = (self.misses(mirror)?, self.others());
            return Ok(Seen { same: false, key: None, shape: None, debug: false, misses, others });
        }
        let (original, patched) = match skip.filter(|skip| self.may_be_settled_by(skip)) {
            // The original alone may say enough: most readers of a header use nothing of the change.
            Some(skip) => {
                let (original, _) = side(Side::Original)?;
                // What is learned is kept for what the files held when they were read before.
                self.is_unchanged(&Others::default())?;
                let dependencies = fs::read_to_string(self.file(Side::Original, "d")).unwrap_or_default();
                if skip.learn(self.unit, self.paths.cwd(false), &tokens::fold(&original), &dependencies) {
                    return Ok(Seen::same());
                }
                (Ok((original, String::new())), side(Side::Patched))
            }
            None => rayon::join(|| side(Side::Original), || side(Side::Patched)),
        };
        // An original that does not compile says that the tree is not what was built: that comes first.
        let ((original, _), (patched, _)) = (original?, patched?);
        let misses = self.misses(mirror)?;
        let is_c = is_c(self.unit);
        let form = if is_c { tokens::fold } else { tokens::lines };
        let (old, new) = (form(&original), form(&patched));
        let same = old == new || (is_c && unused::only_unused_differs(&old, &new));
        let key = match self.options.cache {
            Some(cache) if !same => {
                Some(cache.keys(&self.original, self.paths.cwd(false), &original, |bytes| self.paths.blanked(bytes))?)
            }
            _ => None,
        };
        let shape = if same || !is_c { None } else { shape::shape_key(&old, &new) };
        let others = if same { Others::default() } else { self.others() };
        Ok(Seen { same, key, shape, debug: false, misses, others })
    }

    /// What both sides read that the build has not recorded.
    fn others(&self) -> Others {
        let read = |side: Side| {
            let text = fs::read_to_string(self.file(side, "d")).unwrap_or_default();
            let cwd = self.paths.cwd(side == Side::Patched);
            deps::parse(&text).into_iter().map(|path| cwd.join(path))
        };
        self.watch.others(self.unit, read(Side::Original).chain(read(Side::Patched)))
    }

    /// An error if a file of the unit is not what it was.
    fn is_unchanged(&self, others: &Others) -> Result<()> {
        match self.watch.changed(self.unit, others) {
            None => Ok(()),
            Some(path) => {
                let message = self.paths.readable(&watch::message(&path));
                bail!("failed to compile `{}`: {message}", self.unit.source.display())
            }
        }
    }

    /// What the patched side read, as far as it should not have.
    fn misses(&self, mirror: &Mirror) -> Result<Vec<PathBuf>> {
        let path = self.file(Side::Patched, "d");
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
        Ok(mirror.misses(self.paths.cwd(true), &deps::parse(&text)))
    }

    /// Compiles what there is of both sides, unless they are the same.
    pub(super) fn compile(&self, seen: &Seen, mirror: &Mirror) -> Result<Compiled> {
        let compiled = self.both(seen, mirror);
        if !seen.same {
            // Also when it failed: half of an edit may not compile.
            self.is_unchanged(&seen.others)?;
        }
        compiled
    }

    fn both(&self, seen: &Seen, mirror: &Mirror) -> Result<Compiled> {
        let done = |outcome, warnings, cached, debug| Compiled { unit: self.index, outcome, warnings, cached, debug };
        if seen.same {
            return Ok(done(Outcome::Same, String::new(), false, None));
        }
        let code = || rayon::join(|| self.original_object(seen), || self.object(Side::Patched));
        let debug = || {
            let side = |side| seen.debug.then(|| self.debug_object(side)).transpose();
            rayon::join(|| side(Side::Original), || side(Side::Patched))
        };
        let ((original, patched), debug) = rayon::join(code, debug);
        let (cached, (patched, warnings)) = (original?, patched?);
        let debug = debug.0?.zip(debug.1?);
        if let Some(miss) = self.misses(mirror)?.first() {
            bail!("failed to keep `{}` inside the mirror: the compile read the unpatched file", miss.display());
        }
        Ok(match cached {
            None => done(Outcome::New { patched }, warnings, false, None),
            Some((original, cached)) => done(Outcome::Pair { original, patched }, warnings, cached, debug),
        })
    }

    /// The original's object, and whether it came from the cache; `None` when there is no original.
    fn original_object(&self, seen: &Seen) -> Result<Option<(PathBuf, bool)>> {
        if self.new {
            return Ok(None);
        }
        let Some((cache, key)) = self.options.cache.zip(seen.key.as_ref()) else {
            return Ok(Some((self.object(Side::Original)?.0, false)));
        };
        let object = self.file(Side::Original, "o");
        if cache.get(&key.anywhere, &object) || cache.get(&key.here, &object) {
            return Ok(Some((object, true)));
        }
        let (object, _) = self.object(Side::Original)?;
        let bytes = fs::read(&object).with_context(|| format!("failed to read `{}`", object.display()))?;
        // It must be made of the text that its key is of.
        self.is_unchanged(&seen.others)?;
        let key = if self.paths.are_named_in(&bytes) { &key.here } else { &key.anywhere };
        // A cache that cannot be written costs time, nothing else.
        let _ = cache.put(key, &object);
        Ok(Some((object, false)))
    }

    /// Compiles the original, by itself.
    pub(super) fn compile_original(&self) -> Result<PathBuf> {
        Ok(self.object(Side::Original)?.0)
    }

    /// Compiles with a description of every type the unit sees, whether it uses it or not.
    fn debug_object(&self, side: Side) -> Result<PathBuf> {
        let object = self.file(side, "debug.o");
        let mut args = self.options.launcher.clone();
        args.extend(command::compile(self.base(side), &object, &self.file(side, "debug.d")));
        args.extend(command::DEBUG.map(str::to_owned));
        self.run("compile", side, &args)?;
        Ok(object)
    }

    fn name_as_in_source(&self, object: &Path) -> Result<()> {
        let spelling = self.paths.spelling_in(&self.original);
        let mirror = self.paths.mirror().as_os_str().as_encoded_bytes();
        if let Some(bytes) = spelled::as_in_source(&fs::read(object)?, mirror, spelling.as_bytes()) {
            fs::write(object, bytes)?;
        }
        Ok(())
    }

    fn object(&self, side: Side) -> Result<(PathBuf, String)> {
        let object = self.file(side, "o");
        let mut args = self.options.launcher.clone();
        args.extend(command::compile(self.base(side), &object, &self.file(side, "d")));
        let (_, messages) = self.run("compile", side, &args)?;
        if side == Side::Patched {
            self.name_as_in_source(&object).with_context(|| format!("failed to rewrite `{}`", object.display()))?;
        }
        Ok((object, messages))
    }
}

/// Messages without the lines of source that they quote. The patched side is compiled with `#line` directives in it, and
/// compilers quote by number: they would show another line than the one they speak about.
fn without_quotes(messages: &str) -> String {
    let is_quote = |line: &str| {
        let rest = line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        rest.starts_with('|') && line.starts_with(' ')
    };
    let mut text: String = messages.lines().filter(|line| !is_quote(line)).flat_map(|line| [line, "\n"]).collect();
    if !messages.ends_with('\n') {
        text.truncate(text.trim_end_matches('\n').len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message stays, the wrong line under it goes.
    #[test]
    fn quotes_go() {
        let text = "a.c:6:7: error: 'x' undeclared\n    6 | for (;;) {\n      |       ^\na.c:6:7: note: once\n";
        assert_eq!(without_quotes(text), "a.c:6:7: error: 'x' undeclared\na.c:6:7: note: once\n");
    }
}

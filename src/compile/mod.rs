//! Compile the units a patch can reach, original and patched, without writing to the kernel tree.
//!
//! In: units with the commands kbuild used, the touched files with their contents. Out: two objects per unit, or
//! the word that its tokens are the same on both sides. The original is compiled where it is, the patched
//! side from a mirror ([`mirror`]); all outputs go to a private directory. Hard parts: the two sides must differ by
//! nothing but the patch, and no compile may read an unpatched file by a way around the mirror.

mod bodies;
mod cache;
mod command;
mod declared;
mod deps;
mod items;
mod macros;
mod mentions;
mod mirror;
mod names;
mod paths;
mod pieces;
mod plain;
mod poison;
pub mod run;
mod shape;
mod skip;
mod spelled;
mod tokens;
mod unit;
mod unused;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

pub use cache::{ObjectCache, Usage, size};
pub use mirror::Mirror;

use crate::error::ToolFailure;
use crate::kernel::unit::Unit;
use crate::patch::{Applied, keep_line_numbers};

/// The kernel's directories; both are only read.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Source tree.
    pub source: PathBuf,
    /// Build directory; the source tree itself for a build in place.
    pub objdir: PathBuf,
}

/// How to compile.
pub struct Options<'a> {
    /// Compilers at a time.
    pub jobs: usize,
    /// Put before each compile (not before preprocessing): `ccache` and the like.
    pub launcher: Vec<String>,
    /// Where original objects are kept.
    pub cache: Option<&'a ObjectCache>,
    /// Compile every unit with debug information, too.
    pub debug: bool,
    /// A private directory of the run, the caller's to remove; the objects come out in it.
    pub work: &'a Path,
    /// Told what is being done, as `compile fs/proc/cmdline.c`; called from several threads.
    pub progress: &'a (dyn Fn(&str) + Sync),
}

/// A unit's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// Index of the unit in the input.
    pub unit: usize,
    /// What came out.
    pub outcome: Outcome,
    /// The patched compile's warnings, files named as in the source tree.
    pub warnings: String,
    /// The original came from the cache.
    pub cached: bool,
    /// Original and patched with debug information: for one of the units in which the patch may have changed the
    /// layout of the same types, or for all when that was asked for.
    pub debug: Option<(PathBuf, PathBuf)>,
}

/// What compiling a unit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The same tokens on both sides: nothing was compiled.
    Same,
    /// Both objects.
    Pair {
        /// From the unpatched tree.
        original: PathBuf,
        /// From the patched one.
        patched: PathBuf,
    },
    /// The unit's source is a new file; its command was borrowed from a sibling.
    New {
        /// From the patched tree.
        patched: PathBuf,
    },
}

/// Compiles the units. All failures of a run come as one error: a [`ToolFailure`] when compilers failed.
pub fn compile_units(units: &[Unit], tree: &Tree, touched: &Applied, options: &Options) -> Result<Vec<Compiled>> {
    let watch = watch::Watch::new(units, tree);
    let (place, mut mirror) = Place::new(tree, touched, options, &watch)?;
    let mut looked = look(units, tree, touched, options, &place, &mut mirror)?;
    let mut shapes = BTreeSet::new();
    for (_, seen) in &mut looked {
        let shaped = seen.shape.as_ref().is_some_and(|key| shapes.insert(key.clone()));
        seen.debug = shaped || (options.debug && !seen.same);
    }
    let compile = |(job, seen): &(unit::Job<'_>, unit::Seen)| job.compile(seen, &mirror);
    let compiled = all(place.pool.install(|| looked.par_iter().map(compile).collect::<Vec<_>>()))?;
    if let Some(cache) = options.cache {
        cache.trim();
    }
    is_as_patched(tree, touched)?;
    Ok(compiled)
}

/// An error if a touched file is no longer what the patch was applied to.
fn is_as_patched(tree: &Tree, touched: &Applied) -> Result<()> {
    let is_other = |path: &Path, text: &[u8]| std::fs::read(tree.source.join(path)).ok().as_deref() != Some(text);
    let with_original = touched.files.iter().filter_map(|file| Some((&file.path, file.original.as_deref()?)));
    match with_original.into_iter().find(|(path, text)| is_other(path, text)) {
        None => Ok(()),
        Some((path, _)) => bail!("failed to compile the patched files: {}", watch::message(path)),
    }
}

/// Whether a unit is C, and no assembly.
fn is_c(unit: &Unit) -> bool {
    unit.source.extension().is_some_and(|suffix| suffix == "c")
}

/// Where the units of one call are worked on, and by how many.
struct Place<'a> {
    work: PathBuf,
    paths: paths::Paths,
    pool: rayon::ThreadPool,
    watch: &'a watch::Watch<'a>,
}

impl<'a> Place<'a> {
    fn new(
        tree: &Tree,
        touched: &Applied,
        options: &Options,
        watch: &'a watch::Watch<'a>,
    ) -> Result<(Place<'a>, Mirror)> {
        let work = tempfile::Builder::new().prefix("compile-").tempdir_in(options.work);
        let work = work.with_context(|| format!("failed to write to `{}`", options.work.display()))?.keep();
        // The system's own name for it, which the mirror has as well.
        let work = std::fs::canonicalize(&work).unwrap_or(work);
        let root = spelled::mirror_name(&work, &tree.source);
        let mirror = Mirror::create(&root, &tree.source, contents(&tree.source, touched))?;
        let paths = paths::Paths::new(&tree.source, &tree.objdir, mirror.root())?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(options.jobs.max(1)).build();
        Ok((Place { work, paths, pool: pool.context("failed to start threads")?, watch }, mirror))
    }
}

/// Each unit with what is the same on both sides: by what earlier runs saw, by its names, or by preprocessing.
fn look<'a>(
    units: &'a [Unit],
    tree: &Tree,
    touched: &Applied,
    options: &'a Options,
    place: &'a Place<'a>,
    mirror: &mut Mirror,
) -> Result<Vec<(unit::Job<'a>, unit::Seen)>> {
    let mut jobs = Vec::new();
    for (index, unit) in units.iter().enumerate() {
        let change = touched.get(&unit.source);
        if change.is_some_and(|change| change.patched.is_none()) {
            bail!("failed to compile `{}`: the patch deletes it", unit.source.display());
        }
        let new = change.is_some_and(|change| change.original.is_none());
        let dir = place.work.join(index.to_string());
        jobs.push(unit::Job::new(index, unit, new, &place.paths, options, place.watch, &dir)?);
    }
    if touched.files.iter().any(|file| file.original.is_none()) {
        ways_to_new_files(units, touched, &place.paths, mirror)?;
    }
    let pool = &place.pool;

    // What an earlier run has seen costs least to ask, and may leave too few to read everything for.
    let skip = skip::Skip::new(units.iter(), touched, tree, options.cache);
    let skip = skip.as_ref();
    let known = |job: &unit::Job| skip.is_some_and(|skip| job.settled_by(skip));
    let known: Vec<bool> = pool.install(|| jobs.par_iter().map(known).collect());
    let open: Vec<&Unit> = units.iter().zip(&known).filter(|(_, known)| !**known).map(|(unit, _)| unit).collect();
    let mentions = mentions::Mentions::new(&open, touched, tree);
    let poison = mentions.as_ref().map(|mentions| mentions.poison(&place.work.join("names"))).transpose()?;
    let asked = mentions.as_ref().zip(poison.as_ref());
    // Where the original alone may do, it takes as long to preprocess, and what it says is kept.
    let settled = |job: &unit::Job| {
        !skip.is_some_and(|skip| job.may_be_settled_by(skip))
            && asked.is_some_and(|(mentions, poison)| job.settled_by_names(mentions, poison))
    };
    let settled = |(job, known): (&unit::Job, bool)| (known || settled(job)).then(unit::Seen::same);
    let mut seen: Vec<Option<unit::Seen>> = pool.install(|| jobs.par_iter().zip(known).map(settled).collect());

    // Preprocess all others; a unit that read around the mirror is done again when the mirror is repaired.
    loop {
        let open: Vec<usize> = (0..jobs.len()).filter(|&at| seen[at].is_none()).collect();
        let found = pool.install(|| open.par_iter().map(|&at| jobs[at].preprocess(mirror, skip)).collect::<Vec<_>>());
        let mut misses = Vec::new();
        for (at, found) in open.into_iter().zip(all(found)?) {
            if found.misses.is_empty() { seen[at] = Some(found) } else { misses.extend(found.misses) }
        }
        if misses.is_empty() {
            return Ok(jobs.into_iter().zip(seen.into_iter().flatten()).collect());
        }
        misses.iter().try_for_each(|dep| mirror.repair(dep))?;
    }
}

/// Makes real what compiles may go through by `..` on their way to a file that the patch creates: what is not found there is found
/// elsewhere, or not at all, and none is a dependency that could be checked.
fn ways_to_new_files(units: &[Unit], touched: &Applied, paths: &paths::Paths, mirror: &mut Mirror) -> Result<()> {
    let mut ways = BTreeSet::new();
    for unit in units {
        ways.extend(paths.inside_by_parents(&unit.command));
        let finds = |dep: &PathBuf| touched.get(dep).is_some_and(|file| file.original.is_none());
        if unit.deps.iter().any(finds) {
            let includers = unit.deps.iter().chain([&unit.source]).filter(|dep| dep.is_relative());
            ways.extend(includers.filter_map(|dep| Some(dep.parent()?.join(".."))));
        }
    }
    ways.iter().try_for_each(|way| mirror.make_way(way))
}

/// Compiles the originals of units as a build would, whether a patch touches them or not; each with its own result.
pub fn compile_originals(units: &[Unit], tree: &Tree, options: &Options) -> Result<Vec<Result<PathBuf>>> {
    let work = tempfile::Builder::new().prefix("originals-").tempdir_in(options.work);
    let work = work.with_context(|| format!("failed to write to `{}`", options.work.display()))?.keep();
    let paths = paths::Paths::new(&tree.source, &tree.objdir, &work.join("tree"))?;
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(options.jobs.max(1)).build().context("failed to start threads")?;
    let watch = watch::Watch::new(units, tree);
    let compile = |(index, unit): (usize, &Unit)| {
        let dir = work.join(index.to_string());
        unit::Job::new(index, unit, false, &paths, options, &watch, &dir)?.compile_original()
    };
    Ok(pool.install(|| units.par_iter().enumerate().map(compile).collect()))
}

/// What the mirror has instead of the tree's files, or besides: C with `#line` directives, the rest as patched.
fn contents(source: &Path, touched: &Applied) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let lines = |path: &Path| path.extension().is_some_and(|suffix| suffix == "c" || suffix == "h");
    // What patches declare themselves with; a kernel, or a patch, that has a file of this name keeps it.
    let header = (PathBuf::from("include/linux/klp_build.h"), include_bytes!("../../templates/klp_build.h"));
    let includes = |text: &[u8]| memchr::memmem::find(text, b"<linux/klp_build.h>").is_some();
    let declares = touched.files.iter().any(|file| file.patched.as_deref().is_some_and(includes));
    let has = touched.get(&header.0).is_some() || source.join(&header.0).exists();
    let header = (declares && !has).then(|| (header.0, Some(header.1.to_vec())));
    let files = touched.files.iter().map(|file| {
        let text = match (&file.original, &file.patched) {
            (Some(original), Some(patched)) if lines(&file.path) => Some(keep_line_numbers(original, patched)),
            (_, patched) => patched.clone(),
        };
        (file.path.clone(), text)
    });
    files.chain(header).collect()
}

/// All results, or all failures: those of compilers as one [`ToolFailure`], any other by itself.
fn all<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let mut done = Vec::new();
    let mut failures: Vec<ToolFailure> = Vec::new();
    for result in results {
        match result.map_err(|error| error.downcast::<ToolFailure>()) {
            Ok(value) => done.push(value),
            Err(Ok(failure)) => failures.push(failure),
            Err(Err(other)) => return Err(other),
        }
    }
    match failures.len() {
        0 => Ok(done),
        1 => Err(failures.remove(0).into()),
        count => {
            let doing = format!("{}, and {} more", failures[0].doing, count - 1);
            let output = failures.iter().map(|failure| format!("{}:\n{}", failure.doing, failure.output.trim_end()));
            Err(ToolFailure { doing, output: output.collect::<Vec<_>>().join("\n") }.into())
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

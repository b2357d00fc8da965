//! One patch for many kernels: as many builds at once as there are jobs, each with its share of them.
//!
//! In: a request for each kernel, which differ in nothing else. Out: what came of each. A kernel for which it fails does not
//! stop the others. The kernels are opened first, so that each module gets a place of its own, named for its release.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Result;

use super::{build_for, inputs};
use crate::kernel::{Kernel, KernelRequest};
use crate::report::Report;
use crate::report::progress::Progress;
use crate::request::Request;

/// What came of one kernel.
#[derive(Debug)]
pub struct Built {
    /// Its release, with a number where another kernel has the same; else what it was named by.
    pub label: String,
    /// The report, or the error that ended it.
    pub report: Result<Report>,
}

/// Builds for all of them.
///
/// # Errors
///
/// For what is wrong with all: patches that cannot be read, an output directory that is not there.
pub fn many(requests: &[Request], progress: &Progress) -> Result<Vec<Built>> {
    let Some(first) = requests.first() else { return Ok(Vec::new()) };
    first.check(requests.len() > 1)?;
    progress.step("reading the patch");
    let patches = inputs::read_patches(&first.patches)?;
    let lanes = first.jobs.clamp(1, requests.len());
    let share = (first.jobs / lanes).max(1);
    let open = |request: &Request| {
        let label = described(&request.kernel);
        progress.of(&label).step("reading the kernel tree");
        Kernel::open(&KernelRequest { jobs: share, ..request.kernel.clone() })
    };
    let kernels: Vec<Result<Kernel>> = in_lanes(lanes, requests.iter().collect(), open);
    let names = kernels.iter().zip(requests).map(|(kernel, request)| match kernel {
        Ok(kernel) => kernel.release().to_owned(),
        Err(_) => described(&request.kernel),
    });
    let jobs: Vec<(String, Result<Kernel>, &Request)> = labels(names)
        .into_iter()
        .zip(kernels)
        .zip(requests)
        .map(|((label, kernel), request)| (label, kernel, request))
        .collect();
    let build = |(label, kernel, request): (String, Result<Kernel>, &Request)| {
        let report = kernel.and_then(|kernel| {
            let output = place(&request.output, &label);
            let request = Request { jobs: share, output, ..request.clone() };
            build_for(&kernel, &patches, &request, &progress.of(&label))
        });
        Built { label, report }
    };
    Ok(in_lanes(lanes, jobs, build))
}

/// Does something with each item, so many at a time, and gives the results in order. Threads of their own, not those of a
/// pool: there, who waits for a part of one build may be given another whole build to do meanwhile.
fn in_lanes<T: Send, R: Send>(lanes: usize, items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let queue = Mutex::new(items.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(|poison| poison.into_inner()).next();
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                while let Some((at, item)) = next() {
                    let result = work(item);
                    *results[at].lock().unwrap_or_else(|poison| poison.into_inner()) = Some(result);
                }
            });
        }
    });
    results.into_iter().filter_map(|slot| slot.into_inner().unwrap_or_else(|poison| poison.into_inner())).collect()
}

/// What a person called the kernel.
fn described(request: &KernelRequest) -> String {
    let release = request.release.as_ref().map(|release| release.as_deref().unwrap_or("the running kernel").to_owned());
    let path = request.objdir.as_ref().or(request.source.as_ref()).map(|path| path.display().to_string());
    release.or(path).unwrap_or_else(|| "the current directory".to_owned())
}

/// The names, each once: the second of one name has a number.
fn labels(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let number = |name: String| {
        let count = seen.entry(name.clone()).or_default();
        *count += 1;
        if *count == 1 { name } else { format!("{name}.{count}") }
    };
    names.map(number).collect()
}

/// `fix.ko` -> `RELEASE/fix.ko`, beside where one module would be.
fn place(output: &Path, label: &str) -> PathBuf {
    let dir = output.parent().unwrap_or(Path::new(""));
    dir.join(label.replace('/', "_")).join(output.file_name().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects modules from each other: two kernels never share a place, also where their releases are the same.
    #[test]
    fn places() {
        let names = ["6.12.1", "7.3.4", "6.12.1", "6.12.1"].map(str::to_owned);
        let labels = labels(names.into_iter());
        assert_eq!(labels, ["6.12.1", "7.3.4", "6.12.1.2", "6.12.1.3"]);
        assert_eq!(place(Path::new("fix.ko"), "7.3.4"), Path::new("7.3.4/fix.ko"));
        assert_eq!(place(Path::new("/tmp/fix.ko"), "7.3.4"), Path::new("/tmp/7.3.4/fix.ko"));
    }

    /// The results are those of the items, in their order, however many work.
    #[test]
    fn lanes() {
        for lanes in [1, 2, 9] {
            assert_eq!(in_lanes(lanes, (0..7).collect(), |n| n * n), [0, 1, 4, 9, 16, 25, 36]);
        }
    }

    /// A kernel that cannot be opened is its own trouble, and carries the name it was called by.
    #[test]
    fn one_that_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let patch = dir.path().join("x.patch");
        std::fs::write(&patch, "--- a/fs/x.c\n+++ b/fs/x.c\n@@ -1 +1 @@\n-int a;\n+int b;\n").unwrap();
        let request = |name: &str| Request {
            patches: vec![patch.clone()],
            kernel: KernelRequest { source: Some(dir.path().join(name)), ..KernelRequest::default() },
            name: "x".to_owned(),
            output: dir.path().join("x.ko"),
            replace: crate::request::Replace::Default,
            jobs: 1,
            launcher: Vec::new(),
            keep_tmp: false,
            no_verify: false,
            explain: false,
            debug: false,
            carry_tables: false,
            allow_layout_change: Vec::new(),
            no_link: false,
            sign: None,
        };
        let built = many(&[request("one"), request("two")], &Progress::new(false, true)).unwrap();
        for (built, name) in built.iter().zip(["one", "two"]) {
            assert!(built.label.ends_with(name), "{}", built.label);
            let error = format!("{:#}", built.report.as_ref().unwrap_err());
            assert!(error.contains("failed to find the directory"), "{error}");
        }
    }
}

//! The options that say which kernel is meant, shared by the subcommands that need one.
//!
//! In: options, some of them several times. Out: a request for each kernel. Options are read from left to right; one that
//! the kernel at hand has already begins the next kernel. So `-k A -O a -k B -O b` are two, and so are `-k A -O a -O b`: the
//! source tree is that of the kernel before where none is named.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{ArgMatches, Args, Command, FromArgMatches};

use crate::kernel::KernelRequest;

/// The options as clap sees them.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Kernel")]
struct Raw {
    /// Kernel source tree [default: the current directory].
    #[arg(short, long, value_name = "DIR")]
    kernel: Vec<PathBuf>,
    /// Its build directory (O=), built or merely configured [default: the source tree].
    #[arg(short = 'O', long, value_name = "DIR")]
    objdir: Vec<PathBuf>,
    /// An installed distribution kernel: `--release=6.12.0-3-amd64`, or with a blank where the name starts with digits and a dot and is
    /// no file [default when left out: the running one].
    #[arg(long, value_name = "KVER", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    release: Vec<OsString>,
    /// Its configuration.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Its Module.symvers.
    #[arg(long, value_name = "FILE")]
    symvers: Vec<PathBuf>,
    /// Its symbol table: vmlinux, System.map, or a copy of /proc/kallsyms.
    #[arg(long, value_name = "FILE")]
    symbols: Vec<PathBuf>,
    /// Its image: vmlinuz, vmlinux, or /proc/kcore.
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// The directory with its modules.
    #[arg(long, value_name = "DIR")]
    modules: Vec<PathBuf>,
    /// A variable for make, as kbuild takes it (CC, LLVM, ARCH, CROSS_COMPILE are taken from the environment).
    #[arg(long, value_name = "VAR=VALUE")]
    make: Vec<String>,
}

/// The kernels that are meant: one, or several for a build.
#[derive(Debug, Clone)]
pub(super) struct Kernels {
    raw: Raw,
    /// Each option's name and value, from left to right.
    named: Vec<(&'static str, OsString)>,
}

const EACH: [&str; 8] = ["kernel", "objdir", "release", "config", "symvers", "symbols", "image", "modules"];

impl FromArgMatches for Kernels {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Kernels, clap::Error> {
        let mut named = Vec::new();
        for name in EACH {
            let places = matches.indices_of(name).into_iter().flatten();
            let values = matches.get_raw(name).into_iter().flatten();
            named.extend(places.zip(values).map(|(place, value)| (place, name, value.to_owned())));
        }
        named.sort();
        let named = named.into_iter().map(|(_, name, value)| (name, value)).collect();
        Ok(Kernels { raw: Raw::from_arg_matches(matches)?, named })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Kernels::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Kernels {
    fn augment_args(command: Command) -> Command {
        Raw::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Raw::augment_args_for_update(command)
    }
}

impl Kernels {
    /// The request for a command that is about one kernel.
    pub(super) fn one(&self, command: &str, jobs: Option<usize>) -> Result<KernelRequest> {
        let mut all = self.all(jobs)?;
        match all.len() {
            1 => Ok(all.remove(0)),
            count => bail!("`klp-build {command}` is about one kernel, and {count} are named"),
        }
    }

    /// A request for each kernel; one for the current directory when nothing is named.
    pub(super) fn all(&self, jobs: Option<usize>) -> Result<Vec<KernelRequest>> {
        let mut make_vars = Vec::new();
        for variable in ["ARCH", "CROSS_COMPILE", "LLVM", "CC"] {
            if let Ok(value) = std::env::var(variable) {
                make_vars.push((variable.to_owned(), value));
            }
        }
        for variable in &self.raw.make {
            match variable.split_once('=') {
                Some((name, value)) if !name.is_empty() => make_vars.push((name.to_owned(), value.to_owned())),
                _ => bail!("failed to understand `--make {variable}`: it is not VAR=VALUE"),
            }
        }
        let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let jobs = jobs.filter(|j| *j > 0).unwrap_or_else(processors);
        let mut requests = group(&self.named);
        for request in &mut requests {
            request.make_vars = make_vars.clone();
            request.jobs = jobs;
        }
        Ok(requests)
    }
}

fn group(named: &[(&'static str, OsString)]) -> Vec<KernelRequest> {
    let mut requests: Vec<KernelRequest> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    let mut request = KernelRequest::default();
    let mut source: Option<PathBuf> = None;
    let mut finish = |mut request: KernelRequest| {
        request.source = request.source.or_else(|| source.clone());
        source = request.source.clone();
        requests.push(request);
    };
    for (name, value) in named {
        if seen.contains(name) {
            finish(std::mem::take(&mut request));
            seen.clear();
        }
        seen.push(name);
        let path = Some(PathBuf::from(value));
        match *name {
            "kernel" => request.source = path,
            "objdir" => request.objdir = path,
            "release" => request.release = Some(value.to_str().filter(|v| !v.is_empty()).map(str::to_owned)),
            "config" => request.config = path,
            "symvers" => request.symvers = path,
            "symbols" => request.symbols = path,
            "image" => request.image = path,
            _ => request.modules = path,
        }
    }
    finish(request);
    requests
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        kernels: Kernels,
        rest: Vec<String>,
    }

    fn of(line: &str) -> Vec<String> {
        let line = Line::try_parse_from(line.split(' ')).unwrap();
        let show = |path: Option<PathBuf>| path.map_or("-".to_owned(), |path| path.display().to_string());
        let all = line.kernels.all(Some(3)).unwrap().into_iter();
        all.map(|request| {
            assert_eq!(request.jobs, 3);
            let release = request.release.map_or("-".to_owned(), |r| r.unwrap_or("running".to_owned()));
            format!("{} {} {release} {}", show(request.source), show(request.objdir), show(request.config))
        })
        .collect()
    }

    /// Protects who belongs to whom: an option given again begins the next kernel, and only the source tree goes on.
    #[test]
    fn kernels_are_told_apart() {
        assert_eq!(of("x"), ["- - - -"]);
        assert_eq!(of("x p -O o -k s --config=c"), ["s o - c"]);
        assert_eq!(of("x -k a -k b p"), ["a - - -", "b - - -"]);
        assert_eq!(of("x -k a -O ao -k b -O bo"), ["a ao - -", "b bo - -"]);
        assert_eq!(of("x -k a -O one --config c -O two"), ["a one - c", "a two - -"]);
        assert_eq!(of("x --release=1 -k a --release p"), ["a - 1 -", "a - running -"]);
        assert_eq!(of("x --release=1 -k a --release=2 -k b"), ["a - 1 -", "b - 2 -"]);
    }

    /// What is about one kernel does not take the first of several.
    #[test]
    fn one_kernel() {
        let line = Line::try_parse_from(["x", "-k", "a", "-k", "b"]).unwrap();
        let error = line.kernels.one("check", None).unwrap_err().to_string();
        assert_eq!(error, "`klp-build check` is about one kernel, and 2 are named");
    }
}

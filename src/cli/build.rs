//! `klp-build [OPTIONS] PATCH...`: builds a livepatch module.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;

use super::kernel::Kernels;
use super::{many, print, status};
use crate::kernel::KernelRequest;
use crate::report::progress::Progress;
use crate::report::{human, say};
use crate::request::{Replace, Request, name_module};

/// The steps of upstream's tool, by number and by name.
const STEPS: [&str; 10] = ["1", "2", "3", "4", "5", "orig", "patched", "checksum", "diff", "kmod"];

/// What to build, for which kernel.
#[derive(Debug, Args)]
pub(super) struct Opts {
    /// Patches, applied in this order (git or plain unified diffs, -p1); `-` is standard input.
    #[arg(value_name = "PATCH", required = true)]
    pub(super) patches: Vec<PathBuf>,

    /// For each changed function, show the first difference, its source line, and the hunk it comes from.
    #[arg(short = 'f', long)]
    show_first_changed: bool,
    /// Jobs at a time [default: the number of processors].
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Where to write the module [default: livepatch-<PATCH>.ko]; for several kernels, in a directory for each there.
    #[arg(short, long, value_name = "FILE.ko")]
    output: Option<PathBuf>,
    /// Replace the livepatches of this set, and only those (kernels with replace sets).
    #[arg(short = 's', long, value_name = "SET", conflicts_with = "no_replace")]
    replace_set: Option<u32>,
    /// Replace no other livepatch (kernels without replace sets).
    #[arg(long)]
    no_replace: bool,
    /// Say what is being done.
    #[arg(short, long)]
    verbose: bool,
    /// Say where every reference of the new code went, too.
    #[arg(short, long)]
    debug: bool,
    /// Accepted for upstream's sake: originals are always taken from the cache when they are in it.
    #[arg(short = 'S', long, value_name = "STEP", value_parser = PossibleValuesParser::new(STEPS), hide_possible_values = true)]
    short_circuit: Option<String>,
    /// Keep the private work directory, and say where it is.
    #[arg(short = 'T', long)]
    keep_tmp: bool,
    /// Print the report as JSON (docs/json.md).
    #[arg(long)]
    pub(super) json: bool,

    /// Let a changed constant table travel with every function that reads it, where only functions do.
    #[arg(long)]
    carry_tables: bool,
    /// Let the layout of this type change (`struct foo`), the type of this variable, the numbers of this `enum`; may be given
    /// several times.
    #[arg(long, value_name = "TYPE")]
    allow_layout_change: Vec<String>,
    /// Say what would be in the module, and make none: for tests that ask many times.
    #[arg(long, hide = true)]
    no_link: bool,
    /// A compiler launcher: ccache, sccache, icecc, distcc.
    #[arg(long, value_name = "COMMAND")]
    launcher: Option<String>,
    /// Private key to sign the module with [default: the kernel's own, where there is one].
    #[arg(long, value_name = "FILE", requires = "sign_cert")]
    sign_key: Option<PathBuf>,
    /// Certificate that belongs to the key.
    #[arg(long, value_name = "FILE", requires = "sign_key")]
    sign_cert: Option<PathBuf>,

    // Behind all others: their heading is that of what follows, too.
    #[command(flatten)]
    kernel: Kernels,
    /// Do not check the compiled original against the image.
    #[arg(long)]
    no_verify: bool,
}

/// Builds, prints, and gives the exit status.
pub(super) fn run(opts: &Opts) -> Result<u8> {
    let mut requests = requests(opts)?;
    let progress = Progress::new(opts.verbose || opts.debug, opts.json && !opts.verbose);
    if opts.short_circuit.is_some() && opts.verbose {
        say("note: -S has no effect: what did not change is never done again");
    }
    if requests.len() > 1 {
        let built = crate::build::many(&requests, &progress);
        progress.done();
        let how = many::How {
            json: opts.json,
            verbose: opts.verbose || opts.debug,
            explain: opts.show_first_changed && !opts.json,
            debug: opts.debug,
        };
        return many::print(&built?, how);
    }
    let report = crate::build::build(&requests.remove(0), &progress);
    progress.done();
    let report = report?;
    if opts.debug {
        let _ = human::references(&report, &mut std::io::stderr().lock());
    }
    if opts.show_first_changed && !opts.json {
        let _ = human::first_changed(&report, &mut std::io::stderr().lock());
    }
    print(&report, opts.json, opts.verbose || opts.debug, status::UNCHANGED)
}

/// A request for each kernel.
fn requests(opts: &Opts) -> Result<Vec<Request>> {
    let (name, output) = name_module(&opts.patches, opts.output.as_deref())?;
    let kernels = opts.kernel.all(opts.jobs)?;
    Ok(kernels.into_iter().map(|kernel| request(opts, kernel, &name, &output)).collect())
}

fn request(opts: &Opts, kernel: KernelRequest, name: &str, output: &Path) -> Request {
    Request {
        patches: opts.patches.clone(),
        jobs: kernel.jobs,
        kernel,
        name: name.to_owned(),
        output: output.to_path_buf(),
        replace: match (opts.replace_set, opts.no_replace) {
            (Some(set), _) => Replace::Set(set),
            (None, true) => Replace::Nothing,
            (None, false) => Replace::Default,
        },
        launcher: opts.launcher.iter().flat_map(|l| l.split_whitespace().map(str::to_owned)).collect(),
        keep_tmp: opts.keep_tmp,
        no_verify: opts.no_verify,
        carry_tables: opts.carry_tables,
        explain: opts.show_first_changed,
        allow_layout_change: opts.allow_layout_change.clone(),
        debug: opts.debug,
        no_link: opts.no_link,
        sign: opts.sign_key.clone().zip(opts.sign_cert.clone()),
    }
}

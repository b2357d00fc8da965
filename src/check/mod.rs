//! Would these livepatch modules load on that kernel, one after the other, and what would come of it?
//!
//! In: modules, a kernel, and what is loaded there already. Out: findings. An error is what the loader or the livepatch core
//! would refuse; a warning is what they accept and nobody wants. Modules are taken in the order given, each as if those
//! before it that load were there, since what a livepatch replaces decides what the next one meets.

pub mod live;
pub mod loaded;
mod loader;
mod module;
pub mod peers;
#[cfg(test)]
mod samples;

use serde::Serialize;

use crate::elf::Object;
use crate::error::{Reason, Refusal};
use crate::inspect::{Function, Inspection};
use crate::kernel::Kernel;

pub use loader::built_for;
pub use module::module;

/// Whether the kernel would say no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It would.
    Error,
    /// It would not.
    Warning,
}

/// One finding.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Error or warning.
    #[serde(skip)]
    pub severity: Severity,
    /// The module it is about.
    pub module: String,
    /// The other livepatch it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
    /// What it is.
    #[serde(flatten)]
    pub what: Refusal,
}

impl Finding {
    /// Something that would be refused.
    pub fn error(module: &str, what: Refusal) -> Finding {
        Finding { severity: Severity::Error, module: module.to_owned(), other: None, what }
    }

    /// Something to look at.
    pub fn warning(module: &str, what: Refusal) -> Finding {
        Finding { severity: Severity::Warning, ..Finding::error(module, what) }
    }

    /// The same, about another livepatch, too.
    fn with(self, other: &str) -> Finding {
        Finding { other: Some(other.to_owned()), ..self }
    }
}

/// A module to be checked.
#[derive(Debug)]
pub struct Candidate {
    /// Its file, as named.
    pub file: String,
    /// Its contents.
    pub object: Object,
    /// Whether a signature follows the contents.
    pub is_signed: bool,
    /// What it says of itself.
    pub found: Inspection,
}

/// What runs on the machine: all of it read from copies.
#[derive(Debug, Default)]
pub struct Live {
    /// Livepatches that are loaded, in the order of their stack.
    pub peers: Vec<peers::Peer>,
    /// Functions that are traced, redirected or probed.
    pub watched: live::Watched,
}

/// A module's verdict.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Its file.
    pub file: String,
    /// Its name.
    pub name: String,
    /// Whether it would load.
    pub loads: bool,
    /// Whether it is the kernel that would say no, and not this check, to which the module tells too little.
    #[serde(skip)]
    pub is_known: bool,
    /// The livepatches that it would replace; none when it does not load.
    pub replaces: Vec<String>,
}

/// Everything that is to be said.
#[derive(Debug, Default)]
pub struct Checked {
    /// A verdict for each module.
    pub verdicts: Vec<Verdict>,
    /// All findings, in the order of the modules.
    pub findings: Vec<Finding>,
    /// What could not be checked.
    pub notes: Vec<String>,
}

/// Checks modules in the order in which they would be loaded.
///
/// # Errors
///
/// When the kernel's tables cannot be read.
pub fn check(kernel: &Kernel, candidates: &[Candidate], live: &Live) -> anyhow::Result<Checked> {
    let mut checked = Checked::default();
    let mut peers = live.peers.clone();
    // A module whose file is not known has a note by itself.
    let table = |object: &str| kernel.symbols(object).ok();
    let addresses = |object: &str, function: &Function| table(object)?.address(&function.function, function.sympos);
    for candidate in candidates {
        let peer = peers::Peer::of(&candidate.found, kernel.abi().replace);
        let name = &peer.name;
        let mut findings: Vec<Finding> = module(kernel, candidate, &mut checked.notes)?
            .into_iter()
            .map(|refusal| Finding::error(name, refusal))
            .collect();
        findings.extend(module::twice(&candidate.found, kernel.abi().replace, table));
        findings.extend(live::of(&candidate.found, &peers, &live.watched, &addresses));
        findings.extend(peers::findings(&peer, &peers, kernel.abi().replace, &addresses));
        let mut errors = findings.iter().filter(|finding| finding.severity == Severity::Error).peekable();
        let loads = errors.peek().is_none();
        let is_known = loads || errors.any(|finding| finding.what.reason != Reason::ObjectsUnknown);
        // What is refused replaces nothing, and is not there for the next one.
        let replaces = if loads { peers::replace(&peer, &mut peers) } else { Vec::new() };
        checked.verdicts.push(Verdict { file: candidate.file.clone(), name: name.clone(), loads, is_known, replaces });
        checked.findings.extend(findings);
        if loads {
            peers.push(peer);
        }
    }
    let unknown: Vec<String> = live
        .peers
        .iter()
        .filter(|peer| peer.states.is_none() && peer.objects.is_some())
        .map(|peer| format!("`{}`", peer.name))
        .collect();
    if !unknown.is_empty() {
        checked.notes.push(format!(
            "sysfs does not tell the states of {}: name their files with --loaded to have them checked",
            unknown.join(", ")
        ));
    }
    Ok(checked)
}

/// A finding's text with the function it is about.
fn about(reason: Reason, object: &str, symbol: &str, message: String, advice: &str) -> Refusal {
    Refusal::new(reason, message, advice).object(object).symbol(symbol)
}

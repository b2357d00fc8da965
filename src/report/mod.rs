//! The account of a run, for people and for machines; both are made from one value.
//!
//! `docs/json.md` documents the JSON; [`SCHEMA`] is raised when a field changes its meaning or goes.

pub mod human;
pub mod progress;

use std::io::Write;

use serde::Serialize;

use crate::diff::closure::naming_offset;
use crate::diff::verdict::{Diff, Elsewhere, Verdict};
use crate::error::Refusal;
use crate::reloc::account::{Account, Reference};

/// Version of the JSON's form.
pub const SCHEMA: u32 = 1;

/// Writes a line to standard error. What cannot be said there cannot be said anywhere, and a full disk or a reader that left is no
/// reason to lose the run: `eprintln!` would panic.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The module is there; for `diff`, something changed.
    #[default]
    Done,
    /// The answer is no.
    Refused,
    /// The patch changes no code.
    Unchanged,
    /// An error ended it.
    Failed,
}

/// One function.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionReport {
    /// Name as kallsyms has it.
    pub function: String,
    /// `changed`, `new`, `removed` or `same`.
    pub verdict: Verdict,
    /// Unit it was compiled in; none for `diff`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Position among its namesakes in the kernel, 0 when unique; for changed functions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sympos: Option<u32>,
    /// First difference, for changed functions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Where in the patched function that is, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Where in the source, when it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourcePlace>,
}

/// Where a difference comes from.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct SourcePlace {
    /// `file:line` on the original side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<String>,
    /// `file:line` on the patched side, with the original's line numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patched: Option<String>,
    /// The function that was inlined there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inlined: Option<String>,
    /// The hunk that changed the line: `patch:line: @@ -old +new @@`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hunk: Option<String>,
}

impl std::fmt::Display for SourcePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.original, &self.patched) {
            (Some(old), Some(new)) if old != new => write!(f, "at {old}, patched {new}")?,
            (Some(place), _) | (None, Some(place)) => write!(f, "at {place}")?,
            (None, None) => f.write_str("at an unknown line")?,
        }
        if let Some(inlined) = &self.inlined {
            write!(f, ", in `{inlined}`, inlined here")?;
        }
        match &self.hunk {
            Some(hunk) => write!(f, "; from {hunk}"),
            None => f.write_str("; no hunk of the patch changes this line"),
        }
    }
}

/// One kernel object.
#[derive(Debug, Clone, Serialize, Default)]
pub struct ObjectReport {
    /// `vmlinux` or a module's name.
    pub name: String,
    /// Its functions.
    pub functions: Vec<FunctionReport>,
    /// Callbacks the patch declares for it: members of `struct klp_callbacks`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub callbacks: Vec<String>,
}

/// The finished module.
#[derive(Debug, Clone, Serialize)]
pub struct ModuleReport {
    /// Its file.
    pub path: String,
    /// Its name.
    pub name: String,
    /// The set it replaces, on kernels with sets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_set: Option<u32>,
    /// Whether it replaces all others, on kernels with the boolean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace: Option<bool>,
    /// Whether it is signed.
    pub signed: bool,
}

/// One run.
#[derive(Debug, Clone, Serialize, Default)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What came of it.
    pub outcome: Outcome,
    /// What went wrong, outermost first; only when it failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub error: Vec<String>,
    /// Release of the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The module, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<ModuleReport>,
    /// The private work directory, when it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work_directory: Option<String>,
    /// How many of the functions to be replaced are in the kernel as compiled; none when that was not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<usize>,
    /// What changed, by object.
    pub objects: Vec<ObjectReport>,
    /// Every reason to refuse.
    pub refusals: Vec<Refusal>,
    /// What to look at, though it does not stop the run.
    pub warnings: Vec<String>,
    /// What is worth knowing.
    pub notes: Vec<String>,
    /// How many carried references went where.
    pub account: Account,
    /// Each of them, by object, when that was asked for.
    #[serde(skip)]
    pub references: Vec<(String, Vec<Reference>)>,
}

impl Report {
    /// An empty report.
    pub fn new() -> Report {
        Report { schema: SCHEMA, ..Report::default() }
    }

    /// The object's part, made when there is none.
    pub fn object(&mut self, name: &str) -> &mut ObjectReport {
        match self.objects.iter().position(|o| o.name == name) {
            Some(at) => &mut self.objects[at],
            None => {
                self.objects.push(ObjectReport { name: name.to_owned(), ..ObjectReport::default() });
                self.objects.last_mut().expect("just pushed")
            }
        }
    }

    /// Adds where a unit's references went.
    pub fn list(&mut self, object: &str, references: Vec<Reference>) {
        match self.references.iter_mut().find(|(name, _)| name == object) {
            Some((_, all)) => all.extend(references),
            None => self.references.push((object.to_owned(), references)),
        }
    }

    /// Adds a comparison's verdicts.
    pub fn add(&mut self, object: &str, unit: Option<&str>, diff: &Diff<'_>) {
        let functions = diff.functions.iter().map(|f| FunctionReport {
            function: f.name.clone(),
            verdict: match f.patched.and_then(|id| diff.elsewhere.get(&id)) {
                Some(Elsewhere::Moved { .. }) => Verdict::Changed,
                _ => f.verdict,
            },
            unit: unit.map(str::to_owned),
            sympos: None,
            why: f.why.as_ref().map(|w| w.what.clone()),
            offset: f.why.as_ref().map(|w| {
                let entry = f.patched.map_or(0, |id| naming_offset(&diff.patched, id));
                w.patched.saturating_sub(entry as u64)
            }),
            source: None,
        });
        self.object(object).functions.extend(functions);
    }
}

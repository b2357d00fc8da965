//! Layouts of types: asked early for a header that many units read, and of every unit that saw another change.
//!
//! In: units, their objects with debug information, verdicts. Out: refusals and warnings in the report. The early
//! question costs two compiles and may save thousands.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result};

use super::inputs::{self, Compiles, Workbench};
use super::read_object;
use crate::diff::Diff;
use crate::dwarf::types::{self, Replaced};
use crate::error::{Reason, Refusal};
use crate::kernel::Kernel;
use crate::kernel::unit::Unit;
use crate::report::Report;
use crate::request::Request;

/// With so many units to compile it pays to look at one of them first.
const MANY: usize = 24;

/// Whether touched headers change layouts, seen in one unit for each; only asked when there are many units.
pub(super) fn early(bench: Workbench<'_>, units: &[Unit]) -> Result<Vec<Refusal>> {
    let mut refusals = Vec::new();
    if units.len() < MANY {
        return Ok(refusals);
    }
    let untouched: Vec<&Unit> = units.iter().filter(|unit| bench.applied.get(&unit.source).is_none()).collect();
    let mut chosen: Vec<Unit> = Vec::new();
    for file in &bench.applied.files {
        let reads = |unit: &Unit| unit.deps.contains(&file.path);
        if !chosen.iter().any(reads)
            && let Some(unit) = untouched.iter().find(|unit| reads(unit))
        {
            chosen.push((*unit).clone());
        }
    }
    if chosen.is_empty() {
        return Ok(refusals);
    }
    let compiles = inputs::compile_units(bench, &chosen)?;
    let nothing = BTreeSet::new();
    for (index, original, patched) in &compiles.debug {
        let allowed = &bench.request.allow_layout_change;
        let replaced = Replaced { functions: &nothing, allowed, exported: &|_| false };
        let findings = types::check(&read_object(original)?, &read_object(patched)?, replaced)?;
        refusals.extend(findings.refusals.into_iter().map(|refusal| refusal.object(&chosen[*index].object)));
    }
    once_each(&mut refusals);
    Ok(refusals)
}

/// Whether types that running code or objects use have another layout.
pub(super) fn check(
    kernel: &Kernel,
    units: &[Unit],
    compiles: &Compiles,
    diffs: &[(usize, Diff<'_>)],
    request: &Request,
    report: &mut Report,
) -> Result<()> {
    for (index, original, patched) in &compiles.debug {
        let unit = &units[*index];
        let replaced =
            diffs.iter().find(|(at, _)| at == index).map(|(_, diff)| diff.replaced_names()).unwrap_or_default();
        let exported = |name: &str| kernel.symvers().get(name).is_some();
        let allowed = &request.allow_layout_change;
        let replaced = Replaced { functions: &replaced, allowed, exported: &exported };
        let findings = types::check(&read_object(original)?, &read_object(patched)?, replaced)
            .with_context(|| format!("failed to compare the types of `{}`", unit.source.display()))?;
        report.refusals.extend(findings.refusals.into_iter().map(|refusal| refusal.object(&unit.object)));
        report.warnings.extend(findings.warnings);
    }
    once_each(&mut report.refusals);
    Ok(())
}

/// Keeps one refusal for a type, the one that names most users: every unit says it of the users it sees.
fn once_each(refusals: &mut Vec<Refusal>) {
    let about = |r: &Refusal| (r.reason == Reason::LayoutChanged).then(|| r.symbol.clone());
    let mut longest: HashMap<_, usize> = HashMap::new();
    for refusal in refusals.iter() {
        if let Some(key) = about(refusal) {
            let length = longest.entry(key).or_default();
            *length = refusal.message.len().max(*length);
        }
    }
    refusals.retain(|refusal| match about(refusal).and_then(|key| longest.get_mut(&key)) {
        Some(length) if *length == refusal.message.len() => {
            *length = usize::MAX;
            true
        }
        Some(_) => false,
        None => true,
    });
}

//! Whose is that `count.3`? Asked of debug information where a static local with state is carried.
//!
//! In: the objects of such a comparison. Out: the comparison, made again with the functions that declare each static
//! local, and with their types. That costs two more compiles of a unit in which a function with such a variable changes;
//! debug information never changes the code, and is used only where the object that has it has the same variables.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::inputs::{self, Workbench};
use super::read_object;
use crate::diff::{self, Diff, Owners};
use crate::dwarf::locals;
use crate::elf::Object;
use crate::elf::object::stt;
use crate::kernel::unit::Unit;

/// The comparison without the doubt; nothing when debug information does not take it away.
pub(super) fn settle<'o>(
    bench: Workbench<'_>,
    unit: &Unit,
    (original, patched): (&'o Object, &'o Object),
    options: diff::Options,
) -> Result<Option<Diff<'o>>> {
    let compiles = inputs::compile_with_lines(bench, std::slice::from_ref(unit))?;
    let Some((_, before, after)) = compiles.debug.first() else { return Ok(None) };
    let (before, after) = (read_object(before)?, read_object(after)?);
    if variables(&before) != variables(original) || variables(&after) != variables(patched) {
        return Ok(None);
    }
    let owners = |object: &Object| {
        locals::owners(object)
            .with_context(|| format!("failed to read whose the static variables of `{}` are", unit.source.display()))
    };
    let (Some(before), Some(after)) = (owners(&before)?, owners(&after)?) else { return Ok(None) };
    Ok(Some(diff::diff_with_owners(original, patched, options, Some(Owners { original: &before, patched: &after }))?))
}

/// Names and sizes of all variables.
fn variables(object: &Object) -> BTreeSet<(&str, u64)> {
    object.symbols.iter().filter(|s| s.st_type == stt::OBJECT).map(|s| (s.name.as_str(), s.st_size)).collect()
}

//! What a module of kpatch-build patches: `.kpatch.funcs`, and a section for each kind of callback.
//!
//! In: the module. Out: objects, functions, callbacks; `None` where an entry is not what it should be. kpatch's patch hook makes the
//! real tables of them when the module is loaded. The entries have had two forms (before and since `sympos` came in between), and the
//! module does not say which: where its pointers are does, and what fits neither is not guessed. The older form was for kernels before
//! 4.5, which is out of reach.

use super::{CALLBACKS, Function, PatchedObject, Reader, id_is_code};
use crate::elf::SectionId;

/// Table of the functions.
pub(super) const FUNCTIONS: &str = ".kpatch.funcs";

/// Bytes of `new_addr, new_size, old_addr, old_size, sympos, name, objname`.
const FUNCTION: u64 = 56;
const SYMPOS: u64 = 32;
const NAME: u64 = 40;
const OBJECT: u64 = 48;

/// Bytes of the function and the name of its object.
const CALLBACK: u64 = 16;

/// The objects, in the order of their first entries.
pub(super) fn read(reader: &Reader<'_>, table: SectionId) -> Option<Vec<PatchedObject>> {
    let mut objects = Vec::new();
    for at in entries(reader, table, FUNCTION)? {
        let code = code(reader, table, at)?;
        let is_pointer = |offset: u64| reader.reloc((table, at + offset)).is_some();
        if (8..NAME).step_by(8).any(is_pointer) {
            return None;
        }
        let function = reader.text((table, at + NAME))?;
        let sympos = reader.value((table, at + SYMPOS), 8)?;
        let object = reader.text((table, at + OBJECT))?;
        of_name(&mut objects, object).functions.push(Function { function, sympos, code: Some(code) });
    }
    for kind in CALLBACKS {
        let Some(table) = reader.module.section_named(&format!(".kpatch.callbacks.{kind}")) else { continue };
        for at in entries(reader, table, CALLBACK)? {
            code(reader, table, at)?;
            let object = reader.text((table, at + 8))?;
            of_name(&mut objects, object).callbacks.push(kind.to_owned());
        }
    }
    Some(objects)
}

fn entries(reader: &Reader<'_>, table: SectionId, size: u64) -> Option<impl Iterator<Item = u64> + use<>> {
    let length = reader.module.section(table).sh_size;
    length.is_multiple_of(size).then(|| (0..length).step_by(size as usize))
}

/// What an entry begins with: the address of code.
fn code(reader: &Reader<'_>, table: SectionId, at: u64) -> Option<(SectionId, u64)> {
    reader.pointer((table, at)).filter(|(section, _)| id_is_code(reader.module, *section))
}

fn of_name(objects: &mut Vec<PatchedObject>, name: String) -> &mut PatchedObject {
    let found = objects.iter().position(|object| object.name == name).unwrap_or_else(|| {
        objects.push(PatchedObject { name, functions: Vec::new(), callbacks: Vec::new() });
        objects.len() - 1
    });
    &mut objects[found]
}

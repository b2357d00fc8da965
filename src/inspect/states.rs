//! The table of system states of a livepatch module, read without the kernel's headers.
//!
//! In: the module, the place of the table, its size. Out: id, version, callbacks and shadow variable of each state.
//! Hard because the size of an entry is the kernel's: mainline has `id, version, data` (include/linux/livepatch.h), kernels
//! with callbacks of states add five pointers and a flag. The table itself tells them apart: it ends with one entry of
//! zeroes, no entry before has the id 0, and what would be a pointer is one or is zero. What fits no size is not guessed.

use serde::Serialize;

use super::{At, Reader};
use crate::emit::states::MEMBERS;

/// A system state.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq)]
pub struct State {
    /// `id`.
    pub id: u64,
    /// `version`.
    pub version: u32,
    /// Whether it owns the shadow variable of the same id.
    pub shadow: bool,
    /// Members of `struct klp_state_callbacks` that are set, `shadow_dtor` among them.
    pub callbacks: Vec<String>,
}

impl State {
    /// Whether a livepatch can leave it out that replaces the one which has it: something undoes it
    /// (runtime/README.md, "What decides what").
    pub fn can_go(&self) -> bool {
        self.shadow || self.callbacks.iter().any(|name| name.ends_with("_unpatch"))
    }
}

/// Bytes of `id, version, data`.
const PLAIN: u64 = 24;
/// Bytes with callbacks behind that, and the flag.
const WITH_CALLBACKS: u64 = 72;

/// The states; `None` when the table is of no known form.
pub(super) fn read(reader: &Reader<'_>, at: At, size: u64) -> Option<Vec<State>> {
    [PLAIN, WITH_CALLBACKS].into_iter().find_map(|entry| entries(reader, at, size, entry))
}

fn entries(reader: &Reader<'_>, (section, start): At, size: u64, entry: u64) -> Option<Vec<State>> {
    if size < entry || !size.is_multiple_of(entry) {
        return None;
    }
    let last = start + size - entry;
    let mut states = Vec::new();
    for at in (start..last).step_by(entry as usize) {
        let value = |offset: u64| reader.value((section, at + offset), 8);
        let is_pointer = |offset: u64| reader.reloc((section, at + offset)).is_some();
        let (id, version) = (value(0)?, value(8)?);
        if id == 0 || is_pointer(0) || is_pointer(8) {
            return None;
        }
        let mut state = State { id, version: u32::try_from(version).ok()?, ..State::default() };
        if entry == WITH_CALLBACKS {
            for (i, member) in MEMBERS.iter().enumerate() {
                let offset = PLAIN + 8 * i as u64;
                match (is_pointer(offset), value(offset)?) {
                    (true, _) => state.callbacks.push((*member).to_owned()),
                    (false, 0) => {}
                    (false, _) => return None,
                }
            }
            state.shadow = match value(entry - 8)? {
                0 => false,
                1 => true,
                _ => return None,
            };
        }
        states.push(state);
    }
    let end_is_zero = (last..last + entry).step_by(8).all(|at| reader.value((section, at), 8) == Some(0));
    let end_is_plain = reader.relocs(section, last, last + entry).next().is_none();
    (end_is_zero && end_is_plain).then_some(states)
}

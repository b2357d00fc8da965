//! The system states that a patch declares with `templates/klp_build.h`.
//!
//! In: entries of `.discard.klp_states` on the patched side. Out: what goes into the `states` table of `struct klp_patch`
//! (Documentation/livepatch/system-state.rst). An entry is `struct klp_build_state`: eight words of 64 bits.

use std::collections::{BTreeMap, BTreeSet};

use crate::diff::atoms::{AtomId, Side, Target};
use crate::diff::closure::naming_offset;
use crate::elf::SymbolId;
use crate::error::{Reason, Refusal};
use crate::kernel::abi::Abi;

/// The section that holds declarations.
pub const SECTION: &str = ".discard.klp_states";

/// Bytes of an entry.
const ENTRY: u64 = 64;

/// Members that point to functions, by offset in an entry; the last is not a callback.
const FUNCTIONS: [(u64, &str); 5] =
    [(24, "pre_patch"), (32, "post_patch"), (40, "pre_unpatch"), (48, "post_unpatch"), (56, "shadow_dtor")];

/// Members of `struct klp_state_callbacks`, in its order.
pub const MEMBERS: [&str; 5] = [FUNCTIONS[0].1, FUNCTIONS[1].1, FUNCTIONS[2].1, FUNCTIONS[3].1, FUNCTIONS[4].1];

/// A state; `F` is how its functions are named: by symbol in a patch object, by label in the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State<F> {
    /// `id`.
    pub id: u64,
    /// `version`.
    pub version: u32,
    /// Whether it stands for the shadow variable of the same id.
    pub is_shadow: bool,
    /// Member of `struct klp_state_callbacks` -> function.
    pub functions: BTreeMap<&'static str, F>,
}

/// The states that the patched side declares; `symbol` gives the patch object's symbol of a carried function.
pub(super) fn declared(
    side: &Side<'_>,
    symbol: impl Fn(AtomId) -> Option<SymbolId>,
) -> (Vec<State<SymbolId>>, Vec<Refusal>) {
    let (mut states, mut refusals) = (Vec::new(), Vec::new());
    for id in side.ids().filter(|id| side.section_name(*id) == SECTION) {
        match state(side, id, &symbol) {
            Ok(state) => states.push(state),
            Err(what) => refusals.push(
                Refusal::new(
                    Reason::FormatRule,
                    format!("a declaration of a state is not understood: {what}"),
                    "declare states with KLP_STATE and KLP_SHADOW_STATE of <linux/klp_build.h> only",
                )
                .symbol(side.name(id)),
            ),
        }
    }
    (states, refusals)
}

fn state(side: &Side<'_>, id: AtomId, symbol: impl Fn(AtomId) -> Option<SymbolId>) -> Result<State<SymbolId>, String> {
    let atom = side.atom(id);
    if atom.end - atom.start != ENTRY {
        return Err(format!("it has {} bytes and not {ENTRY}", atom.end - atom.start));
    }
    let data = &side.object.section(atom.section).data;
    let word = |at: u64| -> Result<u64, String> {
        let start = (atom.start + at) as usize;
        let bytes = data.get(start..start + 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        let bytes = bytes.ok_or("it is cut short")?;
        Ok(if side.object.little_endian { u64::from_le_bytes(bytes) } else { u64::from_be_bytes(bytes) })
    };
    let mut functions = BTreeMap::new();
    for found in side.refs_of(id) {
        let at = found.reloc.r_offset - atom.start;
        let Some((_, member)) = FUNCTIONS.iter().find(|(offset, _)| *offset == at) else {
            return Err(format!("something other than a function is at byte {at}"));
        };
        // A function's name may stand behind padding that belongs to it.
        let Target::Atom(function, offset) = found.target else {
            return Err(format!("its {member} is not a function of the patched file"));
        };
        if !side.is_function(function) || offset != naming_offset(side, function) {
            return Err(format!("its {member} is not the start of a function"));
        }
        let symbol = symbol(function).ok_or(format!("its {member} is a function that the patch does not add"))?;
        functions.insert(*member, symbol);
    }
    let version = u32::try_from(word(8)?).map_err(|_| "its version has more than 32 bits".to_owned())?;
    Ok(State { id: word(0)?, version, is_shadow: word(16)? != 0, functions })
}

/// Why these states cannot be in one livepatch for this kernel.
pub fn refusals<F>(states: &[State<F>], abi: &Abi) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let mut lacks = |what: String, advice: &str| refusals.push(Refusal::new(Reason::KernelLacks, what, advice));
    if !states.is_empty() && !abi.states {
        lacks("the patch declares states, and this kernel's `struct klp_patch` has none".to_owned(), "leave them out");
    }
    for state in states {
        let callback = state.functions.keys().find(|member| **member != "shadow_dtor");
        if let Some(member) = callback.filter(|_| !abi.state_callbacks) {
            lacks(
                format!("state {} has a {member} callback, and this kernel's `struct klp_state` has none", state.id),
                "use the callbacks of the object (KLP_PRE_PATCH_CALLBACK and its like)",
            );
        }
        if state.is_shadow && !abi.state_shadow {
            lacks(
                format!("state {} owns a shadow variable, which this kernel's `struct klp_state` cannot", state.id),
                "use KLP_STATE, and free the shadow variable in a post-unpatch callback",
            );
        }
    }
    let mut seen = BTreeSet::new();
    for state in states.iter().filter(|state| !seen.insert(state.id)) {
        let message = format!("state {} is declared twice", state.id);
        refusals.push(Refusal::new(Reason::FormatRule, message, "give each state one declaration"));
    }
    refusals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::config::Config;

    fn said(header: &str, states: &[State<String>]) -> Vec<String> {
        let abi = Abi::parse(header, &Config::default()).expect("a header");
        refusals(states, &abi).into_iter().map(|refusal| refusal.message).collect()
    }

    fn state(id: u64, is_shadow: bool, member: Option<&'static str>) -> State<String> {
        let functions = member.into_iter().map(|member| (member, "f".to_owned())).collect();
        State { id, version: 1, is_shadow, functions }
    }

    /// A state the kernel cannot carry out is refused, not left out: its fix would be half there.
    #[test]
    fn what_a_kernel_cannot_do() {
        let old = "struct klp_patch { bool replace; };";
        let plain = "struct klp_patch { struct klp_state *states; }; struct klp_state { unsigned long id; };";
        let full = "struct klp_patch { struct klp_state *states; }; \
                    struct klp_state { unsigned long id; struct klp_state_callbacks callbacks; bool is_shadow; };";
        let wanted = [state(7, true, Some("pre_patch"))];
        assert_eq!(said(full, &wanted), [""; 0]);
        assert_eq!(said(plain, &[state(7, false, None)]), [""; 0]);
        assert_eq!(
            said(plain, &wanted),
            [
                "state 7 has a pre_patch callback, and this kernel's `struct klp_state` has none",
                "state 7 owns a shadow variable, which this kernel's `struct klp_state` cannot",
            ]
        );
        let text = "the patch declares states, and this kernel's `struct klp_patch` has none";
        assert_eq!(said(old, &[state(7, false, None)]), [text]);
        assert_eq!(said(full, &[state(7, false, None), state(7, true, None)]), ["state 7 is declared twice"]);
    }
}

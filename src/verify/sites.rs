//! Places of a unit that the kernel rewrites at boot or later, as the unit's own tables list them.
//!
//! In: a unit's atoms. Out: jump labels, alternatives with their replacements, lock prefixes, paravirtual calls and
//! boot-time constants, by place. The image's tables of these lie in memory that is freed after boot; the unit's are the
//! same before the link, and they are what the source says.

use std::collections::{HashMap, HashSet};

use crate::diff::atoms::{AtomId, Kind, Side, Target};
use crate::diff::special::{Rule, rule};
use crate::elf::SectionId;

/// A place of a section.
pub(super) type Spot = (SectionId, u64);

/// An alternative: instructions, and what may be put over them.
#[derive(Debug, Default)]
pub(super) struct Alternative {
    /// Bytes that are replaced.
    pub(super) length: u64,
    /// Where the replacements lie: section, first byte, one past the last.
    pub(super) replacements: Vec<(SectionId, u64, u64)>,
}

/// A constant that boot patches into code (x86 `asm/runtime-const.h`).
#[derive(Debug)]
pub(super) struct Constant {
    /// The variable that holds the value.
    pub(super) name: String,
    /// Bytes of the instruction that hold it.
    pub(super) size: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Sites {
    /// Jump labels: where the instruction leads when taken.
    pub(super) jump_labels: HashMap<Spot, Option<Target>>,
    /// Alternatives by where they start.
    pub(super) alternatives: HashMap<Spot, Alternative>,
    /// Lock prefixes, which a kernel with one processor makes others.
    pub(super) locks: HashSet<Spot>,
    /// Indirect calls that boot makes direct (`.parainstructions`, before 6.8).
    pub(super) paravirt: HashSet<Spot>,
    /// Boot-time constants.
    pub(super) constants: HashMap<Spot, Constant>,
}

impl Sites {
    pub(super) fn of(side: &Side<'_>) -> Sites {
        let mut sites = Sites::default();
        for id in side.ids().filter(|id| side.atom(*id).kind == Kind::Entry) {
            let name = side.section_name(id);
            match name {
                "__jump_table" => {
                    if let Some(spot) = spot(side, id, 0) {
                        sites.jump_labels.insert(spot, side.refs_of(id).get(1).map(|r| r.target));
                    }
                }
                ".altinstructions" => sites.alternative(side, id),
                ".smp_locks" => sites.locks.extend(spot(side, id, 0)),
                ".parainstructions" => sites.paravirt.extend(spot(side, id, 0)),
                _ if rule(name) == Some(Rule::RuntimeConst) => {
                    // Masks (another architecture's) have no value that can be checked here.
                    let kind = [("runtime_ptr_", 8), ("runtime_shift_", 1)]
                        .iter()
                        .find_map(|(prefix, size)| Some((name.strip_prefix(prefix)?, *size)));
                    if let (Some(spot), Some((variable, size))) = (spot(side, id, 0), kind) {
                        sites.constants.insert(spot, Constant { name: variable.to_owned(), size });
                    }
                }
                _ => {}
            }
        }
        sites
    }

    /// struct alt_instr (arch/x86/include/asm/alternative.h): where, what instead, feature; its last two bytes are the
    /// lengths of the instructions and of their replacement. Several may speak about one place: the longest counts
    /// (`apply_alternatives`).
    fn alternative(&mut self, side: &Side<'_>, id: AtomId) {
        let (Some(spot_of), [.., length, replaced]) = (spot(side, id, 0), side.bytes(id)) else { return };
        let entry = self.alternatives.entry(spot_of).or_default();
        entry.length = entry.length.max(u64::from(*length));
        if let Some((section, at)) = spot(side, id, 1) {
            entry.replacements.push((section, at, at + u64::from(*replaced)));
        } else if *replaced == 0 {
            entry.replacements.push((side.atom(id).section, 0, 0));
        }
    }

    /// Whether something in this range of a section is rewritten at boot.
    pub(super) fn any(&self, section: SectionId, from: u64, to: u64) -> bool {
        self.jump_labels.keys().any(|(s, at)| *s == section && (from..to).contains(at))
            || self.alternatives.iter().any(|((s, at), a)| *s == section && *at < to && from < at + a.length)
    }
}

/// The place that the n-th relocation of an entry means.
pub(super) fn spot(side: &Side<'_>, id: AtomId, index: usize) -> Option<Spot> {
    match side.refs_of(id).get(index)?.target {
        Target::Atom(code, offset) => {
            let atom = side.atom(code);
            Some((atom.section, atom.start.wrapping_add_signed(offset)))
        }
        _ => None,
    }
}

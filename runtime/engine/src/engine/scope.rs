// SPDX-License-Identifier: GPL-2.0-only
//! What a patch replaces.
//!
//! In: the scope of a new patch and that of an enabled one. Out: whether the new one takes the other's place. Everything
//! that asks this question asks it here, so that stock kernels (a boolean) and kernels with sets (a number) share one
//! engine.

/// The enabled patches that a patch replaces when its transition is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// None: it stacks on top of them (`replace = false`).
    Nothing,
    /// All of them (`replace = true`).
    Everything,
    /// Those of its own set.
    Set(u32),
}

impl Scope {
    /// Whether a new patch of this scope replaces an enabled one of scope `other`.
    pub fn covers(self, other: Scope) -> bool {
        match self {
            Scope::Nothing => false,
            Scope::Everything => true,
            Scope::Set(_) => self == other,
        }
    }

    /// Whether the two live in different sets, and so must not touch the same things.
    pub fn apart(self, other: Scope) -> bool {
        matches!((self, other), (Scope::Set(a), Scope::Set(b)) if a != b)
    }

    /// Whether a patch of this scope may replace anything at all.
    pub fn replaces(self) -> bool {
        self != Scope::Nothing
    }
}

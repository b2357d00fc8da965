// SPDX-License-Identifier: GPL-2.0-only
//! The state machine behind live patching.
//!
//! In: requests (enable, disable, force, a module comes or goes) made by the holder of the one livepatch lock, and calls
//! from the paths of every task (a patched function is entered, a task leaves the kernel, sleeps, forks). Out: calls on a
//! [`Platform`], the only thing the engine knows of a kernel. Hard because the two sides meet without a lock: what the
//! lock holder writes and in which order is all that keeps a task from seeing half a patch.
//!
//! | file | owns |
//! |---|---|
//! | `scope` | which enabled patches a new one replaces |
//! | `platform` | the traits, handles and words shared with a kernel |
//! | `handler` | the way into a patched function |
//! | `task` | what a task does for itself: switch, inherit |
//! | `transition` | moving every task from one side to the other |
//! | `ranges` | which addresses must not be on a stack, sorted |
//! | `stack` | putting functions on their stacks and taking them off |
//! | `patch` | enable, disable, replace, retire |
//! | `compat` | which patches may be enabled together |
//! | `state` | the life of system states and their callbacks |
//! | `module` | patched modules that come and go |
//! | `shadow` | get-or-allocate of shadow variables |
//! | `names` | livepatch symbol and section names, symbol positions |

mod compat;
mod handler;
mod module;
mod names;
mod patch;
mod platform;
mod ranges;
mod scope;
mod shadow;
mod stack;
mod state;
mod task;
mod transition;

pub use handler::{redirect, Redirect};
pub use names::{parse_section, parse_symbol, Missing, Search, SymbolName};
pub use patch::Rejected;
pub use platform::{Anomaly, Errno, Event, Fill, Hook, Idle, Look, Platform, Side, Stuck};
pub use ranges::{RangeTable, Span, Unsafe};
pub use scope::Scope;
pub use shadow::{get_or_alloc, Existing, Shadows};
pub use task::{inherit, switch_self, Tasks};
pub use transition::{Engine, Move, Phase};

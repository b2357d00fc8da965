// SPDX-License-Identifier: GPL-2.0-only
//! A kernel made of numbers, for the engine to work on.
//!
//! In: patches, modules and tasks as plain data. Out: a [`World`] that can be cloned, compared and hashed, and that panics
//! when the engine breaks a rule: memory used after it was freed, freed while a handler may hold it, a task walk that
//! touches a task it may not. Hard because the engine's calls are where other tasks run: [`Sim::tick`] lets them, at
//! every call, when a test asks for it.
// Each test uses a part of it.
#![allow(dead_code, unused_imports, unreachable_pub)]

mod invariants;
mod platform;
mod steps;
mod view;
mod world;

pub use invariants::check;
pub use steps::{Random, Sim};
pub use world::*;

// SPDX-License-Identifier: GPL-2.0-only
//! The livepatch engine as a cargo crate.
//!
//! In: nothing but the files of `engine/`, which kbuild compiles too. Out: the same engine for tests on a simulated
//! kernel. Hard because one source has two roots: crate attributes live here, never in `engine/`, and `engine/` names its
//! own parts with `super::` only.
#![no_std]
#![forbid(unsafe_code)]

mod engine;

pub use engine::*;

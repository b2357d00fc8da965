//! The plan -> a loadable module.

pub mod finish;
pub mod init;
pub mod link;
pub mod patch_object;
pub mod plan;
pub mod readback;
pub mod sign;
pub mod states;

pub use patch_object::{Callback, PatchObject, Replacement};

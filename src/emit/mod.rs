//! The plan -> a loadable module.

pub mod finish;
pub mod init;
pub mod link;
pub mod object;
pub mod plan;
pub mod readback;
pub mod sign;

pub use object::{Callback, PatchObject, Replacement};

//! What debug information says: types and source lines. Pure; the only folder that names the DWARF crates.
//!
//! In: objects compiled with `-g`. Out: types with another layout on the two sides ([`types`]), the source
//! lines of a place in the code ([`lines`]), and whose a static local is ([`locals`]).

mod alignment;
mod changes;
mod enums;
mod info;
mod judge;
mod layout;
pub mod lines;
pub mod locals;
mod means;
mod prototypes;
pub mod types;
mod uses;
mod variables;

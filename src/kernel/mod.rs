//! What the kernel is: source, build directory, configuration, exports, symbols, compile commands.

pub mod abi;
pub mod cmd;
pub mod codec;
pub mod compiler;
pub mod config;
pub mod configured;
pub mod elf_table;
pub mod generated;
pub mod image;
pub mod kallsyms_image;
pub mod kcore;
mod links;
pub mod locate;
mod lzop;
mod module_files;
mod not_built;
pub mod open;
pub mod parts;
mod release;
pub mod running;
#[cfg(test)]
mod samples;
mod shadows;
mod single_units;
pub mod symtab;
pub mod symvers;
pub mod text_table;
pub mod tree;
pub mod trees;
pub mod unit;
pub mod units;

pub use open::KernelRequest;
pub use tree::Kernel;

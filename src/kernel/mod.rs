//! What the kernel is: source, build directory, configuration, exports, symbols, compile commands.

pub mod abi;
pub mod cmd;
pub mod codec;
pub mod config;
pub mod elf_table;
pub mod symtab;
pub mod symvers;
pub mod text_table;
pub mod unit;

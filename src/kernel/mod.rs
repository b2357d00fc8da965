//! What the kernel is: source, build directory, configuration, exports, symbols, compile commands.

pub mod symtab;
pub mod symvers;
pub mod unit;

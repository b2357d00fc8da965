//! Commands over a small made-up kernel: texts, exit statuses, and what is left behind.

#[path = "../support/small_kernel.rs"]
mod small_kernel;

mod check;
mod headers;
mod keyboard;
mod layouts;
mod runs;
mod world;

use snapbox::cmd::{Command, cargo_bin};

/// The program, with texts in English and without colours.
fn klp_build() -> Command {
    Command::new(cargo_bin!("klp-build")).env("LC_ALL", "C")
}

//! The program: everything is in the library.

#![forbid(unsafe_code)]

/// A whole `vmlinux.o` is a million small pieces of memory: a fifth of the time to compare two went into them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    klp_build::cli::main()
}

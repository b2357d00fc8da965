//! `klp-build completions SHELL`: completion scripts and the manual page, made from the definition itself.

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{definition, status};

/// For what.
#[derive(Debug, Args)]
pub(super) struct Opts {
    /// The shell, or `man` for the manual page.
    target: Target,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
    Man,
}

/// Prints the script or page.
pub(super) fn run(opts: &Opts) -> Result<u8> {
    use clap_complete::Shell;
    let shell = match opts.target {
        Target::Bash => Shell::Bash,
        Target::Elvish => Shell::Elvish,
        Target::Fish => Shell::Fish,
        Target::Powershell => Shell::PowerShell,
        Target::Zsh => Shell::Zsh,
        Target::Man => {
            clap_mangen::Man::new(definition()).render(&mut std::io::stdout())?;
            return Ok(status::DONE);
        }
    };
    clap_complete::generate(shell, &mut definition(), "klp-build", &mut std::io::stdout());
    Ok(status::DONE)
}

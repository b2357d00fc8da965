//! `klp-build completions SHELL`: completion scripts and the manual page, made from the definition itself.

use anyhow::Result;
use clap::{Args, Command, ValueEnum};

use super::{definition, put, status};

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
            put(&page()?)?;
            return Ok(status::DONE);
        }
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut offered(&definition()), "klp-build", &mut script);
    put(&script)?;
    Ok(status::DONE)
}

/// The definition without what is hidden: the generators would offer that, too.
fn offered(command: &Command) -> Command {
    // clap wants names that last; the process ends soon.
    let name: &'static str = command.get_name().to_owned().leak();
    let mut out = Command::new(name).disable_version_flag(true).subcommand_negates_reqs(true);
    out = out.args_conflicts_with_subcommands(command.is_args_conflicts_with_subcommands_set());
    if let Some(about) = command.get_about() {
        out = out.about(about.clone());
    }
    if command.get_version().is_some() {
        out = out.version(env!("CARGO_PKG_VERSION"));
    }
    out.args(command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned())
        .subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()).map(offered))
}

/// One page with all subcommands: there is no other that it could refer to.
fn page() -> std::io::Result<Vec<u8>> {
    let mut command = offered(&definition());
    command.build();
    let mut out = Vec::new();
    let main = clap_mangen::Man::new(command.clone());
    main.render_title(&mut out)?;
    main.render_name_section(&mut out)?;
    main.render_synopsis_section(&mut out)?;
    main.render_description_section(&mut out)?;
    main.render_options_section(&mut out)?;
    sections(&command, &mut out)?;
    clap_mangen::Man::new(definition()).render_extra_section(&mut out)?;
    main.render_version_section(&mut out)?;
    Ok(out)
}

/// A section for each subcommand, whose own sections are below it.
fn sections(command: &Command, out: &mut Vec<u8>) -> std::io::Result<()> {
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let name = inner.get_bin_name().unwrap_or(inner.get_name());
        let man = clap_mangen::Man::new(inner.clone());
        let mut text = Vec::new();
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        man.render_options_section(&mut text)?;
        let text = String::from_utf8_lossy(&text).replace(".SH ", ".SS ");
        out.extend(format!(".SH \"{}\"\n{text}", name.to_uppercase()).into_bytes());
        sections(inner, out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is hidden is not offered, and the page refers to none that is not there.
    #[test]
    fn only_what_there_is() {
        let mut script = Vec::new();
        clap_complete::generate(clap_complete::Shell::Bash, &mut offered(&definition()), "klp-build", &mut script);
        let script = String::from_utf8(script).unwrap();
        let page = String::from_utf8(page().unwrap()).unwrap();
        for hidden in ["snapshot", "no-link", "no\\-link"] {
            assert!(!script.contains(hidden) && !page.contains(hidden), "{hidden}");
        }
        assert!(script.contains("--no-verify") && script.contains("--carry-tables"));
        assert!(!page.contains("(1)\n"), "{page}");
        assert!(page.contains("KLP-BUILD CACHE PRUNE") && page.contains("symvers") && page.contains("Exit status"));
    }
}

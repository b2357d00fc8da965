//! The macros that a compiler has before it reads anything.
//!
//! In: commands. Out: their definitions, as text. Hard only because they depend on the target, the language and what code is made (`-m32`,
//! `-std`, `-O2`, `-fsanitize`): the compiler is asked once for each set of such options, of which a kernel has a few dozen.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use rayon::prelude::*;

use super::command::{TAKES_VALUE, without_outputs};
use super::run;

/// What these commands' compilers define; `None` when one of them does not say.
pub(super) fn texts<'a>(commands: impl Iterator<Item = &'a [String]>, cwd: &Path) -> Option<Vec<Vec<u8>>> {
    let sets: Option<BTreeSet<Vec<String>>> = commands.map(deciding).collect();
    let sets: Vec<Vec<String>> = sets?.into_iter().collect();
    let ask = |set: &Vec<String>| {
        let mut command = Command::new(set.first()?);
        command.args(&set[1..]).args(["-dM", "-E", "-x", "c", "/dev/null"]);
        let output = run::output(command.current_dir(cwd).env("LC_ALL", "C")).ok()?;
        output.status.success().then_some(output.stdout)
    };
    sets.par_iter().map(ask).collect()
}

/// The compiler, with the options that decide what it defines.
fn deciding(command: &[String]) -> Option<Vec<String>> {
    let options = command.iter().position(|argument| argument.starts_with('-')).unwrap_or(command.len());
    let command = without_outputs(command).ok()?;
    let mut out = command[..options].to_vec();
    let mut arguments = command[options..].iter();
    while let Some(argument) = arguments.next() {
        const WITH_VALUE: [&str; 3] = ["-target", "-arch", "-Xclang"];
        const WHOLE: [&str; 4] = ["-ansi", "-undef", "-trigraphs", "-pthread"];
        const BEGIN: [&str; 6] = ["-m", "-f", "-O", "-std", "--std", "--target="];
        // They name files of one unit, and define nothing.
        const NOTHING: [&str; 3] = ["-fmacro-prefix-map=", "-fdebug-prefix-map=", "-ffile-prefix-map="];
        let begins = |with: &[&str]| with.iter().any(|option| argument.starts_with(option));
        if TAKES_VALUE.contains(&argument.as_str()) {
            let value = arguments.next();
            if WITH_VALUE.contains(&argument.as_str()) {
                out.push(argument.clone());
                out.extend(value.cloned());
            }
        } else if WHOLE.contains(&argument.as_str()) || (begins(&BEGIN) && !begins(&NOTHING)) {
            out.push(argument.clone());
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &str) -> Vec<String> {
        command.split(' ').map(String::from).collect()
    }

    /// Only what decides; so that units of one kind are asked about once.
    #[test]
    fn options() {
        let of = |command: &str| deciding(&words(command)).unwrap().join(" ");
        let command = "gcc -Wp,-MMD,fs/.x.d -nostdinc -I./include -include a.h -D __KERNEL__ -DX=1 -fmacro-prefix-map=/a= \
                       -std=gnu11 -Wall -O2 -m64 -fno-pie -g -c -o fs/x.o fs/x.c";
        assert_eq!(of(command), "gcc -std=gnu11 -O2 -m64 -fno-pie");
        assert_eq!(
            of("ccache clang --target=x86_64-linux-gnu -Xclang -fx x.c"),
            "ccache clang --target=x86_64-linux-gnu -Xclang -fx"
        );
    }

    /// What the options make of it; a compiler that does not answer leaves all open.
    #[test]
    fn defined() {
        let text = |commands: &[&str]| {
            let commands: Vec<Vec<String>> = commands.iter().map(|command| words(command)).collect();
            let texts = texts(commands.iter().map(Vec::as_slice), Path::new("/"))?;
            Some(texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect::<Vec<_>>())
        };
        let texts = text(&["gcc -O2 -c a.c", "gcc -c b.c -O2", "gcc -O0 -c c.c"]).unwrap();
        assert_eq!(texts.len(), 2);
        assert!(texts.iter().all(|text| text.contains("#define __SIZEOF_LONG__ ")));
        assert_eq!(texts.iter().filter(|text| text.contains("#define __OPTIMIZE__ 1\n")).count(), 1);
        assert_eq!(text(&["gcc -c a.c", "gcc -fno-such-option -c b.c"]), None);
    }
}

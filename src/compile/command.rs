//! kbuild's compile command -> ours: same code, other outputs.
//!
//! In: a unit's argument vector. Out: the same without what it writes, ready to be given an output of ours.
//! Hard because a compiler writes more than `-o`: dependency files, stack usage, call graphs, dumps, saved
//! temporaries, some of them into the working directory, which is the user's build tree. Whatever writes
//! something is taken out; what cannot be taken out without changing the code is an error.

use std::path::Path;

use anyhow::{Result, bail};

/// Options whose value is the next argument.
pub(super) const TAKES_VALUE: &[&str] = &[
    "-include",
    "-imacros",
    "-isystem",
    "-iquote",
    "-idirafter",
    "-iprefix",
    "-iwithprefix",
    "-iwithprefixbefore",
    "-isysroot",
    "-I",
    "-D",
    "-U",
    "-x",
    "-Xclang",
    "-Xpreprocessor",
    "-Xassembler",
    "-Xlinker",
    "-mllvm",
    "-arch",
    "-target",
    "--param",
    "-T",
    "-L",
    "-l",
    "-B",
    "-A",
    "-z",
    "-u",
];

/// Options that only write something, dropped with the next argument.
const WRITES_NEXT: &[&str] = &["-o", "-MF", "-MT", "-MQ", "-MJ", "-aux-info", "-dumpdir", "-dumpbase", "-dumpbase-ext"];

/// Options that only write something, or say how far to go.
const WRITES: &[&str] =
    &["-c", "-S", "-E", "-M", "-MM", "-MD", "-MMD", "-MP", "-MG", "-fstack-usage", "-gsplit-dwarf", "-P"];

/// The same, by how they begin.
const WRITES_PREFIX: &[&str] = &[
    "-save-temps",
    "--save-temps",
    "-fdump-",
    "-fcallgraph-info",
    "-ftime-trace",
    "-fopt-info",
    "-fsave-optimization-record",
    "-foptimization-record-file",
    "-fdiagnostics-format",
    "-MF",
    "-MT",
    "-MQ",
    "-o",
    "-auxbase",
];

/// Options that put a counter file's name into the object, and counters into the code.
const COVERAGE: &[&str] = &["--coverage", "-coverage", "-fprofile-arcs", "-ftest-coverage", "-fprofile-generate"];

/// Where functions and data get sections of their own, so that they can be compared one by one.
const SECTIONS: &[&str] = &["-ffunction-sections", "-fdata-sections"];

/// Debug information in one form, of every type, in the object itself and not packed.
pub(super) const DEBUG: [&str; 3] = ["-gdwarf-5", "-fno-eliminate-unused-debug-types", "-gz=none"];

/// The command without outputs: what it is in the cache's eyes.
pub fn without_outputs(command: &[String]) -> Result<Vec<String>> {
    let mut out: Vec<String> = Vec::with_capacity(command.len());
    let mut args = command.iter();
    out.extend(args.next().cloned());
    while let Some(arg) = args.next() {
        if let Some(option) = COVERAGE.iter().find(|option| arg.starts_with(**option)) {
            bail!("the unit is compiled for coverage (`{option}`): its counters cannot be livepatched");
        }
        if TAKES_VALUE.contains(&arg.as_str()) {
            out.push(arg.clone());
            out.extend(args.next().cloned());
        } else if WRITES_NEXT.contains(&arg.as_str()) {
            args.next();
        } else if let Some(list) = arg.strip_prefix("-Wp,") {
            let kept = preprocessor(list);
            if !kept.is_empty() {
                out.push(format!("-Wp,{}", kept.join(",")));
            }
        } else if !WRITES.contains(&arg.as_str()) && !WRITES_PREFIX.iter().any(|prefix| arg.starts_with(prefix)) {
            out.push(arg.clone());
        }
    }
    Ok(out)
}

/// `-Wp,-MMD,fs/.x.o.d` and the like: what is left when dependency output is taken out.
fn preprocessor(list: &str) -> Vec<&str> {
    let mut kept = Vec::new();
    let mut items = list.split(',').peekable();
    while let Some(item) = items.next() {
        match item {
            "-MD" | "-MMD" => {
                items.next_if(|next| !next.starts_with('-'));
            }
            "-MF" | "-MT" | "-MQ" => {
                items.next();
            }
            "-M" | "-MM" | "-MP" | "-MG" => {}
            _ => kept.push(item),
        }
    }
    kept
}

/// Preprocess to stdout, with line markers; dependencies, system headers too, to `deps`.
pub fn preprocess(base: &[String], deps: &Path) -> Vec<String> {
    with(base, &["-E", "-MD", "-MF"], &[deps])
}

/// Compile to `object`; dependencies to `deps`.
pub fn compile(base: &[String], object: &Path, deps: &Path) -> Vec<String> {
    let mut args = with(base, SECTIONS, &[]);
    args.extend(with(&[], &["-MD", "-MF"], &[deps]));
    args.extend(with(&[], &["-c", "-o"], &[object]));
    args
}

fn with(base: &[String], options: &[&str], paths: &[&Path]) -> Vec<String> {
    let options = options.iter().map(|option| option.to_string());
    base.iter().cloned().chain(options).chain(paths.iter().map(|path| path.display().to_string())).collect()
}

/// Index of the main source in a command: its only argument that is neither an option nor an option's value.
pub(super) fn source_index(command: &[String]) -> Option<usize> {
    let mut found = None;
    let mut at = command.iter().position(|arg| arg.starts_with('-'))?;
    while at < command.len() {
        let arg = command[at].as_str();
        if TAKES_VALUE.contains(&arg) || WRITES_NEXT.contains(&arg) {
            at += 1;
        } else if !arg.starts_with('-') {
            found = Some(at);
        }
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    /// Everything that writes is gone; everything that shapes the code is still there, in its order.
    #[test]
    fn outputs() {
        let command = "gcc -Wp,-MMD,fs/.x.o.d -Wp,-MD,a,-DX=1 -nostdinc -I ./include -include ./a.h -O2 -save-temps=obj \
            -fstack-usage -MT x -MF y -MFz -MP -gsplit-dwarf -dumpdir q -pg -c -o fs/x.o -fdump-tree-all fs/x.c";
        let base = without_outputs(&words(command)).unwrap();
        assert_eq!(base.join(" "), "gcc -Wp,-DX=1 -nostdinc -I ./include -include ./a.h -O2 -pg fs/x.c");
        let compiled = compile(&base, Path::new("/w/x.o"), Path::new("/w/x.d")).join(" ");
        assert!(compiled.ends_with("fs/x.c -ffunction-sections -fdata-sections -MD -MF /w/x.d -c -o /w/x.o"));
        assert_eq!(source_index(&words(command)), Some(words(command).len() - 1));
        assert_eq!(source_index(&words("ccache gcc -c x.c -o x.o -D Y")), Some(3));
    }

    /// Coverage changes the code and names its output in the object: no silent stripping.
    #[test]
    fn coverage() {
        assert!(without_outputs(&words("gcc -fprofile-arcs -c x.c")).unwrap_err().to_string().contains("coverage"));
    }
}

//! Tests of line keeping; gcc's own preprocessor is the reference.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

fn strip(text: &[u8]) -> Vec<u8> {
    split(text).into_iter().filter(|line| !line.starts_with(b"#line ")).flatten().collect()
}

/// The text with a mark and `__LINE__` at the end of every line that can carry one: a line whose text is in
/// `marks`, outside comments, continued lines, calls and directives. `numbers`: old line of each line.
fn marked(text: &[u8], numbers: &[Option<usize>]) -> Vec<u8> {
    let starts = line_starts(text);
    let lines = split(text);
    let mut out = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let body = line.strip_suffix(b"\n").unwrap_or(line);
        let whole = starts[at].safe && starts.get(at + 1).is_none_or(|next| next.safe);
        let directive = body.trim_ascii_start().starts_with(b"#");
        out.extend_from_slice(body);
        if let Some(number) = numbers[at]
            && whole
            && !directive
            && !body.windows(2).any(|two| two == b"//" || two == b"/*")
        {
            out.extend_from_slice(format!(" BEGIN {number} __LINE__ END").as_bytes());
        }
        out.push(b'\n');
    }
    out
}

/// What gcc's preprocessor makes of it.
fn preprocessed(text: &[u8], defines: &[&str]) -> Result<String, String> {
    let mut gcc = Command::new("gcc")
        .args(["-E", "-P", "-w", "-x", "c"])
        .args(defines)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("gcc is needed for this test");
    let mut stdin = gcc.stdin.take().expect("piped");
    let input = text.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = gcc.wait_with_output().expect("gcc runs");
    writer.join().expect("no panic").expect("gcc reads");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("{errors}\n{}", String::from_utf8_lossy(text)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Checks that the directives leave the code what it is, with a macro `call`.
fn check_code(original: &[u8], patched: &[u8], defines: &[&str]) {
    let tokens = |text: &[u8]| {
        let text = preprocessed(text, &[defines, &["-Dcall(x)=CALLED x"]].concat()).unwrap();
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(tokens(&keep_line_numbers(original, patched)), tokens(patched), "{}", text(patched));
}

/// Old line number -> what gcc says `__LINE__` is there.
fn reported(text: &[u8], defines: &[&str]) -> Result<BTreeMap<usize, usize>, String> {
    let words = preprocessed(text, defines)?;
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut found = BTreeMap::new();
    for four in words.windows(4) {
        if let ["BEGIN", number, line, "END"] = four {
            found.insert(number.parse().expect("a mark"), line.parse().expect("a line"));
        }
    }
    Ok(found)
}

/// Checks a pair: nothing but directives added, and all marked unchanged lines keep their numbers.
fn check(original: &[u8], patched: &[u8], defines: &[&[&str]]) -> Vec<u8> {
    try_check(original, patched, defines).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The same; an error when gcc does not take the text.
fn try_check(original: &[u8], patched: &[u8], defines: &[&[&str]]) -> Result<Vec<u8>, String> {
    let kept = keep_line_numbers(original, patched);
    assert_eq!(strip(&kept), patched, "only directives may be added");
    // Match the kept text's lines to the original's the way the code does, directives left out.
    let (old, new) = (split(original), split(patched));
    let mut twins = vec![None; new.len()];
    for op in similar::capture_diff_slices(Algorithm::Myers, &old, &new) {
        if let DiffOp::Equal { old_index, new_index, len } = op {
            (0..len).for_each(|step| twins[new_index + step] = Some(old_index + step + 1));
        }
    }
    let mut plain = twins.iter().copied();
    let numbers: Vec<Option<usize>> = split(&kept)
        .iter()
        .map(|line| if line.starts_with(b"#line ") { None } else { plain.next().flatten() })
        .collect();
    for set in defines {
        for (number, line) in reported(&marked(&kept, &numbers), set)? {
            assert_eq!(number, line, "with {set:?}:\n{}", String::from_utf8_lossy(&kept));
        }
    }
    Ok(kept)
}

fn text(kept: &[u8]) -> String {
    String::from_utf8_lossy(kept).into_owned()
}

/// The simple case: one directive after the change, none where nothing shifts.
#[test]
fn one_directive() {
    assert_eq!(text(&check(b"a;\nb;\nc;\n", b"a;\nx;\ny;\nb;\nc;\n", &[&[]])), "a;\nx;\ny;\n#line 2\nb;\nc;\n");
    assert_eq!(text(&check(b"a;\nb;\nc;\n", b"a;\nB;\nc;\n", &[&[]])), "a;\nB;\nc;\n");
    assert_eq!(text(&check(b"a;\nb;\nc;\n", b"a;\nb;\n", &[&[]])), "a;\nb;\n");
}

/// Upstream's script loses the directive when a change ends inside a block comment: all numbers below shift.
#[test]
fn change_in_a_comment() {
    let kept = check(b"/*\n * a\n * b\n */\nint x;\n", b"/*\n * a\n * new\n * b\n */\nint x;\n", &[&[]]);
    assert_eq!(text(&kept), "/*\n * a\n * new\n * b\n */\n#line 5\nint x;\n");
}

/// Upstream's script puts the directive into a macro's body, which does not compile.
#[test]
fn change_in_a_macro() {
    let kept = check(
        b"#define F(x) \\\n\tone(x); \\\n\ttwo(x)\nint x;\nF(1);\n",
        b"#define F(x) \\\n\tone(x); \\\n\tmore(x); \\\n\ttwo(x)\nint x;\nF(1);\n",
        &[&[]],
    );
    assert!(text(&kept).contains("two(x)\n#line 4\nint x;"));
}

/// A directive among the arguments of a macro call is undefined in C: it waits for the end of the call.
#[test]
fn change_in_a_call() {
    let kept = check(b"F(a,\n  b);\nint x;\n", b"F(a,\n  new,\n  b);\nint x;\n", &[&[]]);
    assert_eq!(text(&kept), "F(a,\n  new,\n  b);\n#line 3\nint x;\n");
}

/// Between a macro's name and its parenthesis a directive would end the search for it, and the macro would not be expanded.
#[test]
fn change_before_a_parenthesis() {
    let original = b"int y = call\n\n\t/* why */\n\t(x);\nint z;\n";
    let patched = b"int new;\nint y = 1 + call\n\n\t/* why */\n\t(x);\nint z;\n";
    let kept = check(original, patched, &[&[]]);
    assert_eq!(text(&kept), text(patched).replace("int z", "#line 5\nint z"));
    check_code(original, patched, &[]);
    // What begins with one after the end of a statement is no call.
    let kept = check(b"a;\n(void)b;\nc;\n", b"a;\nnew;\n(void)b;\nc;\n", &[&[]]);
    assert_eq!(text(&kept), "a;\nnew;\n#line 2\n(void)b;\nc;\n");
}

/// A removed line that starts with `-- ` looks like a file header to upstream's script; here texts are compared.
#[test]
fn removed_decrement() {
    let kept = check(b"int x;\n-- y;\nint z;\n", b"int x;\nint z;\n", &[&[]]);
    assert_eq!(text(&kept), "int x;\n#line 3\nint z;\n");
}

/// A directive in a skipped group is not seen, but shifts what follows: another one is due after the group.
#[test]
fn conditional_groups() {
    let original = b"a;\n#ifdef X\nb;\nc;\n#else\nd;\n#endif\ne;\n";
    let patched = b"a;\n#ifdef X\nnew;\nb;\nc;\n#else\nd;\n#endif\ne;\n";
    let kept = check(original, patched, &[&[], &["-DX"]]);
    assert_eq!(text(&kept), "a;\n#ifdef X\nnew;\n#line 3\nb;\nc;\n#else\n#line 6\nd;\n#endif\n#line 8\ne;\n");
    let nested = b"#if A\n#if B\nx;\n#elif C\ny;\n#endif\nz;\n#endif\nw;\n";
    let changed = b"#if A\n#if B\nnew;\nx;\n#elif C\ny;\n#endif\nz;\n#endif\nw;\n";
    check(nested, changed, &[&[], &["-DA"], &["-DA", "-DB"], &["-DA", "-DC"], &["-DB"]]);
}

/// A file with directives of its own has numbers that are not its lines: it is left alone.
#[test]
fn own_directives() {
    let patched = b"new;\na;\n#line 7\nb;\n";
    assert_eq!(keep_line_numbers(b"a;\n#line 7\nb;\n", patched), patched);
}

/// A function that only stands elsewhere keeps its numbers, and so does what it went past; a copy is new code.
#[test]
fn moved_function() {
    let (f, g) = ("int f(void)\n{\n\tWARN(1);\n\treturn 1;\n}\n\n", "int g(void)\n{\n\treturn 2;\n}\n\nint h;\n");
    let kept = keep_line_numbers(format!("{f}{g}").as_bytes(), format!("{g}{f}").as_bytes());
    assert_eq!(text(&kept), format!("#line 7\n{g}#line 1\n{f}"));
    let kept = keep_line_numbers(format!("{f}{g}").as_bytes(), format!("{f}{g}{f}").as_bytes());
    assert_eq!(text(&kept), format!("{f}{g}{f}"));
    // Three lines are not enough to say that they are the same code.
    let kept =
        keep_line_numbers(b"a();\nb();\nc();\nint x;\nint y;\nint z;\n", b"int x;\nint y;\nint z;\na();\nb();\nc();\n");
    assert_eq!(text(&kept).matches("#line").count(), 1);
}

/// A small generator: the same sequence on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % limit as u64) as usize
    }
}

fn random_file(random: &mut Random) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut open = Vec::new();
    for step in 0..40 + random.below(40) {
        match random.below(16) {
            0 => lines.extend(["/* text".into(), format!(" * don't {step}"), " */".into()]),
            1 => lines.extend([format!("#define M{step}(x) \\"), "\tone(x) \\".into(), "\ttwo(x)".into()]),
            2 => lines.extend([format!("call{step}(a,"), "\tb,".into(), "\tc(d));".into()]),
            3 => lines.extend(["char *s = \"a ( \\".into(), "  b /* \";".into()]),
            4 => lines.extend(["// one \\".into(), "   two (".into()]),
            5 => {
                open.push(false);
                lines.push(format!("#ifdef D{}", random.below(3)));
            }
            6 | 7 if open.last() == Some(&false) => {
                if random.below(2) == 0 {
                    lines.push(format!("#elif defined(D{})", random.below(3)));
                } else {
                    *open.last_mut().expect("checked") = true;
                    lines.push("#else".into());
                }
            }
            8 | 9 if !open.is_empty() => {
                open.pop();
                lines.push("#endif".into());
            }
            10 => lines.push(String::new()),
            11 => lines.extend([format!("int w{step} = call"), String::new(), "\t(a);".into()]),
            _ => lines.push(format!("int v{step};")),
        }
    }
    lines.extend(open.iter().map(|_| "#endif".to_string()));
    lines
}

fn join(lines: &[String]) -> Vec<u8> {
    lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

/// Random files with random insertions, removals and replacements of plain lines: gcc agrees on every number
/// for every set of options.
#[test]
fn random_pairs() {
    let mut random = Random(20261121);
    for _ in 0..60 {
        let original = random_file(&mut random);
        let mut patched = original.clone();
        for step in 0..1 + random.below(5) {
            let at = random.below(patched.len());
            let plain = |line: &String| line.starts_with("int ") || line.is_empty() || line.starts_with(" * ");
            // A line may come in anywhere: in a comment, a macro body or a call too, in its continued form.
            if random.below(3) > 0 {
                let spliced = at > 0 && patched[at - 1].ends_with('\\');
                let new = format!("new{step}{}", if spliced { " \\" } else { "" });
                patched.insert(at, new);
            } else if plain(&patched[at]) {
                patched.remove(at);
            }
        }
        check(&join(&original), &join(&patched), &[&[], &["-DD0"], &["-DD1", "-DD2"], &["-DD0", "-DD1", "-DD2"]]);
        check_code(&join(&original), &join(&patched), &["-DD0"]);
    }
}

/// The same on real kernel files, includes left out, where `KLP_TEST_LINUX` names a source tree. Also that the
/// lexer does not lose its way: the end of a file is nearly always a place where a directive may stand.
#[test]
fn kernel_files() {
    let Some(linux) = std::env::var_os("KLP_TEST_LINUX") else { return };
    let mut random = Random(7);
    let (mut files, mut lost) = (0, 0);
    let is_c = |path: &std::path::Path| path.extension().is_some_and(|suffix| suffix == "c" || suffix == "h");
    let dirs = ["fs", "kernel", "net", "mm", "lib", "include/linux"].map(|dir| std::path::Path::new(&linux).join(dir));
    let entries =
        dirs.iter().flat_map(|dir| walkdir::WalkDir::new(dir).sort_by_file_name()).filter_map(|entry| entry.ok());
    for entry in entries.filter(|entry| is_c(entry.path())).step_by(11) {
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        let original: Vec<String> =
            text.lines().filter(|line| !line.trim_start().starts_with("#include")).map(String::from).collect();
        if original.len() < 5 {
            continue;
        }
        let mut patched = original.clone();
        for _ in 0..3 {
            let at = random.below(patched.len());
            let spliced = at > 0 && patched[at - 1].ends_with('\\');
            patched.insert(at, String::from(if spliced { " \\" } else { "" }));
        }
        let is = ["ENABLED", "REACHABLE", "MODULE", "BUILTIN"].map(|name| format!("-DIS_{name}(x)=0"));
        let is: Vec<&str> = is.iter().map(String::as_str).collect();
        // Without its includes a file may stop at an `#error`.
        if try_check(&join(&original), &join(&patched), &[&is]).is_ok() {
            files += 1;
            lost += usize::from(!line_starts(&join(&original)).last().is_some_and(|line| line.safe));
        }
    }
    println!("{files} files, {lost} of them unsafe at the end");
    assert!(files > 100 && lost * 50 < files, "{files} files, {lost} lost");
}

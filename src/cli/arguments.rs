//! What was typed -> what clap reads: `--release 6.12` becomes `--release=6.12`.
//!
//! The option stands alone, too, for the running kernel, and a patch follows it; clap would take either always or never
//! what follows for its value. So what follows is looked at: a name that can be a release and is no file is one
//! (a directory is: the modules of a kernel are in one of its name).

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Joins `--release` and the release behind it.
pub(super) fn complete(line: Vec<OsString>) -> Vec<OsString> {
    join(line, |name| Path::new(name).exists() && !Path::new(name).is_dir())
}

fn join(line: Vec<OsString>, is_file: impl Fn(&OsStr) -> bool) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::with_capacity(line.len());
    let mut line = line.into_iter().peekable();
    while let Some(argument) = line.next() {
        if argument == "--" {
            out.push(argument);
            out.extend(line);
            return out;
        }
        let release = match argument == "--release" {
            true => line.next_if(|next| is_release(next) && !is_file(next)),
            false => None,
        };
        out.push(match release {
            Some(release) => {
                let mut joined = OsString::from("--release=");
                joined.push(release);
                joined
            }
            None => argument,
        });
    }
    out
}

/// Whether a kernel can be called that: `6.12`, `6.12.0-3-amd64`; not `0001-fix.patch`.
fn is_release(name: &OsStr) -> bool {
    let Some((major, rest)) = name.to_str().and_then(|name| name.split_once('.')) else { return false };
    let is_patch = [".patch", ".diff", ".mbox"].iter().any(|suffix| rest.ends_with(suffix)) || rest.contains('/');
    let starts = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    !major.is_empty() && major.bytes().all(|b| b.is_ascii_digit()) && starts(rest) && !is_patch
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A release behind the option is its value; a patch is not, also when it is missing or has a name like a release.
    #[test]
    fn releases() {
        let of = |line: &str| {
            let line = line.split(' ').map(OsString::from).collect();
            let joined = join(line, |name| name == "6.13");
            joined.iter().map(|word| word.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        for (line, expected) in [
            ("x --release 6.12 fix.patch", "x --release=6.12 fix.patch"),
            ("x --release 6.12.0-3-amd64 -k . f", "x --release=6.12.0-3-amd64 -k . f"),
            ("x --release fix.patch", "x --release fix.patch"),
            ("x --release 6.13", "x --release 6.13"),
            ("x --release 0001-fix.patch", "x --release 0001-fix.patch"),
            ("x --release 5.10-fix.patch", "x --release 5.10-fix.patch"),
            ("x --release=6.1 6.12", "x --release=6.1 6.12"),
            ("x --release 6.1 a --release 6.12", "x --release=6.1 a --release=6.12"),
            ("x -- --release 6.12", "x -- --release 6.12"),
        ] {
            assert_eq!(of(line), expected);
        }
    }
}

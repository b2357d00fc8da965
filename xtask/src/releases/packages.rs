//! Two point releases of one kernel series, as packaged -> two unpacked source trees in the cache.
//!
//! Which point releases there are is asked of apt, in every suite of the machine's archive that may have some: nothing
//! here names a version. The oldest becomes the kernel, the newest the source of the fixes.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::apt::{self, Apt};
use crate::dirs;
use crate::sources::Suite;

/// Where point releases may be: a stable suite's backports keep several, the development suites have the newest.
const SUITES: [Suite; 3] = [Suite::Other("trixie-backports"), Suite::Other("forky"), Suite::Other("sid")];

/// One unpacked point release.
#[derive(Debug, Clone)]
pub struct Release {
    /// The package's version.
    pub version: String,
    /// The source tree; nothing may be written there.
    pub source: PathBuf,
}

/// The older and the newer of two releases of `package`: those given, or the oldest and the newest that apt offers.
pub fn two(package: &str, from: Option<&str>, to: Option<&str>) -> Result<(Release, Release)> {
    let unpacked = |version: Option<&str>| match version {
        Some(version) if place(package, version)?.exists() => Ok(Some(release(package, version)?)),
        _ => anyhow::Ok(None),
    };
    if let (Some(old), Some(new)) = (unpacked(from)?, unpacked(to)?) {
        return Ok((old, new));
    }
    apt::install(&["dpkg", "tar", "xz-utils"])?;
    let mut offers: Vec<(String, Apt)> = Vec::new();
    for suite in SUITES {
        let apt = Apt::open(suite, false)?;
        for version in apt.versions(package)? {
            if !offers.iter().any(|(known, _)| *known == version) {
                offers.push((version, Apt::open(suite, false)?));
            }
        }
    }
    offers.sort_by(|(a, _), (b, _)| compare(a, b));
    let names: Vec<&str> = offers.iter().map(|(version, _)| version.as_str()).collect();
    let pick = |wanted: Option<&str>, default: Option<&(String, Apt)>| -> Result<Release> {
        let offer = match wanted {
            Some(wanted) => offers.iter().find(|(version, _)| version == wanted || point(version) == point(wanted)),
            None => default,
        };
        let (version, apt) = offer.with_context(|| {
            format!("failed to find version {} of `{package}`; apt has {names:?}", wanted.unwrap_or("(any)"))
        })?;
        unpack(apt, package, version)?;
        release(package, version)
    };
    let (old, new) = (pick(from, offers.first())?, pick(to, offers.last())?);
    if point(&old.version) == point(&new.version) {
        bail!("apt has only one point release of `{package}`: {names:?}");
    }
    Ok((old, new))
}

/// Where a version is unpacked.
fn place(package: &str, version: &str) -> Result<PathBuf> {
    Ok(dirs::dev_cache()?.join("releases").join(package).join(directory(version)))
}

fn release(package: &str, version: &str) -> Result<Release> {
    Ok(Release { version: version.to_owned(), source: place(package, version)? })
}

/// A version as a directory's name that make and the shell take as it is.
pub fn directory(version: &str) -> String {
    version.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' }).collect()
}

fn unpack(apt: &Apt, package: &str, version: &str) -> Result<()> {
    dirs::complete(&place(package, version)?, |dir| {
        let deb = tempfile::Builder::new().prefix(".deb-").tempdir_in(dir)?;
        apt.unpack(&[format!("{package}={version}")], deb.path())?;
        let tarball = deb.path().join(format!("usr/src/{package}.tar.xz"));
        eprintln!("unpacking {package} {version}");
        let sh = Shell::new()?;
        cmd!(sh, "tar -xf {tarball} --strip-components=1 -C {dir}")
            .quiet()
            .run()
            .with_context(|| format!("failed to unpack `{}`", tarball.display()))
    })
}

/// `7.2.6` of `7.2.6-1~bpo13+1`, as numbers.
fn point(version: &str) -> Vec<u32> {
    let upstream = version.split('-').next().unwrap_or(version);
    upstream.split('.').map_while(|part| part.parse().ok()).collect()
}

fn compare(a: &str, b: &str) -> Ordering {
    point(a).cmp(&point(b)).then_with(|| a.cmp(b))
}

/// The source files that differ between two trees, relative to them, and those that only the newer one has; sorted.
pub fn differing(old: &Path, new: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(new).into_iter() {
        let entry = entry.with_context(|| format!("failed to read `{}`", new.display()))?;
        let is_source = entry.path().extension().is_some_and(|e| e == "c" || e == "h");
        if !is_source || !entry.file_type().is_file() {
            continue;
        }
        let path = entry.path().strip_prefix(new).unwrap_or(entry.path()).to_path_buf();
        let other = old.join(&path);
        let same_size = fs::metadata(&other).is_ok_and(|m| entry.metadata().is_ok_and(|n| n.len() == m.len()));
        if !same_size || fs::read(&other).ok() != fs::read(entry.path()).ok() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 7.2.13 is newer than 7.2.6, whatever the package's own suffix says; text order would say otherwise.
    #[test]
    fn point_releases_are_numbers() {
        assert_eq!(compare("7.2.13-1", "7.2.6-1~bpo13+1"), Ordering::Greater);
        assert_eq!(point("7.2.12-1"), point("7.2.12-1~bpo13+1"));
        assert_eq!(directory("7.2.6-1~bpo13+1"), "7.2.6-1_bpo13_1");
    }
}

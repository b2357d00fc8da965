//! Debian packages: install what a task needs, or download and unpack without touching the system.
//!
//! Downloads use a private apt state under the cache, made from the machine's own sources, so they need no
//! root, follow the machine's mirror, keyring and proxy, and can name a suite the machine does not use.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::dirs;
use crate::sources::{self, Suite};

/// How old package lists may be before a download asks for new ones.
const LISTS_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Installs those of `packages` that are not installed; says which, and needs root or sudo only then.
pub fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|p| !installed(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing with apt: {}", missing.join(" "));
    let sh = Shell::new()?;
    let root = cmd!(sh, "id -u").read()? == "0";
    let sudo: &[&str] = if root { &[] } else { &["sudo"] };
    if !root && cmd!(sh, "sudo -V").quiet().ignore_stdout().ignore_stderr().run().is_err() {
        bail!("failed to install `{}`: neither root nor sudo; install them and run this again", missing.join(" "));
    }
    let run = |args: &[&str]| {
        let words: Vec<&str> =
            sudo.iter().chain(&["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]).chain(args).copied().collect();
        let (program, rest) = words.split_first().expect("the list has apt-get");
        cmd!(sh, "{program} {rest...}").run()
    };
    let _lock = dirs::lock("apt-install")?;
    let get: Vec<&str> = ["-qq", "-y", "-o", "DPkg::Lock::Timeout=300", "install", "--no-install-recommends"]
        .into_iter()
        .chain(missing.iter().copied())
        .collect();
    // Lists may be missing (a fresh container) or name versions that the mirror no longer has.
    if run(&get).is_err() {
        run(&["-qq", "update"]).context("failed to update apt's package lists")?;
        run(&get).with_context(|| format!("failed to install `{}`", missing.join(" ")))?;
    }
    Ok(())
}

fn installed(package: &str) -> bool {
    let Ok(sh) = Shell::new() else { return false };
    let status = cmd!(sh, "dpkg-query -W -f '${Status}' {package}").quiet().ignore_stderr().read();
    status.is_ok_and(|s| s.ends_with("ok installed"))
}

/// A private apt state for one suite.
pub struct Apt {
    dir: PathBuf,
    /// Given with `-c`, which apt reads last: what the machine's own configuration adds can be cleared only so.
    config: PathBuf,
    sh: Shell,
}

impl Apt {
    /// Opens the state of `suite`; package lists are fetched if they are missing, old, or `refresh` asks for it.
    pub fn open(suite: Suite, refresh: bool) -> Result<Apt> {
        let dir = dirs::dev_cache()?.join("apt").join(suite.name());
        let _lock = dirs::lock(&format!("apt-{}", suite.name()))?;
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            dirs::create(&dir.join(part))?;
        }
        sources::write(suite, &dir.join("parts"))?;
        let d = dir.display();
        let config = format!(
            "Dir::State::lists \"{d}/lists\";\nDir::State::status \"{d}/status\";\nDir::Cache \"{d}/cache\";\n\
             Dir::Etc::sourcelist \"-\";\nDir::Etc::sourceparts \"{d}/parts\";\nAPT::Sandbox::User \"\";\n\
             #clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
        );
        let file = dir.join("apt.conf");
        dirs::write(&file, config)?;
        dirs::write(&dir.join("status"), "")?;
        let sh = Shell::new()?;
        sh.set_var("LC_ALL", "C");
        let apt = Apt { dir, config: file, sh };
        let stamp = apt.dir.join("updated");
        let age =
            fs::metadata(&stamp).and_then(|m| m.modified()).ok().and_then(|t| SystemTime::now().duration_since(t).ok());
        if refresh || age.is_none_or(|a| a > LISTS_AGE) {
            eprintln!("fetching package lists ({})", suite.name());
            let config = &apt.config;
            cmd!(apt.sh, "apt-get -c {config} -qq update").quiet().run().context("failed to fetch package lists")?;
            dirs::write(&stamp, "")?;
        }
        Ok(apt)
    }

    /// The first package that `package`'s newest version depends on and whose name starts with `prefix`.
    pub fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let record = self.record(package)?;
        let depends = record.lines().filter_map(|l| l.strip_prefix("Depends: ").or(l.strip_prefix("Pre-Depends: ")));
        depends
            .flat_map(|l| l.split([',', '|']))
            .filter_map(|word| word.split_whitespace().next())
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("failed to find a dependency `{prefix}*` of `{package}`"))
    }

    /// The version that would be downloaded.
    pub fn version(&self, package: &str) -> Result<String> {
        let record = self.record(package)?;
        let version = record.lines().find_map(|l| l.strip_prefix("Version: "));
        version.map(str::to_owned).with_context(|| format!("failed to find the version of `{package}`"))
    }

    /// All versions that can be downloaded.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let (sh, config) = (&self.sh, &self.config);
        let table = cmd!(sh, "apt-cache -c {config} madison {package}").quiet().read();
        let table = table.with_context(|| format!("failed to ask apt for versions of `{package}`"))?;
        Ok(table.lines().filter_map(|l| l.split('|').nth(1)).map(|v| v.trim().to_owned()).collect())
    }

    fn record(&self, package: &str) -> Result<String> {
        let (sh, config) = (&self.sh, &self.config);
        cmd!(sh, "apt-cache -c {config} show --no-all-versions {package}")
            .quiet()
            .read()
            .with_context(|| format!("failed to find package `{package}` in {}", self.dir.display()))
    }

    /// Downloads the newest version of each package into `dir` and unpacks it below `root`.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let work = tempfile::Builder::new().prefix("deb-").tempdir_in(self.dir.join("cache"))?;
        self.sh.change_dir(work.path());
        eprintln!("downloading {}", packages.join(" "));
        let config = &self.config;
        cmd!(self.sh, "apt-get -c {config} -qq download {packages...}")
            .quiet()
            .run()
            .with_context(|| format!("failed to download `{}`", packages.join(" ")))?;
        for deb in self.sh.read_dir(work.path())? {
            cmd!(self.sh, "dpkg-deb -x {deb} {root}")
                .quiet()
                .run()
                .with_context(|| format!("failed to unpack `{}`", deb.display()))?;
        }
        Ok(())
    }
}

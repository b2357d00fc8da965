//! tests/patches/*.patch with expect.toml -> what must come of each, checked for holes before anything runs.
//!
//! A patch without an entry, or an entry without a patch, is an error: a test that is not there cannot fail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::report::{ByObject, Report, show};
use crate::{dirs, kernels};

/// What klp-build must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// A module, exit status 0.
    Patch,
    /// Refusals, exit status 1.
    Refuse,
    /// Exit status 4.
    NoChange,
}

/// One entry of expect.toml; the fields are explained in its head.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The answer.
    pub expect: Expect,
    #[serde(default)]
    reasons: Vec<String>,
    #[serde(default)]
    says: Vec<String>,
    #[serde(default)]
    changed: ByObject,
    #[serde(default)]
    changed_on: BTreeMap<String, ByObject>,
    #[serde(default)]
    new: ByObject,
    #[serde(default)]
    may: ByObject,
    /// Modules of the kernel that the case needs.
    #[serde(default)]
    pub modules: Vec<String>,
    /// Kernels other than linux-7 on which the patch is tried too, with the same expectations.
    #[serde(default)]
    pub also: Vec<String>,
    /// The kernels that it is for: on no other one it is tried.
    #[serde(default)]
    only: Vec<String>,
    setup: Option<String>,
    teardown: Option<String>,
    observe: Option<String>,
    loaded: Option<String>,
    smoke: Option<String>,
}

/// A patch and what is expected of it.
#[derive(Debug, Clone)]
pub struct Item {
    /// The file's name without `.patch`.
    pub name: String,
    /// The patch.
    pub patch: PathBuf,
    /// Its entry.
    pub entry: Entry,
}

impl Entry {
    /// The snippets for the guest, by the names that case.sh knows.
    pub fn snippets(&self) -> Vec<(&'static str, String)> {
        let all = [
            ("setup", &self.setup),
            ("teardown", &self.teardown),
            ("observe", &self.observe),
            ("loaded", &self.loaded),
            ("smoke", &self.smoke),
        ];
        all.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))).collect()
    }

    /// Whether a module of the kernel is among what changes.
    pub fn patches_a_module(&self) -> bool {
        self.changed.keys().any(|object| object != "vmlinux")
    }

    /// Everything in which `report` is not what was expected.
    pub fn differences(&self, report: &Report) -> Vec<String> {
        let status = match self.expect {
            Expect::Patch => 0,
            Expect::Refuse => 1,
            Expect::NoChange => 4,
        };
        let mut wrong = Vec::new();
        if report.status != Some(status) {
            let first = report.stderr.lines().find(|l| !l.trim().is_empty()).unwrap_or("nothing on stderr");
            wrong.push(match report.status {
                Some(is) => format!("exit status {is}, not {status}: {first}"),
                None => format!("killed by a signal: {first}"),
            });
        }
        match self.expect {
            Expect::Patch => {
                wrong.extend(self.functions("changed", &self.changed, &report.changed));
                wrong.extend(self.functions("new", &self.new, &report.new));
            }
            Expect::Refuse => {
                let missing: Vec<&String> = self.reasons.iter().filter(|r| !report.reasons.contains(*r)).collect();
                let other: Vec<&String> = report.reasons.iter().filter(|r| !self.reasons.contains(r)).collect();
                if !missing.is_empty() || !other.is_empty() {
                    wrong.push(format!("refused for {:?}, not for {:?}", report.reasons, self.reasons));
                }
                let said = |text: &str| report.messages.iter().any(|message| message.contains(text));
                let unsaid = self.says.iter().filter(|text| !said(text));
                wrong.extend(unsaid.map(|text| format!("`{text}` is in none of {:?}", report.messages)));
            }
            Expect::NoChange => wrong.extend(self.functions("changed", &self.changed, &report.changed)),
        }
        wrong
    }

    fn functions(&self, what: &str, expected: &ByObject, got: &ByObject) -> Option<String> {
        let mut got = got.clone();
        for (object, names) in &mut got {
            names.retain(|name| !self.may.get(object).is_some_and(|may| may.contains(name)));
        }
        got.retain(|_, names| !names.is_empty());
        (got != *expected).then(|| format!("{what} {}, not {}", show(&got), show(expected)))
    }
}

/// The patches for one kernel, with what is expected on it.
pub fn for_kernel(name: &str) -> Result<Vec<Item>> {
    let (_, kernel) = kernels::find(name)?;
    let takes = |item: &Item| match &item.entry.only[..] {
        [] => kernel.takes_all() || item.entry.also.iter().any(|also| also == name),
        only => only.iter().any(|only| only == name),
    };
    let mut items: Vec<Item> = read()?.into_iter().filter(takes).collect();
    for entry in items.iter_mut().map(|item| &mut item.entry) {
        // What is said of one kernel holds for those that are named after it.
        let family = name.split_once('-').map_or(name, |(family, _)| family);
        if let Some(changed) = [name, family].into_iter().find_map(|name| entry.changed_on.remove(name)) {
            entry.changed = changed;
        }
    }
    Ok(items)
}

/// The whole corpus, in order.
pub fn read() -> Result<Vec<Item>> {
    let dir = dirs::root().join("tests/patches");
    let expectations = dir.join("expect.toml");
    let mut entries =
        parse(&dirs::read(&expectations)?).with_context(|| format!("failed to read `{}`", expectations.display()))?;
    let mut items = Vec::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)?.flatten().map(|e| e.path()).collect();
    files.sort();
    for patch in files.into_iter().filter(|f| f.extension().is_some_and(|e| e == "patch")) {
        let name = stem(&patch);
        let entry = entries.remove(&name);
        let entry = entry.with_context(|| format!("failed to find `[{name}]` in `{}`", expectations.display()))?;
        items.push(Item { name, patch, entry });
    }
    if !entries.is_empty() {
        let names: Vec<&String> = entries.keys().collect();
        bail!("failed to find a patch for {names:?} of `{}`", expectations.display());
    }
    Ok(items)
}

fn parse(text: &str) -> Result<BTreeMap<String, Entry>> {
    let entries: BTreeMap<String, Entry> = toml::from_str(text)?;
    for (name, entry) in &entries {
        let says_something = match entry.expect {
            Expect::Patch => !entry.changed.is_empty() || !entry.new.is_empty(),
            Expect::Refuse => !entry.reasons.is_empty(),
            Expect::NoChange => true,
        };
        if !says_something {
            bail!("`[{name}]` expects nothing that could be wrong");
        }
        let mut named = entry.also.iter().chain(&entry.only).chain(entry.changed_on.keys());
        if let Some(kernel) = named.find(|k| !kernels::names().contains(&k.as_str())) {
            bail!("`[{name}]` names a kernel `{kernel}` that is not in tests/kernels.toml");
        }
    }
    Ok(entries)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Entry {
        parse(&format!("[x]\n{text}")).expect("a valid entry").remove("x").expect("it is there")
    }

    fn names(object: &str, names: &[&str]) -> ByObject {
        [(object.to_owned(), names.iter().map(|n| (*n).to_owned()).collect())].into()
    }

    /// The shipped corpus is whole, so that `cargo test` notices a hole without a kernel.
    #[test]
    fn corpus_is_whole() {
        let items = read().expect("a readable corpus");
        assert!(items.iter().any(|i| i.entry.expect == Expect::Refuse));
        assert!(items.iter().any(|i| i.entry.expect == Expect::NoChange));
    }

    /// One function too many, one in the wrong object, and one missing are all wrong; an optional one is not.
    #[test]
    fn functions_are_compared_exactly() {
        let e = entry("expect = \"patch\"\nchanged.vmlinux = [\"a\"]\nmay.vmlinux = [\"b\"]\n");
        let report = |changed| Report { status: Some(0), changed, ..Report::default() };
        assert_eq!(e.differences(&report(names("vmlinux", &["a"]))), Vec::<String>::new());
        assert_eq!(e.differences(&report(names("vmlinux", &["a", "b"]))), Vec::<String>::new());
        assert_eq!(e.differences(&report(names("vmlinux", &["a", "c"]))).len(), 1);
        assert_eq!(e.differences(&report(names("ext4", &["a"]))).len(), 1);
        assert_eq!(e.differences(&report(ByObject::new())).len(), 1);
    }

    /// A crash or a wrong reason is not a refusal.
    #[test]
    fn refusals_are_compared_exactly() {
        let e = entry("expect = \"refuse\"\nreasons = [\"init-section\"]\n");
        let report = |status, reason: &str| Report { status, reasons: [reason.to_owned()].into(), ..Report::default() };
        assert_eq!(e.differences(&report(Some(1), "init-section")), Vec::<String>::new());
        assert_eq!(e.differences(&report(Some(1), "data-changed")).len(), 1);
        assert_eq!(e.differences(&report(Some(2), "init-section")).len(), 1);
        assert_eq!(e.differences(&report(None, "init-section")).len(), 1);
    }

    /// Entries that cannot fail are refused.
    #[test]
    fn empty_expectations_are_refused() {
        assert!(parse("[x]\nexpect = \"patch\"\n").is_err());
        assert!(parse("[x]\nexpect = \"refuse\"\n").is_err());
        assert!(parse("[x]\nexpect = \"patch\"\nchange.vmlinux = [\"a\"]\n").is_err());
    }
}

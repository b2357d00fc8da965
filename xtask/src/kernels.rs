//! tests/kernels.toml -> the kernels that the tests and the demo use: where each comes from, when, and what it is tried with.
//!
//! Point releases are never named: apt is asked for the newest. A new kernel is a new entry there and, when it
//! is built, a configuration under tests/kernels/. An entry that says two things at once is an error.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::dirs;
use crate::sources::Suite;

/// How a kernel is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Built from a source package with a small configuration.
    Built {
        /// `linux-source-X.Y`.
        source: &'a str,
        /// Where that package is.
        suite: Suite,
        /// Configurations merged over `tinyconfig` one after the other, below tests/kernels/.
        config: &'a [String],
        /// Variables for make, and what they need.
        make: &'a [String],
        /// Packages besides those that every build takes.
        packages: &'a [String],
    },
    /// The distribution's own image, headers and source packages, unpacked; nothing is compiled.
    Stock {
        /// Depends on the image package of the newest point release.
        image: &'a str,
        /// Depends on the headers package of the same.
        headers: &'a str,
        /// `linux-source-X.Y`.
        source: &'a str,
    },
    /// A task of its own makes it and tries it.
    Task,
}

/// One kernel, as tests/kernels.toml describes its fields.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// What would be untested without it.
    pub proves: String,
    /// In which tests, or by which task.
    pub when: String,
    source: Option<String>,
    suite: Option<String>,
    #[serde(default)]
    config: Vec<String>,
    #[serde(default)]
    make: Vec<String>,
    #[serde(default)]
    packages: Vec<String>,
    image: Option<String>,
    headers: Option<String>,
    #[serde(default)]
    patches: Patches,
}

/// Which patches a kernel is tried with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Patches {
    /// Those that name it.
    #[default]
    Named,
    /// All.
    All,
}

impl Spec {
    /// How it is had.
    pub fn kind(&'static self) -> Kind<'static> {
        let suite = self.suite.as_deref().map_or(Suite::Own, Suite::Other);
        match (&self.source, &self.image, &self.headers) {
            (Some(source), Some(image), Some(headers)) => Kind::Stock { image, headers, source },
            (Some(source), None, None) => {
                Kind::Built { source, suite, config: &self.config, make: &self.make, packages: &self.packages }
            }
            _ => Kind::Task,
        }
    }

    /// Whether it is tried with patches that do not name it.
    pub fn takes_all(&self) -> bool {
        self.patches == Patches::All
    }

    fn check(&self) -> Result<()> {
        let built = self.source.is_some() && !self.config.is_empty();
        let stock = self.source.is_some() && self.image.is_some() && self.headers.is_some();
        let task = !matches!(self.when.as_str(), "always" | "long");
        if [built, stock, task].into_iter().filter(|is| *is).count() != 1 {
            bail!(
                "it must be built (`source`, `config`), of packages (`source`, `image`, `headers`), or have its own task"
            );
        }
        if self.image.is_some() != self.headers.is_some() || (self.suite.is_some() && !built) {
            bail!("`image` and `headers` go together, and `suite` goes with `config`");
        }
        let has_no_make = self.make.is_empty() && self.packages.is_empty();
        if !built && !has_no_make {
            bail!("`make` and `packages` are for what is built here");
        }
        if self.proves.is_empty() {
            bail!("`proves` must say something");
        }
        if let Some(file) = self.config.iter().find(|file| !dirs::root().join("tests/kernels").join(file).exists()) {
            bail!("there is no `tests/kernels/{file}`");
        }
        Ok(())
    }
}

static TABLE: LazyLock<std::result::Result<BTreeMap<String, Spec>, String>> = LazyLock::new(|| {
    let path = dirs::root().join("tests/kernels.toml");
    read(&path).with_context(|| format!("failed to read `{}`", path.display())).map_err(|error| format!("{error:#}"))
});

fn read(path: &Path) -> Result<BTreeMap<String, Spec>> {
    let table: BTreeMap<String, Spec> = toml::from_str(&dirs::read(path)?)?;
    table.iter().try_for_each(|(name, spec)| spec.check().with_context(|| format!("`[{name}]`")))?;
    Ok(table)
}

/// All of them, by name.
pub fn all() -> Result<&'static BTreeMap<String, Spec>> {
    TABLE.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// The kernel `name`.
pub fn find(name: &str) -> Result<(&'static str, &'static Spec)> {
    let found = all()?.get_key_value(name);
    let (name, spec) = found.with_context(|| format!("no kernel `{name}`; there are {}", names().join(", ")))?;
    Ok((name, spec))
}

/// The kernels of `cargo xtask test`; with `long` also those that take a kernel build more.
pub fn tested(long: bool) -> Result<Vec<&'static str>> {
    let when = if long { &["always", "long"][..] } else { &["always"] };
    let tested = |at: &str| -> Result<Vec<&'static str>> {
        Ok(all()?.iter().filter(|(_, spec)| spec.when == at).map(|(name, _)| name.as_str()).collect())
    };
    when.iter().map(|at| tested(at)).collect::<Result<Vec<_>>>().map(|parts| parts.concat())
}

/// The names of those that can be made, for help texts.
pub fn names() -> Vec<&'static str> {
    let Ok(all) = all() else { return Vec::new() };
    all.iter().filter(|(_, spec)| spec.kind() != Kind::Task).map(|(name, _)| name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shipped table is whole, and has both a kernel of packages and one that is built.
    #[test]
    fn the_table_is_whole() {
        let all = all().expect("a readable table");
        assert!(all.values().any(|spec| matches!(spec.kind(), Kind::Built { .. })));
        assert!(all.values().any(|spec| matches!(spec.kind(), Kind::Stock { .. })));
        let (always, long) = (tested(false).expect("a table"), tested(true).expect("a table"));
        assert!(long.starts_with(&always) && long.len() > always.len());
        assert!(always.contains(&"linux-7") && !names().contains(&"debian-13"));
    }

    /// An entry that could be read in two ways is refused.
    #[test]
    fn entries_that_say_two_things_are_refused() {
        let check =
            |text: &str| toml::from_str::<Spec>(text).map_err(anyhow::Error::from).and_then(|spec| spec.check());
        let plain = "proves = \"x\"\nwhen = \"always\"\nsource = \"s\"\n";
        assert!(check(&format!("{plain}config = [\"linux-7.config\"]")).is_ok());
        assert!(check(plain).is_err());
        assert!(check(&format!("{plain}config = [\"no-such.config\"]")).is_err());
        assert!(check(&format!("{plain}image = \"i\"")).is_err());
        assert!(check(&format!("{plain}image = \"i\"\nheaders = \"h\"\nsuite = \"b\"")).is_err());
        assert!(check(&format!("{plain}image = \"i\"\nheaders = \"h\"\nmake = [\"A=b\"]")).is_err());
        assert!(check("proves = \"x\"\nwhen = \"task\"\n").is_ok());
    }
}

//! The machine's apt sources -> the same mirror with another suite, as a private `sources.list.d`.
//!
//! apt has two formats and people mix them; options such as the keyring, the architecture or a key given in
//! place must survive, so entries are kept as they are written and only the suite is replaced.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// What to ask apt for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// The machine's own suites, with updates and security.
    Own,
    /// Another suite of the same archive, "trixie-backports".
    Other(&'static str),
}

impl Suite {
    /// A name for directories and messages.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Own => "own",
            Suite::Other(name) => name,
        }
    }
}

/// One entry of the machine's sources that belongs to its distribution.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// `deb [options] uri suite components`
    OneLine { options: String, uri: String, suite: String, components: String },
    /// A deb822 paragraph: the other fields verbatim, and its suites.
    Deb822 { fields: String, suites: Vec<String> },
}

/// Writes `klp.list` and `klp.sources` for `suite` into `dir`.
pub fn write(suite: Suite, dir: &Path) -> Result<()> {
    let (codename, entries) = machine()?;
    let (list, sources) = select(&entries, &codename, suite);
    if list.is_empty() && sources.is_empty() {
        bail!("failed to find a source of `{codename}` in the machine's apt configuration");
    }
    crate::dirs::write(&dir.join("klp.list"), list)?;
    crate::dirs::write(&dir.join("klp.sources"), sources)
}

/// The machine's suite, and its sources.
fn machine() -> Result<(String, Vec<Entry>)> {
    let os_release = crate::dirs::read(Path::new("/etc/os-release"))?;
    let codename = codename(&os_release).context("failed to find VERSION_CODENAME in `/etc/os-release`")?;
    let mut entries = Vec::new();
    let mut files = vec![Path::new("/etc/apt/sources.list").to_path_buf()];
    if let Ok(list) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(list.flatten().map(|e| e.path()));
    }
    files.sort();
    for file in files {
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") if file.exists() => entries.extend(parse_list(&crate::dirs::read(&file)?)),
            Some("sources") => entries.extend(parse_deb822(&crate::dirs::read(&file)?)),
            _ => {}
        }
    }
    Ok((codename, entries))
}

/// The machine's own archive: its address, and the keyring's file where one is named.
pub fn mirror() -> Result<(String, Option<String>)> {
    let (codename, entries) = machine()?;
    find_mirror(&entries, &codename)
        .with_context(|| format!("failed to find a source of `{codename}` in the machine's apt configuration"))
}

fn find_mirror(entries: &[Entry], codename: &str) -> Option<(String, Option<String>)> {
    entries.iter().find_map(|entry| match entry {
        Entry::OneLine { options, uri, suite, .. } if suite == codename => {
            let words = options.trim().trim_matches(['[', ']']).split_whitespace();
            let key = words.filter_map(|w| w.strip_prefix("signed-by=")).next();
            Some((uri.clone(), key.map(str::to_owned)))
        }
        Entry::Deb822 { fields, suites } if suites.iter().any(|s| s == codename) => {
            let field = |name: &str| {
                let value = fields.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
                value.split_whitespace().next().map(str::to_owned)
            };
            // A key may also be given in place, on lines that follow.
            Some((field("URIs")?, field("Signed-By").filter(|key| key.starts_with('/'))))
        }
        _ => None,
    })
}

fn codename(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"').to_owned())
}

fn parse_list(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.split('#').next().unwrap_or("").trim().strip_prefix("deb ") else { continue };
        let rest = rest.trim();
        let (options, rest) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((options, rest)) => (format!("[{options}] "), rest.trim()),
            None => (String::new(), rest),
        };
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next())
            && !uri.starts_with("cdrom:")
        {
            let components = words.collect::<Vec<_>>().join(" ");
            entries.push(Entry::OneLine { options, uri: uri.into(), suite: suite.into(), components });
        }
    }
    entries
}

fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    for paragraph in lines.split(|l| l.trim().is_empty()) {
        let (mut fields, mut suites, mut kept) = (String::new(), Vec::new(), true);
        let (mut binary, mut enabled) = (false, true);
        for line in paragraph {
            let folded = line.starts_with([' ', '\t']);
            if !folded {
                let (key, value) = line.split_once(':').unwrap_or((line, ""));
                kept = !key.eq_ignore_ascii_case("suites") && !key.eq_ignore_ascii_case("types");
                match key.to_ascii_lowercase().as_str() {
                    "suites" => suites.extend(value.split_whitespace().map(str::to_owned)),
                    "types" => binary = value.split_whitespace().any(|t| t == "deb"),
                    "enabled" => enabled = value.trim() != "no",
                    _ => {}
                }
            }
            if kept {
                fields.push_str(line);
                fields.push('\n');
            }
        }
        if binary && enabled && !suites.is_empty() {
            entries.push(Entry::Deb822 { fields, suites });
        }
    }
    entries
}

/// The contents of the two private files.
fn select(entries: &[Entry], codename: &str, wanted: Suite) -> (String, String) {
    // "bookworm", "bookworm-updates", "bookworm-security"; not the suites of other vendors' archives.
    let ours = |suite: &str| match wanted {
        Suite::Own => suite.split(['-', '/']).next() == Some(codename),
        // Only the main archive has the other suites under the same address.
        Suite::Other(_) => suite == codename,
    };
    let (mut list, mut sources) = (String::new(), String::new());
    for entry in entries {
        match entry {
            Entry::OneLine { options, uri, suite, components } if ours(suite) => {
                let suite = if let Suite::Other(name) = wanted { name } else { suite };
                list.push_str(&format!("deb {options}{uri} {suite} {components}\n"));
            }
            Entry::Deb822 { fields, suites } => {
                let kept: Vec<&str> = suites.iter().map(String::as_str).filter(|s| ours(s)).collect();
                if !kept.is_empty() {
                    let suites = if let Suite::Other(name) = wanted { name.to_owned() } else { kept.join(" ") };
                    sources.push_str(&format!("Types: deb\nSuites: {suites}\n{fields}\n"));
                }
            }
            Entry::OneLine { .. } => {}
        }
    }
    (list, sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb deb-src\n# a comment\nURIs: http://mirror.test/debian\n\
        Suites: bookworm bookworm-updates\nComponents: main\nSigned-By:\n -----BEGIN\n .\n -----END\n\n\
        Types: deb\nURIs: http://mirror.test/node\nSuites: nodistro\nComponents: main\n\n\
        Types: deb\nURIs: http://mirror.test/off\nSuites: bookworm\nEnabled: no\n";

    /// Another suite keeps mirror and inline key; other vendors' and disabled entries stay out.
    #[test]
    fn deb822_suite_is_replaced() {
        let (list, sources) = select(&parse_deb822(DEB822), "bookworm", Suite::Other("trixie-backports"));
        assert_eq!(list, "");
        assert_eq!(
            sources,
            "Types: deb\nSuites: trixie-backports\nURIs: http://mirror.test/debian\nComponents: main\n\
             Signed-By:\n -----BEGIN\n .\n -----END\n\n"
        );
    }

    /// debootstrap is given the machine's mirror and keyring, and no other vendor's.
    #[test]
    fn mirror_of_the_machine() {
        let found = find_mirror(&parse_deb822(DEB822), "bookworm");
        assert_eq!(found, Some(("http://mirror.test/debian".to_owned(), None)));
        let text = "deb http://mirror.test/node nodistro main\n\
                    deb [signed-by=/k.gpg] http://mirror.test/debian bookworm main\n";
        let found = find_mirror(&parse_list(text), "bookworm");
        assert_eq!(found, Some(("http://mirror.test/debian".to_owned(), Some("/k.gpg".to_owned()))));
    }

    /// One-line entries keep their options; the security archive is not asked for suites it does not have.
    #[test]
    fn one_line_suite_is_replaced() {
        let text = "deb [signed-by=/k.gpg arch=amd64] http://mirror.test/debian bookworm main contrib # x\n\
                    deb-src http://mirror.test/debian bookworm main\n\
                    deb cdrom:[Debian]/ bookworm main\n\
                    deb http://mirror.test/security bookworm-security main\n";
        let entries = parse_list(text);
        let (list, _) = select(&entries, "bookworm", Suite::Other("trixie"));
        assert_eq!(list, "deb [signed-by=/k.gpg arch=amd64] http://mirror.test/debian trixie main contrib\n");
        let (list, _) = select(&entries, "bookworm", Suite::Own);
        assert_eq!(list.lines().count(), 2);
        assert!(list.contains("security bookworm-security main"));
    }
}

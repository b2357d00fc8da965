//! `Module.symvers`: what the kernel and its modules export, from whom, in which namespace.
//!
//! Five tab-separated fields a line: CRC, name, exporting object, export kind, namespace
//! (Documentation/kbuild/modules.rst, "Symbols and CRCs"); the namespace is missing or empty for most.
//! The object is `vmlinux` or a path without suffix (`fs/jbd2/jbd2`); a module's name is its last part
//! with `-` read as `_`, as kbuild's name-fix does for KBUILD_MODNAME (scripts/Makefile.lib).

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// One exported symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Who exports it: `vmlinux`, or a module's name as /proc/modules has it.
    pub object: String,
    /// `EXPORT_SYMBOL` or `EXPORT_SYMBOL_GPL`.
    pub kind: String,
    /// Namespace; empty for none. `module:a,b` is EXPORT_SYMBOL_FOR_MODULES.
    pub namespace: String,
    /// CRC; 0 without CONFIG_MODVERSIONS.
    pub crc: u32,
}

/// All exports by symbol name.
#[derive(Debug, Clone, Default)]
pub struct Symvers {
    /// Name to export.
    pub exports: HashMap<String, Export>,
}

impl Symvers {
    /// Who exports `name`, if anyone.
    pub fn get(&self, name: &str) -> Option<&Export> {
        self.exports.get(name)
    }

    /// Parses the text of a `Module.symvers`; every bad line is named, up to five.
    pub fn parse(text: &str) -> Result<Symvers> {
        let mut exports = HashMap::new();
        let mut problems = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if line.is_empty() {
                continue;
            }
            match parse_line(line) {
                Ok((name, export)) => {
                    if let Some(other) = exports.insert(name.clone(), export) {
                        problems.push(format!("line {}: `{name}` is also exported by {}", number + 1, other.object));
                    }
                }
                Err(what) => problems.push(format!("line {}: {what}", number + 1)),
            }
        }
        if !problems.is_empty() {
            problems.truncate(5);
            bail!("{}", problems.join("; "));
        }
        Ok(Symvers { exports })
    }

    /// Reads a `Module.symvers`.
    pub fn read(path: &Path) -> Result<Symvers> {
        std::fs::read_to_string(path)
            .map_err(anyhow::Error::from)
            .and_then(|text| Symvers::parse(&text))
            .with_context(|| format!("failed to read exports from `{}`", path.display()))
    }
}

fn parse_line(line: &str) -> Result<(String, Export), String> {
    let fields: Vec<&str> = line.split('\t').collect();
    // Kernels before 5.4 had the namespace third or not at all; those kernels are out of reach anyway.
    let (crc, name, object, kind, namespace) = match fields[..] {
        [crc, name, object, kind] => (crc, name, object, kind, ""),
        [crc, name, object, kind, namespace] => (crc, name, object, kind, namespace),
        _ => return Err(format!("{} tab-separated fields where 4 or 5 are expected", fields.len())),
    };
    let digits = crc.strip_prefix("0x").ok_or_else(|| format!("`{crc}` is not a CRC"))?;
    let crc = u32::from_str_radix(digits, 16).map_err(|_| format!("`{crc}` is not a CRC"))?;
    if name.is_empty() || object.is_empty() {
        return Err("an empty name".to_owned());
    }
    if !kind.starts_with("EXPORT_") {
        return Err(format!("`{kind}` is not an export kind"));
    }
    let export = Export { object: module_name(object), kind: kind.to_owned(), namespace: namespace.to_owned(), crc };
    Ok((name.to_owned(), export))
}

/// A module's name as /proc/modules has it, from its path, with or without `.ko` and compression suffix.
pub fn module_name(path: &str) -> String {
    let base = path.rsplit('/').next().unwrap_or(path);
    let base = ["", ".gz", ".xz", ".zst"]
        .iter()
        .find_map(|packed| base.strip_suffix(packed)?.strip_suffix(".ko"))
        .or_else(|| base.strip_suffix(".o"))
        .unwrap_or(base);
    base.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Old four-column and present five-column lines mean the same; paths become module names.
    #[test]
    fn both_forms() {
        let text = "0x12345678\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n\
                    0x00000000\tsnd_x\tsound/core/snd-pcm\tEXPORT_SYMBOL_GPL\tSND\n\
                    0x0000000a\told\tvmlinux\tEXPORT_SYMBOL\n";
        let symvers = Symvers::parse(text).unwrap();
        assert_eq!(symvers.get("printk").unwrap().crc, 0x12345678);
        assert_eq!(symvers.get("snd_x").unwrap().object, "snd_pcm");
        assert_eq!(symvers.get("snd_x").unwrap().namespace, "SND");
        assert_eq!(symvers.get("old").unwrap().namespace, "");
    }

    /// A truncated or foreign file is refused with the lines at fault.
    #[test]
    fn bad_lines_are_named() {
        let error = Symvers::parse("0x1\ta\tvmlinux\tEXPORT_SYMBOL\t\n0x12\tb\nzz\tc\tvmlinux\tEXPORT_SYMBOL\n");
        let error = error.unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("line 3") && !error.contains("line 1"), "{error}");
    }

    /// Every spelling of a module's file gives the name the kernel uses.
    #[test]
    fn module_names() {
        for path in ["snd-pcm.ko.xz", "sound/core/snd-pcm", "snd-pcm.ko", "a/snd_pcm.ko.zst", "x/snd-pcm.o"] {
            assert_eq!(module_name(path), "snd_pcm", "{path}");
        }
    }
}

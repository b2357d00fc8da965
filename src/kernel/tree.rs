//! The kernel that a run is about, as one value: directories, facts and tables, read once, never written.
//!
//! What differs between a built tree, a configured tree and an installed kernel ends in [`super::open`];
//! the stages after it see only this. Symbol tables are read when first asked for and kept.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};

use super::abi::Abi;
use super::compiler::Compiler;
use super::config::Config;
use super::configured::Private;
use super::elf_table;
use super::image::Image;
use super::module_files::ModuleFiles;
use super::running::Running;
use super::symtab::{Binding, SymbolTable};
use super::symvers::Symvers;
use super::text_table::{self, TextTables};
use super::unit::Unit;
use super::units::{self, Build, Reach};
use super::{kallsyms_image, single_units};

/// One kernel: everything the later stages ask about it.
#[derive(Debug)]
pub struct Kernel {
    pub(super) source: PathBuf,
    pub(super) objdir: PathBuf,
    pub(super) module_build_dir: PathBuf,
    pub(super) release: String,
    pub(super) config: Config,
    pub(super) symvers: Symvers,
    pub(super) symvers_path: PathBuf,
    pub(super) abi: Abi,
    pub(super) compiler: Compiler,
    pub(super) make_vars: Vec<(String, String)>,
    pub(super) jobs: usize,
    pub(super) image: Option<PathBuf>,
    pub(super) symbol_source: PathBuf,
    pub(super) module_files: ModuleFiles,
    pub(super) running: Option<Running>,
    pub(super) module_names: Option<HashSet<String>>,
    pub(super) private: Option<Private>,
    pub(super) tables: Mutex<HashMap<String, Arc<SymbolTable>>>,
    pub(super) text_tables: Mutex<Option<Arc<TextTables>>>,
}

impl Kernel {
    /// Kernel release, as `uname -r` prints it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What vmlinux and the modules export.
    pub fn symvers(&self) -> &Symvers {
        &self.symvers
    }

    /// The file that the exports were read from.
    pub fn symvers_path(&self) -> &Path {
        &self.symvers_path
    }

    /// The livepatch interface.
    pub fn abi(&self) -> &Abi {
        &self.abi
    }

    /// The source tree: absolute, canonical.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// The directory in which compile commands run: absolute, canonical. It may be the source tree.
    pub fn objdir(&self) -> &Path {
        &self.objdir
    }

    /// What `make -C` takes to build an external module with `M=`.
    pub fn module_build_dir(&self) -> &Path {
        &self.module_build_dir
    }

    /// The compiler that built the kernel.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// Variables for module builds: those of the environment that kbuild takes, the compiler where kbuild would
    /// choose another, then `--make`'s.
    pub fn make_vars(&self) -> &[(String, String)] {
        &self.make_vars
    }

    /// How many jobs to run at a time.
    pub fn jobs(&self) -> usize {
        self.jobs
    }

    /// The kernel image to check against: a vmlinuz or a vmlinux.
    pub fn image(&self) -> Option<&Path> {
        self.image.as_deref()
    }

    /// Where vmlinux's symbols come from, for messages.
    pub fn symbol_source(&self) -> &Path {
        &self.symbol_source
    }

    /// Names of the modules that have files here.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.module_files.names()
    }

    /// The file of a module: `.ko`, perhaps compressed; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When there are several, and nothing says which of them is loaded.
    pub fn module_file(&self, name: &str) -> Result<Option<&Path>> {
        self.module_files.file(name)
    }

    /// What runs on this machine, when this kernel was found as the one that does.
    pub fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// The symbol table of `vmlinux` or of a module.
    pub fn symbols(&self, object: &str) -> Result<Arc<SymbolTable>> {
        if let Some(table) = self.tables.lock().unwrap_or_else(|e| e.into_inner()).get(object) {
            return Ok(table.clone());
        }
        let table = Arc::new(self.read_symbols(object)?);
        let mut tables = self.tables.lock().unwrap_or_else(|e| e.into_inner());
        Ok(tables.entry(object.to_owned()).or_insert(table).clone())
    }

    fn read_symbols(&self, object: &str) -> Result<SymbolTable> {
        let path = &self.symbol_source;
        if object != "vmlinux" {
            return match self.module_files.file(object)? {
                Some(file) => elf_table::read_module(file),
                None => bail!(
                    "failed to find module `{object}`: no `{object}.ko` beside the kernel; name its directory with --modules"
                ),
            };
        }
        match file_kind(path)? {
            FileKind::Text => Ok(self.text_tables()?.vmlinux.clone()),
            FileKind::BootImage => image_table(path),
            // A stripped vmlinux still has kallsyms.
            FileKind::Elf => elf_table::read_vmlinux(path).or_else(|error| image_table(path).map_err(|_| error)),
        }
    }

    fn text_tables(&self) -> Result<Arc<TextTables>> {
        let mut slot = self.text_tables.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(tables) = &*slot {
            return Ok(tables.clone());
        }
        let path = &self.symbol_source;
        let tables = std::fs::read_to_string(path)
            .map_err(anyhow::Error::from)
            .and_then(|text| text_table::parse(&text))
            .with_context(|| format!("failed to read symbols from `{}`", path.display()))?;
        Ok(slot.insert(Arc::new(tables)).clone())
    }

    /// Symbols of what was loaded into the kernel that a dump of /proc/kallsyms is of; none from other tables.
    pub fn symbols_of_loaded_modules(&self) -> Result<HashMap<String, SymbolTable>> {
        match file_kind(&self.symbol_source)? {
            FileKind::Text => Ok(self.text_tables()?.modules.clone()),
            FileKind::BootImage | FileKind::Elf => Ok(HashMap::new()),
        }
    }

    /// Whether units are made in a private directory because the tree is only configured.
    pub fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// The units that read any of the touched files (relative to the source tree).
    pub fn units_reached_by(&self, touched: &[PathBuf]) -> Result<Reach> {
        match &self.private {
            Some(private) => single_units::reached_by(private, touched, self.jobs),
            None => units::units_reached_by(self.build(), touched),
        }
    }

    /// The units of one of kbuild's targets.
    pub fn unit_of_target(&self, target: &Path) -> Result<Vec<Unit>> {
        units::unit_of_target(self.build(), target)
    }

    fn build(&self) -> Build<'_> {
        Build { source: &self.source, objdir: &self.objdir, modules: self.module_names.as_ref() }
    }

    /// Which object owns a global symbol that a unit of `object` uses without defining it: the object itself,
    /// the exporter, or vmlinux (field survey 7.7: a unit of a module cannot tell).
    pub fn owner_of(&self, symbol: &str, object: &str) -> Result<Option<String>> {
        let has = |object: &str| -> Result<bool> {
            let table = self.symbols(object)?;
            Ok(table.named(symbol).iter().any(|i| table.symbols[*i as usize].binding != Binding::Local))
        };
        if object != "vmlinux" && has(object)? {
            return Ok(Some(object.to_owned()));
        }
        if let Some(export) = self.symvers.get(symbol) {
            return Ok(Some(export.object.clone()));
        }
        Ok(has("vmlinux")?.then(|| "vmlinux".to_owned()))
    }
}

enum FileKind {
    Elf,
    BootImage,
    Text,
}

/// What a file of symbols is, by its first bytes (Documentation/arch/x86/boot.rst: `HdrS` at 0x202).
fn file_kind(path: &Path) -> Result<FileKind> {
    use std::io::Read;
    let mut head = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(0x206).read_to_end(&mut head))
        .with_context(|| format!("failed to read `{}`", path.display()))?;
    Ok(match () {
        () if head.starts_with(b"\x7fELF") => FileKind::Elf,
        () if head.get(0x202..) == Some(b"HdrS") => FileKind::BootImage,
        () => FileKind::Text,
    })
}

fn image_table(path: &Path) -> Result<SymbolTable> {
    kallsyms_image::read_table(&Image::read(path)?)
        .with_context(|| format!("failed to read symbols from `{}`", path.display()))
}

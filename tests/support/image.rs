//! A kernel in small: C files -> the real compiler and linker -> an image with symbols, and units to verify against it.
//!
//! The image lies where a kernel does, with a trampoline apart, where modules are. Nothing here runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use klp_build::diff::atoms::Side;
use klp_build::elf;
use klp_build::kernel::elf_table;
use klp_build::kernel::image::Image;
use klp_build::kernel::symtab::SymbolTable;
use klp_build::verify::{self, Finding, Loaded};

/// What kernels are compiled with, as far as it matters here.
const FLAGS: &str = "-O2 -mcmodel=kernel -fno-pic -fno-pie -pg -mfentry -ffreestanding -fno-asynchronous-unwind-tables \
                     -mno-red-zone -fno-stack-protector -fcf-protection=none -fno-strict-aliasing -falign-functions=16 -fpatchable-function-entry=16,16";

const SCRIPT: &str = "SECTIONS {
    . = 0xffffffff81000000;
    _text = .; _stext = .;
    .text : { *(.text .text.*) }
    .rodata : { *(.rodata .rodata.*) *(.altinstructions .altinstr_replacement .smp_locks runtime_* __patchable_function_entries) }
    .data : { *(.data .data.*) }
    .bss : { *(.bss .bss.*) *(COMMON) }
    _end = .;
    . = 0xffffffffa0000000;
    .apart : { *(.apart) }
    /DISCARD/ : { *(.comment) *(.note*) *(.eh_frame) *(.discard*) }
}
";

/// A directory with sources, objects, and images.
pub struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    pub fn new() -> Small {
        let small = Small { dir: tempfile::tempdir().unwrap() };
        small.write("image.lds", SCRIPT);
        small
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn run(&self, program: &str, args: &[&str]) {
        let out = Command::new(program).args(args).current_dir(self.dir.path()).output().unwrap();
        assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Compiles as the tool does, with a section for each function.
    pub fn unit(&self, source: &str, flags: &[&str]) -> elf::Object {
        let flags: Vec<&str> = [flags, &["-ffunction-sections", "-fdata-sections"]].concat();
        self.compile(source, "unit.o", &flags);
        elf::read(&std::fs::read(self.path("unit.o")).unwrap()).unwrap()
    }

    fn compile(&self, source: &str, object: &str, flags: &[&str]) {
        let all: Vec<&str> = FLAGS.split_whitespace().chain(flags.iter().copied()).collect();
        self.run("gcc", &[&all[..], &["-c", source, "-o", object]].concat());
    }

    /// Compiles as a kernel's build does, and links an image.
    pub fn image(&self, sources: &[&str], flags: &[&str], name: &str) -> Built {
        let objects: Vec<String> = sources.iter().map(|s| s.replace(".c", ".built.o")).collect();
        for (source, object) in sources.iter().zip(&objects) {
            self.compile(source, object, flags);
        }
        let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
        self.run("ld", &[&["-static", "-nostdlib", "-e", "0", "-T", "image.lds", "-o", name][..], &objects].concat());
        let path = self.path(name);
        let table = elf_table::read_vmlinux(&path).unwrap();
        Built { bytes: std::fs::read(&path).unwrap(), table: Arc::new(table) }
    }
}

/// A linked image.
#[derive(Clone)]
pub struct Built {
    pub bytes: Vec<u8>,
    pub table: Arc<SymbolTable>,
}

impl Built {
    pub fn address(&self, name: &str) -> u64 {
        self.table.unique(name).unwrap_or_else(|| panic!("no `{name}`")).address
    }

    /// Writes bytes at an address.
    pub fn put(&mut self, address: u64, bytes: &[u8]) {
        let at = self.offset(address);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn get(&self, address: u64, size: usize) -> &[u8] {
        let at = self.offset(address);
        &self.bytes[at..at + size]
    }

    /// Place of an address in the file, by the program headers.
    fn offset(&self, address: u64) -> usize {
        let long = |at: usize| u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap());
        let count = usize::from(self.bytes[56]);
        let headers = (0..count).map(|i| long(32) as usize + 56 * i);
        let mut inside = headers.filter(|h| (long(h + 16)..long(h + 16) + long(h + 32)).contains(&address));
        let header = inside.next().unwrap_or_else(|| panic!("{address:#x} is not in the file"));
        (address - long(header + 16) + long(header + 8)) as usize
    }

    /// A call or a jump, by its opcode, from an address to another.
    pub fn branch(opcode: u8, from: u64, to: u64) -> [u8; 5] {
        let distance = (to.wrapping_sub(from + 5) as u32).to_le_bytes();
        [opcode, distance[0], distance[1], distance[2], distance[3]]
    }

    /// The image as a file.
    pub fn loaded(&self) -> anyhow::Result<Loaded> {
        Loaded::kernel(Image::parse(self.bytes.clone())?, self.table.clone())
    }

    /// The image as memory of a kernel that runs: the same file, called a core.
    pub fn core(&self, path: &Path) {
        let mut bytes = self.bytes.clone();
        bytes[16] = 4;
        std::fs::write(path, bytes).unwrap();
    }
}

/// All functions of a unit.
pub fn check(unit: &elf::Object, loaded: &Loaded) -> Vec<Finding> {
    let side = Side::new(unit).unwrap();
    verify::verify_unit(&side, &verify::functions(&side), loaded).unwrap()
}

/// Names of the functions that are not what the image holds.
pub fn wrong(unit: &elf::Object, loaded: &Loaded) -> Vec<String> {
    check(unit, loaded).into_iter().filter(|f| !f.is_equal()).map(|f| f.function).collect()
}

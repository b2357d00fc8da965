//! A kernel image, files and a script -> what they printed, in QEMU with nothing but memory and two serial lines.
//!
//! The console line carries the kernel's log alone; the script's output and exit status come over the second
//! line, so that neither is cut into pieces by the other. A guest that panics, hangs or stops early is an
//! error with the end of the log, never a result.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::initramfs::Initramfs;
use crate::{Args, apt, dirs, guest, kernel};

/// What booting takes.
pub const PACKAGES: &[&str] = &["qemu-system-x86", "busybox-static", "e2fsprogs", "kmod", "xz-utils"];

/// Runs before the script: mounts, names, and the line that the script's output goes to.
const INIT: &str = include_str!("../../tests/boot/init.sh");

/// What to boot, and what to run in it.
pub struct Guest {
    image: PathBuf,
    initramfs: Initramfs,
    timeout: Duration,
    counted: bool,
    moved: bool,
    processor: String,
    append: String,
    disks: Vec<PathBuf>,
}

/// What came out.
#[derive(Debug)]
pub struct Run {
    /// The kernel's log, with the kernel's time stamps.
    pub console: String,
    /// What the script printed.
    pub output: String,
    /// The script's exit status; none if the guest went down before.
    pub status: Option<i32>,
    /// From the start of QEMU to its end.
    pub time: Duration,
}

impl Guest {
    /// A guest that boots `image` and has busybox.
    pub fn new(image: &Path) -> Result<Guest> {
        apt::install(PACKAGES)?;
        let mut initramfs = Initramfs::new();
        let busybox = fs::read("/bin/busybox").context("failed to read `/bin/busybox`")?;
        initramfs.program("/bin/busybox", busybox);
        initramfs.program("/init", INIT);
        Ok(Guest {
            image: image.to_path_buf(),
            initramfs,
            timeout: Duration::from_secs(120),
            counted: false,
            moved: false,
            processor: "max,la57=off".to_owned(),
            append: String::new(),
            disks: Vec::new(),
        })
    }

    /// The kernel moves itself to a random address, as it does everywhere but in tests.
    pub fn moved(&mut self) -> &mut Guest {
        self.moved = true;
        self
    }

    /// Another processor than all that QEMU can emulate.
    pub fn processor(&mut self, name: &str) -> &mut Guest {
        name.clone_into(&mut self.processor);
        self
    }

    /// Further words for the kernel's command line.
    pub fn append(&mut self, words: &str) -> &mut Guest {
        self.append.push(' ');
        self.append.push_str(words);
        self
    }

    /// A file of the host as another disk of the guest's (/dev/vda, vdb and so on, where the guest has virtio).
    pub fn disk(&mut self, file: &Path) -> &mut Guest {
        self.disks.push(file.to_path_buf());
        self
    }

    /// The guest's clock counts its instructions, one a nanosecond: what it waits for is there at once.
    pub fn counted(&mut self) -> &mut Guest {
        self.counted = true;
        self
    }

    /// Gives up after this long.
    pub fn timeout(&mut self, timeout: Duration) -> &mut Guest {
        self.timeout = timeout;
        self
    }

    /// Adds a file to the guest.
    pub fn file(&mut self, path: &str, data: impl Into<Vec<u8>>) -> &mut Guest {
        self.initramfs.file(path, data);
        self
    }

    /// Adds a file of the host, executable if it is so there.
    pub fn copy(&mut self, path: &str, file: &Path) -> Result<&mut Guest> {
        let read = || Ok::<_, std::io::Error>((fs::read(file)?, fs::metadata(file)?.permissions().mode()));
        let (data, mode) = read().with_context(|| format!("failed to read `{}`", file.display()))?;
        if mode & 0o111 == 0 {
            self.initramfs.file(path, data)
        } else {
            self.initramfs.program(path, data)
        }
        Ok(self)
    }

    /// Adds a program of the host with the libraries that it needs.
    pub fn program(&mut self, path: &str, file: &Path) -> Result<&mut Guest> {
        let sh = Shell::new()?;
        let libraries = cmd!(sh, "ldd {file}").quiet().read().context("failed to ask for a program's libraries")?;
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            self.copy(library, Path::new(library))?;
        }
        self.copy(path, file)
    }

    /// Adds a module, unpacked if it is shipped compressed: busybox cannot do that.
    pub fn module(&mut self, path: &str, file: &Path) -> Result<&mut Guest> {
        let sh = Shell::new()?;
        let data = match file.extension().and_then(|e| e.to_str()) {
            Some("xz") => cmd!(sh, "xz -dc {file}").quiet().output()?.stdout,
            Some("zst") => cmd!(sh, "zstd -dc {file}").quiet().output()?.stdout,
            Some("gz") => cmd!(sh, "gzip -dc {file}").quiet().output()?.stdout,
            _ => fs::read(file).with_context(|| format!("failed to read `{}`", file.display()))?,
        };
        Ok(self.file(path, data))
    }

    /// Boots, runs `script` with the guest's shell to its end, and powers off.
    pub fn run(self, script: &str) -> Result<Run> {
        let seconds = self.timeout.as_secs();
        let run = self.try_run(script)?;
        if run.status.is_none() {
            let log = tail(&run.console, 30);
            bail!("failed to run the guest's script to its end within {seconds} s; the guest's log ends:\n{log}");
        }
        Ok(run)
    }

    /// The same, for scripts that may take the guest down; `status` is missing then.
    pub fn try_run(mut self, script: &str) -> Result<Run> {
        self.initramfs.program("/script", script);
        let work = dirs::scratch("vm")?;
        let path = |name: &str| work.path().join(name);
        fs::write(path("initramfs"), self.initramfs.into_bytes()).context("failed to write the initramfs")?;
        let start = Instant::now();
        let kaslr = if self.moved { "" } else { "nokaslr " };
        let append =
            format!("console=ttyS0 panic=-1 {kaslr}ignore_loglevel printk.devkmsg=on rdinit=/init{}", self.append);
        let drives = self.disks.iter().map(|file| format!("file={},if=virtio,format=raw", file.display()));
        let drives: Vec<String> = drives.flat_map(|drive| ["-drive".to_owned(), drive]).collect();
        // Plain emulation everywhere: the same instructions on every machine, and no rights needed.
        // setpriv: a guest does not outlive the run that started it, however that ends.
        let mut qemu = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-accel", "tcg,thread=single", "-cpu", &self.processor, "-smp", "2", "-m", "1024"])
            .args(if self.counted { &["-icount", "shift=0,sleep=off"][..] } else { &[] })
            .args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-kernel"])
            .arg(&self.image)
            .arg("-initrd")
            .arg(path("initramfs"))
            .arg("-append")
            .arg(append)
            .args(drives)
            .arg("-serial")
            .arg(format!("file:{}", path("console").display()))
            .arg("-serial")
            .arg(format!("file:{}", path("output").display()))
            .stdin(Stdio::null())
            .stderr(fs::File::create(path("errors"))?)
            .spawn()
            .context("failed to run `qemu-system-x86_64`")?;
        loop {
            match qemu.try_wait()? {
                Some(status) if status.success() => break,
                Some(status) => bail!("failed to run QEMU: {status}\n{}", text(&path("errors")).trim_end()),
                None if start.elapsed() > self.timeout => {
                    qemu.kill()?;
                    qemu.wait()?;
                    break;
                }
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        let (console, output) = (text(&path("console")), text(&path("output")));
        // The last line that init prints; a panic, a reset or a hang ends QEMU without it.
        let (output, status) = match output.rsplit_once("@@exit ") {
            Some((output, status)) => {
                (output.to_owned(), Some(status.trim().parse().context("failed to read the guest's exit status")?))
            }
            None => (output, None),
        };
        Ok(Run { output, console, status, time: start.elapsed() })
    }
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).replace('\r', "")
}

/// The last `count` lines.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The task: `vm --kernel NAME [--module X.ko]... [SCRIPT]`; the script is a file, `-c TEXT`, or nothing.
pub fn run(args: Args<'_>) -> Result<()> {
    let usage = "usage: cargo xtask vm --kernel NAME [--module X.ko]... [SCRIPT | -c TEXT]";
    let (mut name, mut modules, mut script) = (None, Vec::new(), None);
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--kernel" => name = words.next(),
            "--module" => modules.push(PathBuf::from(words.next().context(usage)?)),
            "-c" => script = Some(words.next().context(usage)?.clone()),
            file if script.is_none() && !file.starts_with('-') => script = Some(dirs::read(Path::new(file))?),
            _ => bail!("{usage}"),
        }
    }
    let kernel = kernel::prepare(name.context(usage)?, false)?;
    let run = if let Some(script) = script {
        let mut guest = Guest::new(&kernel.image)?;
        for module in &modules {
            let name = module.file_name().context(usage)?.to_string_lossy().into_owned();
            guest.module(&format!("/modules/{name}"), module)?;
        }
        guest.run(&format!("cd /modules 2>/dev/null\n{script}"))?
    } else {
        let cases: Vec<guest::Case> = modules.iter().map(|m| guest::Case::load(m)).collect::<Result<_>>()?;
        let (run, results) = guest::run_cases(&kernel, &cases)?;
        for result in results {
            println!("{}", result.summary());
        }
        run
    };
    print!("{}", run.console);
    println!("--- output, {:.1} s", run.time.as_secs_f64());
    print!("{}", run.output);
    match run.status {
        Some(0) => Ok(()),
        Some(status) => bail!("the script ended with status {status}"),
        None => bail!("the guest went down before the script ended"),
    }
}

//! `--launcher` with real ones: ccache, and distcc with a server on this machine.
//!
//! In: linux-7 and one patch. Out: rows. Each launcher has to have run the compiles, by its own account, and the module must
//! be the same bytes as without one. Each run has an empty cache of objects: what is found there is not compiled.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::kernel::Kernel;
use crate::matrix::Score;
use crate::{apt, build, dirs, kernel};

const PATCH: &str = "02-meminfo-string.patch";

/// The part of `cargo xtask test`.
pub fn run() -> Result<Score> {
    apt::install(&["ccache", "distcc"])?;
    let kernel = kernel::prepare("linux-7", false)?;
    let klp_build = build::klp_build()?;
    let out = dirs::scratch("launchers")?;
    let bench = Bench { kernel: &kernel, klp_build: &klp_build, out: out.path() };
    let plain = bench.build("plain", &[], &[])?;
    let mut score = Score::default();
    println!("\nlaunchers ({})", kernel.release);
    score.row("ccache", "", &bench.ccache(&plain)?);
    score.row("distcc, a server on loopback", "", &bench.distcc(&plain)?);
    Ok(score)
}

struct Bench<'a> {
    kernel: &'a Kernel,
    klp_build: &'a Path,
    out: &'a Path,
}

impl Bench<'_> {
    /// The module that one run makes, in a directory of its own.
    fn build(&self, name: &str, args: &[&str], env: &[(&str, String)]) -> Result<Vec<u8>> {
        let dir = self.out.join(name);
        dirs::create(&dir)?;
        let module = dir.join("livepatch-launched.ko");
        let mut command = Command::new(self.klp_build);
        command.args(self.kernel.options()).args(args).arg("--output").arg(&module);
        command.arg(dirs::root().join("tests/patches").join(PATCH));
        command.env("XDG_CACHE_HOME", dir.join("cache")).envs(env.iter().map(|(key, value)| (key, value)));
        let output = command.output().context("failed to run klp-build")?;
        if !output.status.success() {
            bail!("failed to build with {args:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        fs::read(&module).with_context(|| format!("failed to read `{}`", module.display()))
    }

    /// Twice: the second time nothing is compiled.
    fn ccache(&self, plain: &[u8]) -> Result<Vec<String>> {
        let store = self.out.join("ccache");
        let env = [("CCACHE_DIR", store.display().to_string())];
        let mut problems = Vec::new();
        for (name, counter) in [("ccache-cold", "cache_miss"), ("ccache-warm", "cache_hit")] {
            if self.build(name, &["--launcher", "ccache"], &env)? != plain {
                problems.push(format!("{name}: another module than without a launcher"));
            }
            let stats = Command::new("ccache").arg("--print-stats").env("CCACHE_DIR", &store).output()?;
            let stats = String::from_utf8_lossy(&stats.stdout).into_owned();
            let counted = stats.lines().filter(|line| line.contains(counter));
            let sum: u64 = counted.filter_map(|line| line.split_whitespace().next_back()?.parse::<u64>().ok()).sum();
            if sum == 0 {
                problems.push(format!("{name}: ccache counts no {counter}:\n{stats}"));
            }
        }
        Ok(problems)
    }

    /// With no way to compile here: a job that the server does not do fails.
    fn distcc(&self, plain: &[u8]) -> Result<Vec<String>> {
        let dir = self.out.join("distccd");
        dirs::create(&dir)?;
        // Started by root, the server becomes another user, who must be able to come here and to write its log.
        for path in [self.out, &dir] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
        }
        let log = tempfile::Builder::new().prefix("klp-distccd-").tempdir()?;
        fs::set_permissions(log.path(), fs::Permissions::from_mode(0o777))?;
        let log_file = log.path().join("log");
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = Server::start(port, &log_file)?;
        let env = [
            ("DISTCC_HOSTS", format!("127.0.0.1:{port}")),
            ("DISTCC_FALLBACK", "0".to_owned()),
            ("DISTCC_DIR", dir.display().to_string()),
        ];
        let module = self.build("distcc", &["--launcher", "distcc"], &env);
        server.stop();
        let said = fs::read_to_string(&log_file).unwrap_or_default();
        let mut problems = Vec::new();
        if module? != plain {
            problems.push("another module than without a launcher".to_owned());
        }
        let done = said.lines().filter(|line| line.contains("COMPILE_OK")).count();
        if done != 2 {
            problems.push(format!("the server says that it compiled {done} times, not twice:\n{said}"));
        }
        Ok(problems)
    }
}

/// A distcc server that ends with us.
struct Server(Child);

impl Server {
    fn start(port: u16, log: &Path) -> Result<Server> {
        let port = port.to_string();
        let mut command = Command::new("distccd");
        command.args(["--daemon", "--no-detach", "--allow", "127.0.0.1", "--listen", "127.0.0.1", "--jobs", "2"]);
        command.args(["--port", &port, "--log-level", "info", "--log-file"]).arg(log);
        let server = Server(command.stdin(Stdio::null()).spawn().context("failed to run `distccd`")?);
        let start = Instant::now();
        while std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_err() {
            if start.elapsed() > Duration::from_secs(20) {
                bail!("failed to reach the distcc server on port {port}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    /// It ends its own children on SIGTERM.
    fn stop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        Command::new("kill").arg(self.0.id().to_string()).status().ok();
        self.0.wait().ok();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

//! The broker: the real binary on one folder and one port, started and killed again and again.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ratatosk_power::{Order, Watch};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

const START_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// The broker's folder, and its process while there is one. The process is killed when this is
/// dropped, and the folder is removed unless it is to be kept.
#[derive(Debug)]
pub struct Broker {
    binary: PathBuf,
    folder: PathBuf,
    ports: [u16; 2],
    child: Option<Child>,
    watch: Option<Watch>,
    is_kept: bool,
}

impl Broker {
    /// A new folder, and ports that are free; nothing is started.
    ///
    /// # Errors
    /// If there is no binary, or the folder cannot be made.
    pub fn new() -> Result<Broker> {
        let binary = binary()?;
        let (folder, ports) = (fresh_folder()?, free_ports()?);
        let [mqtt, admin] = ports;
        // Visitors stay away for long, and nothing is to be dropped because their queue is full.
        let text = format!(
            "[[listener]]\nprotocol = \"mqtt\"\naddress = \"127.0.0.1:{mqtt}\"\n\
             [admin]\naddress = \"127.0.0.1:{admin}\"\n[tenant]\nsession_inbox_size = 10000000\n"
        );
        fs::write(folder.join("ratatosk.toml"), text)?;
        Ok(Broker { binary, folder, ports, child: None, watch: None, is_kept: false })
    }

    /// What its processes write from now on is written down, so that the power can be cut.
    ///
    /// # Errors
    /// If what stands between it and the disk cannot be built.
    pub fn watch(&mut self) -> Result<()> {
        let shim = built("ratatosk-shim")?.join("libratatosk_shim.so");
        let (data, own) = (self.folder.join("data"), self.folder.join("shim"));
        self.watch = Some(Watch::new(shim, &data, &own)?);
        Ok(())
    }

    /// Where it listens for MQTT.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    /// Its configuration, data and log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder stays when this is dropped.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Starts the process; that it listens is not waited for.
    ///
    /// # Errors
    /// If the system does not start it.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the broker runs already");
        let log = self.open_log()?;
        let mut command = Command::new(&self.binary);
        // The broker takes each variable of its prefix for a setting.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RATATOSK_") {
                command.env_remove(name);
            }
        }
        command.arg("--config").arg(self.folder.join("ratatosk.toml"));
        command.arg("--data-dir").arg(self.folder.join("data")).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(watch) = &mut self.watch {
            watch.begin(&mut command)?;
        }
        self.child = Some(command.spawn().context("starting the broker")?);
        Ok(())
    }

    fn open_log(&self) -> Result<File> {
        let path = self.folder.join("broker.log");
        let open = OpenOptions::new().append(true).create(true).open(&path);
        open.with_context(|| format!("opening {}", path.display()))
    }

    /// Waits until it listens.
    ///
    /// # Errors
    /// If it ends instead, or does not listen within a minute.
    pub async fn ready(&mut self) -> Result<()> {
        let started = Instant::now();
        while TcpStream::connect(self.address()).await.is_err() {
            self.check_alive()?;
            ensure!(started.elapsed() < START_MAX, "the broker does not start:\n{}", self.log());
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Whether it has not ended by itself.
    ///
    /// # Errors
    /// Says how it ended.
    pub fn check_alive(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("the broker was not started")?;
        if let Some(status) = child.try_wait()? {
            bail!("the broker ended with {status}:\n{}", self.log());
        }
        Ok(())
    }

    /// kill -9; returns when the process is gone.
    ///
    /// # Errors
    /// If it had ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.check_alive()?;
        if let Some(mut child) = self.child.take() {
            child.kill().context("killing the broker")?;
            child.wait()?;
        }
        Ok(())
    }

    /// The power fails: kill -9, and of what was not synced some is lost. Says how many changes of
    /// files and names were not.
    ///
    /// # Errors
    /// If the process had ended before, it was not watched, or did to its folder what is not
    /// followed.
    pub fn cut_power(&mut self, below: &mut dyn FnMut(usize) -> usize) -> Result<usize> {
        self.kill()?;
        let watch = self.watch.as_mut().context("nobody knows what was synced")?;
        watch.lose(below)
    }

    /// The disk obeys an order from its next call on. The broker was watched from its start.
    ///
    /// # Errors
    /// If it was not, or the order cannot be written.
    pub fn order(&self, order: Order) -> Result<()> {
        self.watch.as_ref().context("the broker is not watched")?.order(order)
    }

    /// Ends it as an operator does, and sees that all it did to its folder was noticed.
    ///
    /// # Errors
    /// If it does not end well, or something was not noticed.
    pub fn stop_and_compare(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the broker was not started")?;
        let id = child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status()?;
        ensure!(status.success(), "kill ended with {status}");
        let status = child.wait()?;
        ensure!(status.success(), "the broker ended with {status}:\n{}", self.log());
        self.watch.as_ref().context("the broker is not watched")?.check()
    }

    /// Whether something in it panicked, or somebody has to look at an error.
    ///
    /// # Errors
    /// Quotes the line.
    pub fn check_log(&self) -> Result<()> {
        let text = fs::read_to_string(self.folder.join("broker.log"))?;
        let is_bad = |line: &&str| line.contains("panicked at") || line.contains("ERROR");
        match text.lines().find(is_bad) {
            Some(line) => bail!("the broker says {line:?}"),
            None => Ok(()),
        }
    }

    /// The last lines that it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.join("broker.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.is_kept || std::thread::panicking() {
            eprintln!("log and data of the broker: {}", self.folder.display());
            return;
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// `RATATOSK_BIN`, or what cargo builds.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("RATATOSK_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "RATATOSK_BIN names {}, which is no file", path.display());
        return Ok(path);
    }
    Ok(built("ratatosk")?.join("ratatosk"))
}

/// Builds a package in the profile of this program, and says in which folder it lies.
fn built(package: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut folder = own.parent().context("a program lies in a folder")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("deps lies in the folder of a profile")?;
    }
    let target = folder.parent().context("the profile lies in the target folder")?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--package", package, "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .status()?;
    ensure!(status.success(), "cargo build ended with {status}");
    Ok(folder.to_owned())
}

/// Ports below those that the system gives to connections, so that no client takes the broker's
/// while it is not there.
fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT]> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut ports = [0; COUNT];
    let mut found = 0;
    for _ in 0..9_000 {
        if found == COUNT {
            return Ok(ports);
        }
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let number = next.wrapping_add(std::process::id().wrapping_mul(64)) % 9_000;
        let port = 22_500 + u16::try_from(number)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            ports[found] = port;
            found += 1;
        }
    }
    bail!("no {COUNT} ports from 22,500 on are free")
}

fn fresh_folder() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ratatosk-crash-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

//! The broker: the real binary on one folder and one port, started and killed again and again.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
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
        Ok(Broker { binary, folder, ports, child: None, is_kept: false })
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

/// `RATATOSK_BIN`, or what cargo builds in the profile of this program.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("RATATOSK_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "RATATOSK_BIN names {}, which is no file", path.display());
        return Ok(path);
    }
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
        .args(["build", "--quiet", "--package", "ratatosk", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .status()?;
    ensure!(status.success(), "cargo build ended with {status}");
    Ok(folder.join("ratatosk"))
}

/// Ports below those that the system gives to connections, which no two tests share.
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

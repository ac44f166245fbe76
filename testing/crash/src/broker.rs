//! The broker: the real binary on one folder and one port, started and killed again and again.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ratatosk_power::{Order, Watch};
use ratatosk_testkit::scratch::Scratch;
use ratatosk_testkit::{binary, ports};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

const START_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// The broker's folder, and its process while there is one. The process is killed when this is
/// dropped, and the folder is removed unless it is to be kept.
#[derive(Debug)]
pub struct Broker {
    folder: Scratch,
    ports: [u16; 2],
    child: Option<Child>,
    watch: Option<Watch>,
}

impl Broker {
    /// A new folder, and ports that are free; nothing is started.
    ///
    /// # Errors
    /// If there is no binary, or the folder cannot be made.
    pub fn new() -> Result<Broker> {
        // Built before anybody waits for a start.
        binary::path()?;
        let (folder, ports) = (Scratch::new("crash"), ports::free()?);
        let [mqtt, admin] = ports;
        // Visitors stay away for long, and nothing is to be dropped because their queue is full.
        let text = format!(
            "[[listener]]\nprotocol = \"mqtt\"\naddress = \"127.0.0.1:{mqtt}\"\n\
             [admin]\naddress = \"127.0.0.1:{admin}\"\n[tenant]\nsession_inbox_size = 10000000\n"
        );
        fs::write(folder.path().join("ratatosk.toml"), text)?;
        Ok(Broker { folder, ports, child: None, watch: None })
    }

    /// What its processes write from now on is written down, so that the power can be cut.
    ///
    /// # Errors
    /// If what stands between it and the disk cannot be built.
    pub fn watch(&mut self) -> Result<()> {
        let shim = binary::package("ratatosk-shim")?.join("libratatosk_shim.so");
        let folder = self.folder.path();
        self.watch = Some(Watch::new(shim, &folder.join("data"), &folder.join("shim"))?);
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
        self.folder.path()
    }

    /// The folder stays when this is dropped.
    pub fn keep(&mut self) {
        self.folder.keep();
    }

    /// Starts the process; that it listens is not waited for.
    ///
    /// # Errors
    /// If the system does not start it.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the broker runs already");
        let log = self.open_log()?;
        let folder = self.folder.path();
        let mut command = binary::ratatosk()?;
        command.arg("--config").arg(folder.join("ratatosk.toml"));
        command.arg("--data-dir").arg(folder.join("data")).current_dir(folder);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(watch) = &mut self.watch {
            watch.begin(&mut command)?;
        }
        self.child = Some(command.spawn().context("starting the broker")?);
        Ok(())
    }

    fn open_log(&self) -> Result<File> {
        let path = self.folder.path().join("broker.log");
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
        let text = fs::read_to_string(self.folder.path().join("broker.log"))?;
        let is_bad = |line: &&str| line.contains("panicked at") || line.contains("ERROR");
        match text.lines().find(is_bad) {
            Some(line) => bail!("the broker says {line:?}"),
            None => Ok(()),
        }
    }

    /// The last lines that it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("broker.log")).unwrap_or_default();
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
    }
}

//! The broker under attack: the real binary as a child, and what can be seen of it from outside.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ratatosk_testkit::scratch::Scratch;
use ratatosk_testkit::{binary, ports};

const START_MAX: Duration = Duration::from_secs(30);

/// A listener of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// MQTT over TCP.
    Tcp,
    /// MQTT over TLS.
    Tls,
    /// WebSocket.
    Ws,
    /// MQTT over TCP behind a PROXY header.
    Proxy,
}

const LISTENERS: [Listener; 4] = [Listener::Tcp, Listener::Tls, Listener::Ws, Listener::Proxy];

/// A running broker; killed when dropped.
#[derive(Debug)]
pub struct Target {
    child: Child,
    folder: Scratch,
    ports: [u16; 4],
    admin: u16,
}

impl Target {
    /// Starts the binary with a memory limit and further settings, each `key=value`.
    ///
    /// # Errors
    /// If there is no binary, or it does not listen within 30 s.
    pub fn start(memory: &str, settings: &[&str]) -> Result<Target> {
        let folder = Scratch::new("hostile");
        let path = folder.path();
        let [tcp, tls, ws, proxy, admin] = ports::free()?;
        write_configuration(path, [tcp, tls, ws, proxy], admin, memory)?;
        let log = fs::File::create(path.join("broker.log"))?;
        let mut command = binary::ratatosk()?;
        command.arg("--config").arg(path.join("ratatosk.toml"));
        command.arg("--data-dir").arg(path.join("data")).current_dir(path);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("starting the broker")?;
        let mut target = Target { child, folder, ports: [tcp, tls, ws, proxy], admin };
        let started = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, admin)).is_err() {
            if let Some(status) = target.child.try_wait()? {
                bail!("the broker ended with {status}:\n{}", target.log());
            }
            ensure!(started.elapsed() < START_MAX, "the broker does not start:\n{}", target.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(target)
    }

    /// Where a listener listens.
    #[must_use]
    pub fn address(&self, listener: Listener) -> SocketAddr {
        let index = LISTENERS.iter().position(|known| *known == listener).unwrap_or(0);
        (Ipv4Addr::LOCALHOST, self.ports[index]).into()
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident size in bytes.
    ///
    /// # Errors
    /// If it is not there any more.
    pub fn resident(&self) -> Result<u64> {
        resident(self.pid())
    }

    /// How many descriptors it has open.
    ///
    /// # Errors
    /// If it is not there any more.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// The sum of all samples of a metric.
    ///
    /// # Errors
    /// If the management listener does not answer, or there is no such metric.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let page = self.metrics()?;
        let is_it =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let values = page.lines().filter(is_it).filter_map(|line| line.rsplit(' ').next());
        let values: Vec<f64> = values.filter_map(|value| value.parse().ok()).collect();
        ensure!(!values.is_empty(), "there is no metric {name} in\n{page}");
        Ok(values.iter().sum())
    }

    /// The samples of a metric by the value of its one label.
    ///
    /// # Errors
    /// If the management listener does not answer, or there is no such metric.
    pub fn samples(&self, name: &str, label: &str) -> Result<Vec<(String, f64)>> {
        let page = self.metrics()?;
        let prefix = format!("{name}{{{label}=\"");
        let sample = |line: &str| {
            let (value, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
            Some((value.to_owned(), count.parse().ok()?))
        };
        let samples: Vec<_> = page.lines().filter_map(sample).collect();
        ensure!(!samples.is_empty(), "there is no metric {name} by {label} in\n{page}");
        Ok(samples)
    }

    /// The page of metrics.
    ///
    /// # Errors
    /// If the management listener does not answer within 10 s.
    pub fn metrics(&self) -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.admin))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("broker.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Whether it lives and nothing in it panicked.
    ///
    /// # Errors
    /// Says how it ended, or where it panicked.
    pub fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the broker ended with {status}:\n{}", self.log());
        }
        let text = fs::read_to_string(self.folder.path().join("broker.log"))?;
        let is_bad = |line: &&str| line.contains("panicked at") || line.contains("ERROR");
        match text.lines().find(is_bad) {
            Some(line) => bail!("the broker says {line:?}"),
            None => Ok(()),
        }
    }

    /// Waits until a condition holds; false if it does not within `limit`.
    pub fn until(&self, limit: Duration, mut holds: impl FnMut(&Target) -> bool) -> bool {
        let started = Instant::now();
        while !holds(self) {
            if started.elapsed() > limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        true
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("broker:\n{}", self.log());
        }
    }
}

/// The resident size of a process in bytes.
///
/// # Errors
/// If it is not there any more.
pub fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    let kibibytes: u64 = number.context("the process has no size any more")?.parse()?;
    Ok(kibibytes * 1024)
}

fn write_configuration(folder: &Path, ports: [u16; 4], admin: u16, memory: &str) -> Result<()> {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let (certificate, key) = (folder.join("server.pem"), folder.join("server.key"));
    fs::write(&certificate, certified.cert.pem())?;
    fs::write(&key, certified.signing_key.serialize_pem())?;
    let mut text = String::new();
    for (listener, port) in LISTENERS.iter().zip(ports) {
        let (protocol, more) = match listener {
            Listener::Tcp => ("mqtt", String::new()),
            Listener::Tls => {
                ("mqtts", format!("tls = {{ certificate = {certificate:?}, key = {key:?} }}\n"))
            }
            Listener::Ws => ("ws", String::new()),
            Listener::Proxy => {
                ("mqtt", "proxy_protocol = { trusted = [\"127.0.0.0/8\"] }\n".to_owned())
            }
        };
        writeln!(text, "[[listener]]\nprotocol = \"{protocol}\"\naddress = \"127.0.0.1:{port}\"")?;
        writeln!(text, "{more}")?;
    }
    writeln!(text, "[admin]\naddress = \"127.0.0.1:{admin}\"\n[memory]\nlimit = \"{memory}\"")?;
    Ok(fs::write(folder.join("ratatosk.toml"), text)?)
}

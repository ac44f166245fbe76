//! One broker under test: its folder, its ports, its life.
//!
//! Started on free ports of the loopback with one listener per transport; ready when every
//! listener accepts. Killed when dropped, also while a test panics; then its output is shown and
//! its folder kept.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::binary;
use crate::process::{Process, until};

const START_MAX: Duration = Duration::from_secs(30);
const STARTS_MAX: usize = 3;
const PORTS_FIRST: u16 = 20_000;
const PORTS_COUNT: u16 = 12_000;

/// How a client reaches the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Transport {
    /// The name that scripts take.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Ws => "ws",
            Transport::Wss => "wss",
        }
    }

    fn protocol(self) -> &'static str {
        match self {
            Transport::Tcp => "mqtt",
            Transport::Tls => "mqtts",
            Transport::Ws => "ws",
            Transport::Wss => "wss",
        }
    }

    fn is_encrypted(self) -> bool {
        matches!(self, Transport::Tls | Transport::Wss)
    }
}

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    folder: PathBuf,
    listeners: Vec<(Transport, u16)>,
    settings: Vec<String>,
    process: Process,
}

impl Broker {
    /// Starts one with a listener for each of the transports.
    ///
    /// # Errors
    /// If there is no binary, or it does not listen within 30 s; the error holds its output.
    pub fn start(transports: &[Transport]) -> Result<Broker> {
        Broker::start_with(transports, &[])
    }

    /// Starts one with settings, each `key=value` as `--set` takes them.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start_with(transports: &[Transport], settings: &[&str]) -> Result<Broker> {
        let folder = fresh_folder()?;
        write_certificates(&folder)?;
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut last = None;
        // Another process may take a port between its choice and its use.
        for _ in 0..STARTS_MAX {
            let ports = free_ports(transports.len() + 1)?;
            let (admin, ports) = ports.split_first().context("no port for the admin listener")?;
            let listeners: Vec<(Transport, u16)> =
                transports.iter().copied().zip(ports.iter().copied()).collect();
            write_configuration(&folder, &listeners, *admin)?;
            match launch(&folder, &listeners, &settings) {
                Ok(process) => return Ok(Broker { folder, listeners, settings, process }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("the broker was never started")?)
    }

    /// Ends it as a crash would, and starts it again on the same data and ports.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = launch(&self.folder, &self.listeners, &self.settings)?;
        Ok(())
    }

    /// The port of a transport.
    ///
    /// # Panics
    /// If the broker was not started with it.
    #[must_use]
    pub fn port(&self, transport: Transport) -> u16 {
        let found = self.listeners.iter().find(|(other, _)| *other == transport);
        found.map(|(_, port)| *port).expect("the broker was started with this transport")
    }

    /// The certificate that clients trust.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    /// A file in the broker's folder, for the output of a client.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        self.folder.join(format!("{name}-{}.log", NEXT.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            eprintln!("broker in {}:\n{}", self.folder.display(), self.process.last_output());
            return;
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn launch(folder: &Path, listeners: &[(Transport, u16)], settings: &[String]) -> Result<Process> {
    let mut command = Command::new(binary::path()?);
    command
        .arg("--config")
        .arg(folder.join("ratatosk.toml"))
        .arg("--data-dir")
        .arg(folder.join("data"))
        .current_dir(folder);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut process = Process::start(command, &folder.join("broker.log"))?;
    let is_ready = until(START_MAX, || {
        if let Some(status) = process.ended()? {
            bail!("the broker ended with {status}:\n{}", process.last_output());
        }
        let accepts = |port: u16| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        Ok(listeners.iter().all(|(_, port)| accepts(*port)).then_some(()))
    })?;
    if is_ready.is_none() {
        let output = process.last_output();
        bail!("the broker does not listen on {listeners:?} within {START_MAX:?}:\n{output}");
    }
    Ok(process)
}

fn write_configuration(folder: &Path, listeners: &[(Transport, u16)], admin: u16) -> Result<()> {
    let mut text = String::new();
    for (transport, port) in listeners {
        let protocol = transport.protocol();
        writeln!(text, "[[listener]]\nprotocol = \"{protocol}\"\naddress = \"127.0.0.1:{port}\"")?;
        if transport.is_encrypted() {
            let certificate = folder.join("server.pem");
            let key = folder.join("server.key");
            writeln!(text, "tls = {{ certificate = {certificate:?}, key = {key:?} }}")?;
        }
        text.push('\n');
    }
    writeln!(text, "[admin]\naddress = \"127.0.0.1:{admin}\"")?;
    let path = folder.join("ratatosk.toml");
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// An authority, and a server certificate by it for the loopback.
fn write_certificates(folder: &Path) -> Result<()> {
    let authority_key = rcgen::KeyPair::generate()?;
    let mut authority = rcgen::CertificateParams::new(Vec::new())?;
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "ratatosk e2e");
    authority.key_usages =
        vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = rcgen::Issuer::new(authority, authority_key);

    let server_key = rcgen::KeyPair::generate()?;
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut server = rcgen::CertificateParams::new(names)?;
    server.use_authority_key_identifier_extension = true;
    server.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let server_certificate = server.signed_by(&server_key, &issuer)?;

    std::fs::write(folder.join("authority.pem"), authority_certificate.pem())?;
    std::fs::write(folder.join("server.pem"), server_certificate.pem())?;
    std::fs::write(folder.join("server.key"), server_key.serialize_pem())?;
    Ok(())
}

/// Ports that nothing listens on now. They lie below those that the system gives to connections,
/// so that no client takes one before the broker does, and no two tests get the same.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut ports = Vec::new();
    for _ in 0..PORTS_COUNT {
        if ports.len() == count {
            break;
        }
        let number =
            NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(64));
        let port = PORTS_FIRST + u16::try_from(number % u32::from(PORTS_COUNT))?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            ports.push(port);
        }
    }
    if ports.len() < count {
        bail!("fewer than {count} ports from {PORTS_FIRST} on are free");
    }
    Ok(ports)
}

fn fresh_folder() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("ratatosk-e2e-{}-{number}", std::process::id()));
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let mut ports = free_ports(20).expect("ports");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
    }

    #[test]
    fn the_configuration_has_a_listener_for_each_transport() {
        let folder = fresh_folder().expect("folder");
        let all = [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];
        let listeners: Vec<(Transport, u16)> = all.into_iter().zip(1..).collect();
        write_configuration(&folder, &listeners, 9).expect("writes");
        let text = std::fs::read_to_string(folder.join("ratatosk.toml")).expect("reads");
        for line in
            ["protocol = \"mqtts\"", "address = \"127.0.0.1:4\"", "address = \"127.0.0.1:9\""]
        {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("tls = {").count(), 2);
        std::fs::remove_dir_all(folder).expect("removes");
    }

    #[test]
    fn the_server_certificate_and_its_authority_are_written() {
        let folder = fresh_folder().expect("folder");
        write_certificates(&folder).expect("writes");
        for name in ["authority.pem", "server.pem", "server.key"] {
            let text = std::fs::read_to_string(folder.join(name)).expect("reads");
            assert!(text.starts_with("-----BEGIN "), "{name}");
        }
        std::fs::remove_dir_all(folder).expect("removes");
    }
}

//! One broker under test: its folder, its ports, its life.
//!
//! Started on free ports of the loopback with one listener per transport; ready when every
//! listener accepts. Killed when dropped, also while a test panics; then its output is shown and
//! its folder is kept.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ratatosk_power::{Order, Watch};
use ratatosk_testkit::{binary, ports};

use crate::place::Place;
use crate::process::{Process, until};

const START_MAX: Duration = Duration::from_secs(30);
const STARTS_MAX: usize = 3;

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
    // Dropped first, so that nothing runs in a folder that is removed.
    process: Process,
    listeners: Vec<(Transport, u16)>,
    admin: u16,
    settings: Vec<String>,
    /// If its disk takes orders.
    watch: Option<Watch>,
    place: Place,
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
        Broker::start_in(Place::new()?, transports, settings)
    }

    /// Starts one in a folder that is prepared; relative paths in settings are in it.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start_in(place: Place, transports: &[Transport], settings: &[&str]) -> Result<Broker> {
        Broker::start_on(place, None, transports, settings)
    }

    /// Starts one whose disk takes orders: see [`Broker::order`].
    ///
    /// # Errors
    /// As [`Broker::start`], and if what stands between it and its disk cannot be built.
    pub fn start_watched(transports: &[Transport]) -> Result<Broker> {
        let place = Place::new()?;
        let (data, own) = (place.path("data"), place.path("shim"));
        let shim = binary::package("ratatosk-shim")?.join("libratatosk_shim.so");
        let watch = Watch::new(shim, &data, &own)?;
        Broker::start_on(place, Some(watch), transports, &[])
    }

    fn start_on(
        place: Place,
        mut watch: Option<Watch>,
        transports: &[Transport],
        settings: &[&str],
    ) -> Result<Broker> {
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut last = None;
        // Another process may take a port between its choice and its use.
        for _ in 0..STARTS_MAX {
            let ports = ports::free_many(transports.len() + 1)?;
            let (admin, ports) = ports.split_first().context("no port for the admin listener")?;
            let listeners: Vec<(Transport, u16)> =
                transports.iter().copied().zip(ports.iter().copied()).collect();
            write_configuration(place.folder(), &listeners, *admin)?;
            match launch(place.folder(), &listeners, *admin, &settings, watch.as_mut()) {
                Ok(process) => {
                    let admin = *admin;
                    return Ok(Broker { process, listeners, admin, settings, watch, place });
                }
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
        let watch = self.watch.as_mut();
        let (folder, listeners) = (self.place.folder(), &self.listeners);
        self.process = launch(folder, listeners, self.admin, &self.settings, watch)?;
        Ok(())
    }

    /// Its disk obeys from the next call on. The broker was started watched.
    ///
    /// # Errors
    /// If it was not, or the order cannot be written.
    pub fn order(&self, order: Order) -> Result<()> {
        self.watch.as_ref().context("the broker is not watched")?.order(order)
    }

    /// Its disk is from the next call on as it was before the order.
    ///
    /// # Errors
    /// If there was none.
    pub fn withdraw(&self, order: Order) -> Result<()> {
        self.watch.as_ref().context("the broker is not watched")?.withdraw(order)
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

    /// The port of the management API.
    #[must_use]
    pub fn admin_port(&self) -> u16 {
        self.admin
    }

    /// The number of its process.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The folder that it runs in.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The certificate that clients trust.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.place.path("authority.pem")
    }

    /// Sends it a signal, such as `HUP`.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, name: &str) -> Result<()> {
        self.process.signal(name)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// If it is still there at the limit.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait(limit)
    }

    /// Its log up to now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn log(&self) -> Result<String> {
        self.process.output()
    }

    /// Waits for `count` log lines that contain the text; returns them.
    ///
    /// # Errors
    /// If they are not there within 30 s; the error holds the log.
    pub fn wait_for_log(&self, text: &str, count: usize) -> Result<Vec<String>> {
        let found = until(START_MAX, || {
            let log = self.process.output()?;
            let lines: Vec<String> =
                log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect();
            Ok((lines.len() >= count).then_some(lines))
        })?;
        found.with_context(|| {
            format!("no {count} lines with {text:?} in\n{}", self.process.last_output())
        })
    }

    /// A file in the broker's folder, for the output of a client.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.place.fresh_file(name)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            eprintln!("broker:\n{}", self.process.last_output());
        }
    }
}

fn launch(
    folder: &Path,
    listeners: &[(Transport, u16)],
    admin: u16,
    settings: &[String],
    watch: Option<&mut Watch>,
) -> Result<Process> {
    let mut command = binary::ratatosk()?;
    command
        .arg("--config")
        .arg(folder.join("ratatosk.toml"))
        .arg("--data-dir")
        .arg(folder.join("data"))
        .current_dir(folder);
    for setting in settings {
        command.args(["--set", setting]);
    }
    if let Some(watch) = watch {
        watch.begin(&mut command)?;
    }
    let mut process = Process::start(command, &folder.join("broker.log"))?;
    let is_ready = until(START_MAX, || {
        if let Some(status) = process.ended()? {
            bail!("the broker ended with {status}:\n{}", process.last_output());
        }
        let accepts = |port: u16| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        let mut ports = listeners.iter().map(|(_, port)| *port).chain([admin]);
        Ok(ports.all(accepts).then_some(()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_a_listener_for_each_transport() {
        let place = Place::new().expect("place");
        let folder = place.folder();
        let all = [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];
        let listeners: Vec<(Transport, u16)> = all.into_iter().zip(1..).collect();
        write_configuration(folder, &listeners, 9).expect("writes");
        let text = std::fs::read_to_string(folder.join("ratatosk.toml")).expect("reads");
        for line in
            ["protocol = \"mqtts\"", "address = \"127.0.0.1:4\"", "address = \"127.0.0.1:9\""]
        {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("tls = {").count(), 2);
    }
}

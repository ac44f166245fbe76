//! mosquitto_pub and mosquitto_sub against a broker.
//!
//! No step waits for a time: a subscriber's session exists when `mosquitto_sub -E` has returned.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::broker::{Broker, Transport};
use crate::process::finish;

const CLIENT_MAX: Duration = Duration::from_secs(30);

/// What a client speaks, and how it reaches the broker.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The broker.
    pub broker: &'a Broker,
    /// TCP or TLS: these clients have no WebSocket.
    pub transport: Transport,
    /// `mqttv31`, `mqttv311` or `mqttv5`.
    pub version: &'a str,
    /// QoS of every step.
    pub qos: u8,
}

/// A persistent session whose client is away.
#[derive(Debug)]
pub struct Sleeper {
    id: String,
    topic: String,
}

impl Exchange<'_> {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args(["-h", "localhost", "-V", self.version, "-q", &self.qos.to_string(), "-p"])
            .arg(self.broker.port(self.transport).to_string());
        if self.transport == Transport::Tls {
            command.arg("--cafile").arg(self.broker.authority());
        }
        command
    }

    fn finish(&self, command: Command, name: &str) -> Result<String> {
        finish(command, &self.broker.file(name), CLIENT_MAX).with_context(|| {
            format!("{name}, {}, QoS {} (is mosquitto-clients installed?)", self.version, self.qos)
        })
    }

    /// Leaves a session with one subscription behind.
    ///
    /// # Errors
    /// If the client fails.
    pub fn fall_asleep(&self, id: &str, topic: &str) -> Result<Sleeper> {
        let mut command = self.command("mosquitto_sub");
        self.stay(&mut command, id);
        command.args(["-t", topic, "-E"]);
        self.finish(command, "mosquitto_sub")?;
        Ok(Sleeper { id: id.to_owned(), topic: topic.to_owned() })
    }

    /// Comes back for `count` messages and returns them.
    ///
    /// # Errors
    /// If fewer come within 20 s.
    pub fn wake(&self, sleeper: &Sleeper, count: usize) -> Result<Vec<String>> {
        let mut command = self.command("mosquitto_sub");
        self.stay(&mut command, &sleeper.id);
        command.args(["-t", &sleeper.topic, "-W", "20", "-C", &count.to_string()]);
        let output = self.finish(command, "mosquitto_sub")?;
        Ok(output.lines().map(str::to_owned).collect())
    }

    fn stay(&self, command: &mut Command, id: &str) {
        command.args(["-i", id, "-c"]);
        if self.version == "mqttv5" {
            command.args(["-x", "300"]);
        }
    }
}

/// A client with arguments of the caller's, to be run with [`Place::run`](crate::Place::run) or
/// [`Process::start`](crate::Process::start).
#[must_use]
pub fn mosquitto(program: &str, port: u16, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "localhost", "-V", "mqttv5", "-p"]).arg(port.to_string()).args(arguments);
    command
}

/// Publishes lines, one message each, over one connection.
///
/// # Errors
/// If the client fails.
pub fn publish(exchange: &Exchange<'_>, topic: &str, lines: &[String]) -> Result<()> {
    let input = exchange.broker.file("lines");
    std::fs::write(&input, lines.join("\n") + "\n")?;
    // The client reads lines from its standard input only.
    let mut command = Command::new("sh");
    let mut publisher = exchange.command("mosquitto_pub");
    publisher.args(["-t", topic, "-l"]);
    command.args(["-c", "file=$1; shift; exec \"$@\" < \"$file\"", "sh"]).arg(&input);
    command.arg(publisher.get_program()).args(publisher.get_args());
    exchange.finish(command, "mosquitto_pub").map(|_| ())
}

/// Publishes a retained message and reads it back with a new client.
///
/// # Errors
/// If either fails, or another message comes.
pub fn retained(exchange: &Exchange<'_>, topic: &str, payload: &str) -> Result<()> {
    let mut command = exchange.command("mosquitto_pub");
    command.args(["-t", topic, "-r", "-m", payload]);
    exchange.finish(command, "mosquitto_pub")?;
    let mut command = exchange.command("mosquitto_sub");
    command.args(["-t", topic, "-C", "1", "-W", "20", "-F", "%r %q %p"]);
    let found = exchange.finish(command, "mosquitto_sub")?;
    let expected = format!("1 {} {payload}", exchange.qos);
    if found.trim_end() != expected {
        bail!("expected {expected:?}, got {:?}", found.trim_end());
    }
    Ok(())
}

/// A session sleeps, messages are published, it wakes and gets them in order.
///
/// # Errors
/// If a client fails, or the messages differ.
pub fn round_trip(exchange: &Exchange<'_>, name: &str, count: usize) -> Result<()> {
    let topic = format!("mosquitto/{name}");
    let sent: Vec<String> = (0..count).map(|number| format!("{name} {number}")).collect();
    let sleeper = exchange.fall_asleep(name, &topic)?;
    publish(exchange, &topic, &sent)?;
    let received = exchange.wake(&sleeper, count)?;
    if received != sent {
        bail!("{name}: expected {sent:?}, got {received:?}");
    }
    Ok(())
}

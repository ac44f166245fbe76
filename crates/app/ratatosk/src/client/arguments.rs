//! How to reach a broker: the flags that everybody in this field knows, `-h` for the host among
//! them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use ratatosk_codec::ProtocolVersion;
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};

#[derive(Debug, Args)]
pub(crate) struct ConnectionArgs {
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Host of the broker
    #[arg(short = 'h', long, default_value = "localhost")]
    pub(crate) host: String,
    /// Port of the broker [default: 1883, with TLS 8883]
    #[arg(short, long)]
    port: Option<u16>,
    /// Client id [default: made up]
    #[arg(short = 'i', long, value_name = "ID")]
    id: Option<String>,
    /// User name
    #[arg(short, long)]
    pub(crate) username: Option<String>,
    /// Password
    #[arg(short = 'P', long, env = "RATATOSK_CLIENT_PASSWORD", hide_env_values = true)]
    pub(crate) password: Option<String>,
    /// Protocol version: 3.1, 3.1.1 or 5
    #[arg(short = 'V', long = "protocol-version", default_value = "5", value_parser = version)]
    pub(crate) version: ProtocolVersion,
    /// Seconds between signs of life; 0: none
    #[arg(short, long, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) keepalive: u16,
    /// Keep the session when the connection ends; needs -i
    #[arg(short = 'c', long = "disable-clean-session", requires = "id")]
    pub(crate) persistent: bool,
    /// Seconds that the session outlives the connection (MQTT 5)
    #[arg(short = 'x', long, value_name = "SECONDS")]
    session_expiry_interval: Option<u32>,
    /// Use TLS with the authorities that the system trusts
    #[arg(long)]
    tls: bool,
    /// Use TLS and trust these authorities (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) cafile: Option<PathBuf>,
    /// Certificate of the client (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Private key of the client (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Use TLS and trust whoever answers: for tests only
    #[arg(long)]
    pub(crate) insecure: bool,
}

impl ConnectionArgs {
    pub(crate) fn is_tls(&self) -> bool {
        self.tls || self.insecure || self.cafile.is_some() || self.cert.is_some()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.is_tls() { 8883 } else { 1883 })
    }

    /// MQTT 3.1 wants an id; for the others it helps who reads the broker's log.
    pub(crate) fn client_id(&self) -> String {
        self.id.clone().unwrap_or_else(|| format!("ratatosk-{}", std::process::id()))
    }

    pub(crate) fn keep_alive(&self) -> Option<Duration> {
        (self.keepalive > 0).then(|| Duration::from_secs(self.keepalive.into()))
    }

    /// Who keeps a session means it to stay.
    pub(crate) fn session_expiry(&self) -> Option<u32> {
        self.session_expiry_interval.or(self.persistent.then_some(u32::MAX))
    }
}

fn version(text: &str) -> Result<ProtocolVersion, String> {
    match text {
        "3.1" | "31" | "mqttv31" => Ok(ProtocolVersion::V31),
        "3.1.1" | "311" | "3" | "mqttv311" => Ok(ProtocolVersion::V311),
        "5" | "5.0" | "mqttv5" => Ok(ProtocolVersion::V5),
        _ => Err("write 3.1, 3.1.1 or 5".to_owned()),
    }
}

/// A topic to publish to.
pub(crate) fn topic_name(text: &str) -> Result<String, String> {
    TopicName::parse(text, &TopicLimits::PROTOCOL).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// A topic filter.
pub(crate) fn topic_filter(text: &str) -> Result<String, String> {
    TopicFilter::parse(text, &TopicLimits::PROTOCOL).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

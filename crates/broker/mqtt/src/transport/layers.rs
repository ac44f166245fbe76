//! What all connections of one listener share.
//!
//! Guarantee: a failed reload leaves everything as it was; a successful one is seen by every
//! connection whose first TLS byte arrives after it, and by no other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use crate::transport::config::{Config, ConfigError, TlsConfig};
use crate::transport::credentials::{self, Credentials};

/// The application protocols (ALPN) that are accepted when a client offers any.
const MQTT_PROTOCOLS: &[&[u8]] = &[b"mqtt"];
/// Browsers offer what they would speak before the upgrade.
const WEBSOCKET_PROTOCOLS: &[&[u8]] = &[b"http/1.1", b"mqtt"];

/// The layers of one listener. Cheap to clone; all clones see a reload.
#[derive(Clone)]
pub struct Layers {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    tls: Option<Tls>,
}

struct Tls {
    config: TlsConfig,
    current: ArcSwap<Identity>,
}

struct Identity {
    server: Arc<ServerConfig>,
    fingerprint: u64,
}

impl Layers {
    /// Checks the configuration and reads its files. Blocks on the disk: call it before the
    /// listener starts.
    pub fn open(config: &Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let tls = match &config.tls {
            None => None,
            Some(tls) => {
                let identity = identity(config, tls, &Credentials::read(tls)?)?;
                let current = ArcSwap::from_pointee(identity);
                Some(Tls { config: tls.clone(), current })
            }
        };
        Ok(Self { shared: Arc::new(Shared { config: config.clone(), tls }) })
    }

    /// Whether there is nothing but TCP: the driver then needs no pipeline.
    pub fn is_plain(&self) -> bool {
        let config = &self.shared.config;
        config.websocket.is_none() && config.tls.is_none() && config.proxy_protocol.is_none()
    }

    /// Reads certificates, key, authorities and revocation lists again. New connections use them;
    /// existing ones go on with theirs. When the content is unchanged nothing happens, so that
    /// clients can still resume their TLS sessions. On an error the old ones stay. Blocks on the
    /// disk: call it outside the shards.
    pub fn reload(&self) -> Result<(), ConfigError> {
        let Some(tls) = &self.shared.tls else {
            return Ok(());
        };
        let credentials = Credentials::read(&tls.config)?;
        if credentials.fingerprint() == tls.current.load().fingerprint {
            return Ok(());
        }
        let identity = identity(&self.shared.config, &tls.config, &credentials)?;
        tls.current.store(Arc::new(identity));
        Ok(())
    }

    /// The files whose change calls for [`Layers::reload`].
    pub fn watched_files(&self) -> Vec<PathBuf> {
        self.shared.tls.as_ref().map(|tls| credentials::files(&tls.config)).unwrap_or_default()
    }

    pub(super) fn config(&self) -> &Config {
        &self.shared.config
    }

    /// What the next TLS connection is accepted with.
    pub(super) fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.shared.tls.as_ref().map(|tls| Arc::clone(&tls.current.load().server))
    }

    /// Whether the TCP peer may speak for others.
    pub(super) fn trusts(&self, peer: SocketAddr) -> bool {
        let proxy = self.shared.config.proxy_protocol.as_ref();
        proxy.is_some_and(|proxy| proxy.trusted.iter().any(|network| network.contains(peer.ip())))
    }
}

impl std::fmt::Debug for Layers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Layers").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

fn identity(
    config: &Config,
    tls: &TlsConfig,
    credentials: &Credentials,
) -> Result<Identity, ConfigError> {
    let protocols =
        if config.websocket.is_some() { WEBSOCKET_PROTOCOLS } else { MQTT_PROTOCOLS };
    let server = credentials.server_config(tls, protocols)?;
    Ok(Identity { server, fingerprint: credentials.fingerprint() })
}

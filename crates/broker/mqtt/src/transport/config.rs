//! What a listener's layers are, and what can be wrong with that.

use std::path::PathBuf;
use std::str::FromStr;

use crate::transport::network::IpNetwork;

/// The layers of one listener.
#[derive(Debug, Clone)]
pub struct Config {
    /// MQTT travels in WebSocket frames.
    pub websocket: Option<WebSocketConfig>,
    /// The connection is encrypted.
    pub tls: Option<TlsConfig>,
    /// A PROXY header may precede everything. `None`: it is never looked for, and a connection
    /// that sends one is garbage to the next layer.
    pub proxy_protocol: Option<ProxyConfig>,
    /// The largest MQTT packet in bytes, its header included. A WebSocket frame may always be
    /// that large, whatever `frame_max` says: most clients send one packet a frame.
    pub packet_size_max: usize,
}

/// The WebSocket layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketConfig {
    /// The only path that is served, such as `/mqtt`; a query string is ignored.
    pub path: String,
    /// The largest payload of a frame, unless `packet_size_max` is larger. Payload is passed on as
    /// it arrives, so this bounds no memory: it refuses absurd clients early.
    pub frame_max: usize,
}

/// The TLS layer. All files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate, then the intermediate ones.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
    /// The authorities whose client certificates are accepted.
    pub client_ca: Option<PathBuf>,
    /// Revocation lists of those authorities. When set, a client certificate whose issuer has no
    /// list here is refused. Only the client's own certificate is checked, and a list that is
    /// past its next update still counts: an unreachable authority must not lock everybody out.
    pub crl: Option<PathBuf>,
    /// Whether clients present certificates.
    pub client_auth: ClientAuth,
}

/// Whether clients present certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    None,
    /// They are asked; a certificate that is presented must be valid.
    Optional,
    /// Without a valid certificate the handshake fails.
    Required,
}

impl FromStr for ClientAuth {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "none" => Ok(Self::None),
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            _ => Err(ConfigError::ClientAuth { text: text.to_owned() }),
        }
    }
}

/// Where PROXY headers, `X-Real-IP` and `X-Real-Port` are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The networks of the proxies. A header from any other source ends the connection.
    pub trusted: Vec<IpNetwork>,
    /// A connection without a header is refused.
    pub required: bool,
}

/// The operator must correct the configuration or a file that it names.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {role} {}: {source}: check the path and its permissions", path.display())]
    Unreadable {
        /// What the file is for.
        role: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file does not hold what it should.
    #[error("{role} {} {problem}", path.display())]
    Content {
        /// What the file is for.
        role: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The key and the certificate do not belong together.
    #[error(
        "key {} does not belong to certificate {}: give the key that the certificate was issued for",
        key.display(), certificate.display()
    )]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// Clients are to be verified and no authority is named.
    #[error("client_auth is optional or required and client_ca is missing: name the file of authorities")]
    ClientCaMissing,
    /// Something is set that has no effect, so it was meant differently.
    #[error("{key} is set and client_auth is none: set client_auth to optional or required, or remove {key}")]
    ClientAuthMissing {
        /// The key without effect.
        key: &'static str,
    },
    /// Not one of the three words.
    #[error("client_auth \"{text}\" is unknown: use none, optional or required")]
    ClientAuth {
        /// As written.
        text: String,
    },
    /// Not a path that a request could name.
    #[error("websocket path \"{path}\" is invalid: it must begin with / and have no space, ? or #")]
    WebSocketPath {
        /// As written.
        path: String,
    },
    /// No source is trusted, so every header would be refused.
    #[error("proxy_protocol.trusted is empty: name the networks of the proxies, such as 10.0.0.0/8")]
    TrustedEmpty,
    /// The random source or the cryptography failed; not a matter of files.
    #[error("tls cannot be set up: {0}")]
    Tls(rustls::Error),
}

impl Config {
    /// Checks what needs no file.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if let Some(websocket) = &self.websocket {
            let path = &websocket.path;
            let acceptable = |byte: u8| byte.is_ascii_graphic() && byte != b'?' && byte != b'#';
            if !path.starts_with('/') || !path.bytes().all(acceptable) {
                return Err(ConfigError::WebSocketPath { path: path.clone() });
            }
        }
        if self.proxy_protocol.as_ref().is_some_and(|proxy| proxy.trusted.is_empty()) {
            return Err(ConfigError::TrustedEmpty);
        }
        match &self.tls {
            Some(tls) => tls.validate(),
            None => Ok(()),
        }
    }
}

impl TlsConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.client_auth != ClientAuth::None {
            return match self.client_ca {
                Some(_) => Ok(()),
                None => Err(ConfigError::ClientCaMissing),
            };
        }
        for (key, path) in [("client_ca", &self.client_ca), ("crl", &self.crl)] {
            if path.is_some() {
                return Err(ConfigError::ClientAuthMissing { key });
            }
        }
        Ok(())
    }
}

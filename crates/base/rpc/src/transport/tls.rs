//! TLS between nodes: both sides show a certificate of the cluster's authority.
//!
//! TLS 1.3 only, because both sides are ours. Certificates are replaced while connections live:
//! those that are open keep what they began with.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Certificates and key of a node, in PEM.
#[derive(Clone, Copy)]
pub struct TlsMaterial<'a> {
    /// The node's certificate, then those between it and the authority.
    pub chain: &'a [u8],
    /// The key of the node's certificate.
    pub key: &'a [u8],
    /// The authorities whose certificates are accepted of peers.
    pub authorities: &'a [u8],
}

impl fmt::Debug for TlsMaterial<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TlsMaterial").finish_non_exhaustive()
    }
}

/// Material that cannot be used. What was in use before still is.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read as PEM.
    #[error("the {what} is no PEM: {why}")]
    Pem {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// It says nothing.
    #[error("there is no {what}")]
    Missing {
        /// Which part.
        what: &'static str,
    },
    /// Its parts do not fit each other.
    #[error("certificate, key and authorities do not fit: {0}")]
    Unfit(#[from] rustls::Error),
    /// A name that certificates cannot have.
    #[error("{0:?} is no name that a certificate can have")]
    Name(String),
}

/// What a node speaks TLS with. Shared by its listeners and its connections.
pub struct Tls {
    /// What the certificate of every node names.
    name: ServerName<'static>,
    pair: ArcSwap<Pair>,
}

struct Pair {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// Mutual TLS in which every node's certificate names `peer_name`: addresses of nodes come
    /// and go, so it is this name that their certificates must have in common.
    ///
    /// # Errors
    /// When the material cannot be used.
    pub fn new(material: TlsMaterial<'_>, peer_name: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(peer_name.to_owned());
        let name = name.map_err(|_| TlsError::Name(peer_name.to_owned()))?;
        Ok(Self { name, pair: ArcSwap::from_pointee(Pair::new(material)?) })
    }

    /// Uses other material for connections from now on.
    ///
    /// # Errors
    /// When the material cannot be used; then the old one stays.
    pub fn replace(&self, material: TlsMaterial<'_>) -> Result<(), TlsError> {
        self.pair.store(Arc::new(Pair::new(material)?));
        Ok(())
    }

    pub(super) fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.pair.load().server)
    }

    pub(super) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.pair.load().client)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Pair {
    fn new(material: TlsMaterial<'_>) -> Result<Self, TlsError> {
        let chain = certificates(material.chain, "certificate")?;
        let key = PrivateKeyDer::from_pem_slice(material.key);
        let key = key.map_err(|error| TlsError::Pem { what: "key", why: error.to_string() })?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(material.authorities, "authority")? {
            roots.add(authority)?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = [&rustls::version::TLS13];
        let unfit = |error: &dyn fmt::Display| rustls::Error::General(error.to_string());
        let of_clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| unfit(&error))?;
        let of_servers = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| unfit(&error))?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(of_clients)
            .with_single_cert(chain.clone(), key.clone_key())?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .with_webpki_verifier(of_servers)
            .with_client_auth_cert(chain, key)?;
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| TlsError::Pem { what, why: error.to_string() })?;
    if all.is_empty() {
        return Err(TlsError::Missing { what });
    }
    Ok(all)
}

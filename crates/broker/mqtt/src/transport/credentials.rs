//! Certificate files to a TLS configuration.
//!
//! Every message names the file, what is wrong with it and what to do. The content of a key never
//! appears in a message. Each file is read whole, up to a limit.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::transport::config::{ClientAuth, ConfigError, TlsConfig};

/// No certificate, key or bundle of authorities is larger.
const PEM_SIZE_MAX: u64 = 4 << 20;
/// Revocation lists of large authorities are.
const CRL_SIZE_MAX: u64 = 64 << 20;

const CERTIFICATE: &str = "certificate";
const KEY: &str = "key";
const CLIENT_CA: &str = "client_ca";
const CRL: &str = "crl";

/// The content of all files of one listener, as it was at one moment.
pub(super) struct Credentials {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
    crl: Option<Vec<u8>>,
}

impl Credentials {
    /// Reads the files; does not look into them.
    pub(super) fn read(config: &TlsConfig) -> Result<Self, ConfigError> {
        let optional = |role, path: &Option<PathBuf>, limit| match path {
            Some(path) => read_file(role, path, limit).map(Some),
            None => Ok(None),
        };
        Ok(Self {
            certificate: read_file(CERTIFICATE, &config.certificate, PEM_SIZE_MAX)?,
            key: read_file(KEY, &config.key, PEM_SIZE_MAX)?,
            client_ca: optional(CLIENT_CA, &config.client_ca, PEM_SIZE_MAX)?,
            crl: optional(CRL, &config.crl, CRL_SIZE_MAX)?,
        })
    }

    /// Tells whether two readings differ. Not a protection against anybody: the files' owner can
    /// replace them anyway.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let optional = [self.client_ca.as_deref(), self.crl.as_deref()];
        let parts = [self.certificate.as_slice(), self.key.as_slice()];
        for part in parts.into_iter().map(Some).chain(optional) {
            hasher.write_u64(part.map_or(u64::MAX, |bytes| bytes.len() as u64));
            hasher.write(part.unwrap_or_default());
        }
        hasher.finish()
    }

    /// Builds what new connections are accepted with. Session tickets and the session cache are
    /// new each time, so that no session outlives the revocation list that it was checked with.
    pub(super) fn server_config(
        &self,
        config: &TlsConfig,
        application_protocols: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, ConfigError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(CERTIFICATE, &config.certificate, &self.certificate)?;
        let key = private_key(&config.key, &self.key)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(ConfigError::Tls)?;
        let builder = match self.client_verifier(config, &provider)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder
            .with_single_cert(chain, key)
            .map_err(|error| identity_error(config, &error))?;
        server.ticketer = rustls::crypto::ring::Ticketer::new().map_err(ConfigError::Tls)?;
        server.alpn_protocols = application_protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(server))
    }

    fn client_verifier(
        &self,
        config: &TlsConfig,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, ConfigError> {
        let (Some(path), Some(authorities)) = (&config.client_ca, &self.client_ca) else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(CLIENT_CA, path, authorities)? {
            roots.add(certificate).map_err(|error| ConfigError::Content {
                role: CLIENT_CA,
                path: path.clone(),
                problem: format!("holds a certificate that is no authority: {error}"),
            })?;
        }
        let mut builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        if let (Some(path), Some(lists)) = (&config.crl, &self.crl) {
            builder = builder
                .with_crls(revocation_lists(path, lists)?)
                .only_check_end_entity_revocation();
        }
        if config.client_auth == ClientAuth::Optional {
            builder = builder.allow_unauthenticated();
        }
        let verifier = builder.build().map_err(|error| ConfigError::Content {
            role: if config.crl.is_some() { CRL } else { CLIENT_CA },
            path: config.crl.as_ref().unwrap_or(path).clone(),
            problem: format!("cannot be used: {error}"),
        })?;
        Ok(Some(verifier))
    }
}

/// All files that the configuration names.
pub(super) fn files(config: &TlsConfig) -> Vec<PathBuf> {
    let optional = [&config.client_ca, &config.crl].into_iter().flatten();
    [&config.certificate, &config.key].into_iter().chain(optional).cloned().collect()
}

fn read_file(role: &'static str, path: &Path, limit: u64) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { role, path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        let problem = format!("is larger than {limit} bytes: is it the right file?");
        return Err(ConfigError::Content { role, path: path.to_owned(), problem });
    }
    Ok(bytes)
}

fn certificates(
    role: &'static str,
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    sections(role, path, CertificateDer::pem_slice_iter(bytes), "-----BEGIN CERTIFICATE-----")
}

fn revocation_lists(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, ConfigError> {
    let lists = CertificateRevocationListDer::pem_slice_iter(bytes);
    sections(CRL, path, lists, "-----BEGIN X509 CRL-----")
}

/// Collects the PEM sections of one kind; none at all is an error.
fn sections<T>(
    role: &'static str,
    path: &Path,
    found: impl Iterator<Item = Result<T, pem::Error>>,
    begin: &str,
) -> Result<Vec<T>, ConfigError> {
    let content =
        |problem| ConfigError::Content { role, path: path.to_owned(), problem };
    let all = found
        .collect::<Result<Vec<T>, _>>()
        .map_err(|error| content(format!("is not valid pem: {error}: write the file again")))?;
    if all.is_empty() {
        let problem = format!(
            "has no section \"{begin}\": give a pem file (openssl x509 -inform der converts der)"
        );
        return Err(content(problem));
    }
    Ok(all)
}

fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, ConfigError> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| {
        let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
        let problem = if bytes.windows(encrypted.len()).any(|window| window == encrypted) {
            "is encrypted: decrypt it with openssl pkey -in FILE -out FILE".to_owned()
        } else if matches!(error, pem::Error::NoItemsFound) {
            "has no section \"-----BEGIN PRIVATE KEY-----\": give a pem file".to_owned()
        } else {
            // The error itself may quote the line, which is key material.
            "is not valid pem: write the file again".to_owned()
        };
        ConfigError::Content { role: KEY, path: path.to_owned(), problem }
    })
}

/// Says which of the two files is at fault when they do not make an identity.
fn identity_error(config: &TlsConfig, error: &rustls::Error) -> ConfigError {
    match error {
        rustls::Error::InconsistentKeys(_) => ConfigError::KeyMismatch {
            key: config.key.clone(),
            certificate: config.certificate.clone(),
        },
        rustls::Error::InvalidCertificate(_) => ConfigError::Content {
            role: CERTIFICATE,
            path: config.certificate.clone(),
            problem: format!("cannot be used: {error}"),
        },
        _ => ConfigError::Content {
            role: KEY,
            path: config.key.clone(),
            problem: format!("cannot be used: {error}: use rsa of 2048 bits or more, p-256, p-384 or ed25519"),
        },
    }
}

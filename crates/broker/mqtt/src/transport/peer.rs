//! Who is at the other end, as far as the layers below MQTT can tell.
//!
//! Guarantee: an address other than the TCP peer's comes only from a source that the listener's
//! `proxy_protocol.trusted` names; without that setting nothing that a client writes changes it.

use std::net::SocketAddr;

use x509_parser::prelude::{FromDer, X509Certificate};

/// The client's identity below MQTT. Complete once the pipeline is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The client: from the PROXY header, else from `X-Real-IP` and `X-Real-Port` of the WebSocket
    /// request, else the TCP peer. An IPv4-mapped address is given as IPv4. Port 0 when the proxy
    /// did not say.
    pub address: SocketAddr,
    /// Who holds the TCP connection: the client itself, or the proxy.
    pub socket: SocketAddr,
    /// The verified certificate of the client in DER, leaf only.
    pub certificate: Option<Box<[u8]>>,
    /// The host name that the client asked for in TLS.
    pub sni: Option<Box<str>>,
}

impl Peer {
    /// A peer of which only the TCP address is known.
    pub fn new(socket: SocketAddr) -> Self {
        let address = canonical(socket);
        Self { address, socket: address, certificate: None, sni: None }
    }

    /// The certificate's subject as a distinguished name, such as `CN=meter-7, O=Acme`.
    /// Parsed at each call: keep the result.
    pub fn subject(&self) -> Option<String> {
        self.with_certificate(|certificate| Some(certificate.subject().to_string()))
    }

    /// The first common name of the certificate's subject. Parsed at each call: keep the result.
    pub fn common_name(&self) -> Option<String> {
        self.with_certificate(|certificate| {
            let name = certificate.subject().iter_common_name().next()?;
            name.as_str().ok().map(str::to_owned)
        })
    }

    fn with_certificate<T>(
        &self,
        read: impl FnOnce(&X509Certificate<'_>) -> Option<T>,
    ) -> Option<T> {
        let (_, certificate) = X509Certificate::from_der(self.certificate.as_deref()?).ok()?;
        read(&certificate)
    }
}

/// Gives an IPv4-mapped address as IPv4, so that rules on addresses need one form only.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

//! From a socket to a connection that may speak HTTP/2: TLS, then who is who.
//!
//! Everything here is run under a time limit by its caller, and reads at most a few hundred bytes
//! of a peer that has not said yet who it is.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::error::Error;
use crate::identity::{HostId, Identity};
use crate::protocol::{
    HELLO_BYTES_MAX, Hello, Malformed, PREAMBLE_BYTES, Verdict, body_length, judge,
};
use crate::transport::Tls;

/// What a connection is read from and written to.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Why a peer was not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejection {
    /// The TLS handshake failed: no certificate, a foreign one, no TLS at all.
    #[error("tls: {0}")]
    Tls(io::Error),
    /// The connection ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not speak our protocol.
    #[error(transparent)]
    Garbage(#[from] Malformed),
    /// It speaks it, and does not belong here.
    #[error("the two sides differ in {}", .0.word())]
    Judged(Verdict),
}

impl Rejection {
    /// A word for metrics.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Tls(_) => "tls",
            Self::Io(_) => "closed",
            Self::Garbage(_) => "garbage",
            Self::Judged(verdict) => verdict.word(),
        }
    }

    /// What it means for a call.
    pub(super) fn error(&self, own: &Identity) -> Error {
        match self {
            Self::Judged(Verdict::Version(theirs)) => {
                Error::Version { ours: own.version, theirs: *theirs }
            }
            // Another process at the address: its predecessor is dead, the landscape will tell.
            Self::Judged(Verdict::Host) | Self::Io(_) => Error::not_sent(self),
            Self::Judged(_) | Self::Tls(_) | Self::Garbage(_) => Error::refused(self),
        }
    }
}

/// The server's part of TLS.
pub(crate) async fn accept_tls(socket: TcpStream, tls: &Tls) -> Result<Box<dyn Io>, Rejection> {
    let acceptor = TlsAcceptor::from(tls.server());
    Ok(Box::new(acceptor.accept(socket).await.map_err(Rejection::Tls)?))
}

/// The client's part of TLS.
pub(super) async fn connect_tls(
    socket: TcpStream,
    tls: &Arc<Tls>,
) -> Result<Box<dyn Io>, Rejection> {
    let connector = TlsConnector::from(tls.client());
    Ok(Box::new(connector.connect(tls.name(), socket).await.map_err(Rejection::Tls)?))
}

/// The server's part of who is who: the process that called, or why it is refused. It was told.
pub(crate) async fn receive_hello(io: &mut dyn Io, own: &Identity) -> Result<HostId, Rejection> {
    let hello = Hello::decode(&read_body(io).await?)?;
    let verdict = judge(own, &hello);
    io.write_all(&verdict.encode()).await?;
    io.flush().await?;
    if verdict != Verdict::Welcome {
        return Err(Rejection::Judged(verdict));
    }
    Ok(hello.identity.host)
}

/// The client's part of who is who.
pub(super) async fn send_hello(io: &mut dyn Io, hello: &Hello) -> Result<(), Rejection> {
    io.write_all(&hello.encode()).await?;
    io.flush().await?;
    let verdict = match read_body(io).await {
        Ok(body) => Verdict::decode(&body)?,
        // In TLS 1.3 a client learns only with the first bytes that its certificate is refused.
        Err(Rejection::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(Rejection::Tls(error));
        }
        Err(rejection) => return Err(rejection),
    };
    if verdict != Verdict::Welcome {
        return Err(Rejection::Judged(verdict));
    }
    Ok(())
}

async fn read_body(io: &mut dyn Io) -> Result<Vec<u8>, Rejection> {
    let mut preamble = [0; PREAMBLE_BYTES];
    io.read_exact(&mut preamble).await?;
    let mut body = vec![0; body_length(preamble)?];
    debug_assert!(body.len() <= HELLO_BYTES_MAX);
    io.read_exact(&mut body).await?;
    Ok(body)
}

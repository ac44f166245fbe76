//! Connections between nodes: TLS if there is any, a handshake, then HTTP/2.
//!
//! HTTP/2 gives streams, their windows and their ends; everything above it is ours, see
//! `docs/decisions/0018-rpc-is-http2-with-frames-of-our-own.md`.

mod body;
mod handshake;
mod keepalive;
mod link;
mod tls;

pub(crate) use body::{Broken, FrameReader, FrameWriter};
pub(crate) use handshake::{Io, Rejection, accept_tls, receive_hello};
pub(crate) use keepalive::keepalive;
pub(crate) use link::{Link, Links, Opened};
pub use tls::{Tls, TlsError, TlsMaterial};

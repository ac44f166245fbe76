//! The server's end of one TLS connection, over buffers.
//!
//! Guarantees: plaintext is handed on record by record, none is kept; what is to be sent is on
//! the wire when a call returns, alerts included, also when it returns an error. rustls bounds
//! what it holds: 64 KiB of an unfinished handshake message, one record after that.
//! Nothing is allocated before the first byte of the peer.

use std::io::{BufRead, IoSlice, Write};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

use crate::transport::error::Error;

/// The content type of a handshake record, with which every TLS connection begins.
const HANDSHAKE_RECORD: u8 = 0x16;
/// What rustls keeps for an open, idle connection: its state, keys and a read buffer of 4 KiB.
const IDLE_SIZE: usize = 12 * 1024;

/// One TLS connection.
pub(super) enum Tls {
    /// No byte has arrived.
    Waiting,
    /// Handshake or traffic.
    Running(Box<ServerConnection>),
}

/// Whether more is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// The peer may send more.
    Open,
    /// The peer ended this layer in order.
    Ended,
}

/// What the handshake told about the client.
pub(super) struct Identity {
    pub(super) certificate: Option<Box<[u8]>>,
    pub(super) sni: Option<Box<str>>,
}

impl Tls {
    /// Takes bytes from the socket. Each piece of plaintext goes to `plaintext`, whose error stops
    /// the reading.
    pub(super) fn receive(
        &mut self,
        mut bytes: &[u8],
        accept: impl FnOnce() -> Option<Arc<ServerConfig>>,
        plaintext: &mut dyn FnMut(&[u8]) -> Result<Flow, Error>,
        wire: &mut Vec<u8>,
    ) -> Result<Flow, Error> {
        let Some(&first) = bytes.first() else {
            return Ok(Flow::Open);
        };
        let connection = match self {
            Self::Running(connection) => connection,
            Self::Waiting => self.start(first, accept)?,
        };
        while !bytes.is_empty() {
            // The only error is a full buffer: a message that is larger than TLS allows.
            let taken = connection.read_tls(&mut bytes).map_err(|_| Error::TlsOversized)?;
            let progress = connection.process_new_packets();
            // What was decrypted before a broken record was sent by the peer: it counts.
            let drained = drain(connection, plaintext);
            flush(connection, wire)?;
            let ended = progress?.peer_has_closed();
            if ended || drained? == Flow::Ended {
                return Ok(Flow::Ended);
            }
            if taken == 0 {
                return Err(Error::TlsOversized);
            }
        }
        Ok(Flow::Open)
    }

    /// Encrypts `head` and then `body`; in one record if they fit.
    pub(super) fn send(
        &mut self,
        mut head: &[u8],
        mut body: &[u8],
        wire: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let Self::Running(connection) = self else {
            return Err(Error::NotOpen);
        };
        while !head.is_empty() || !body.is_empty() {
            let pieces = [IoSlice::new(head), IoSlice::new(body)];
            let written =
                connection.writer().write_vectored(&pieces).map_err(|_| Error::NotOpen)?;
            flush(connection, wire)?;
            // The buffer was empty before, so only a closed connection takes nothing.
            if written == 0 {
                return Err(Error::NotOpen);
            }
            let from_head = written.min(head.len());
            head = &head[from_head..];
            body = &body[written - from_head..];
        }
        Ok(())
    }

    /// Says that nothing more will be sent. Without effect when it was said before.
    pub(super) fn close(&mut self, wire: &mut Vec<u8>) {
        if let Self::Running(connection) = self {
            connection.send_close_notify();
            // Appending to a vector cannot fail, and nothing could be done about it here.
            let _ = flush(connection, wire);
        }
    }

    /// Whether the handshake is complete.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Running(connection) if !connection.is_handshaking())
    }

    /// Who the client is. Complete when the handshake is.
    pub(super) fn identity(&self) -> Identity {
        let Self::Running(connection) = self else {
            return Identity { certificate: None, sni: None };
        };
        let leaf = connection.peer_certificates().and_then(<[_]>::first);
        Identity {
            certificate: leaf.map(|der| der.as_ref().into()),
            sni: connection.server_name().map(Into::into),
        }
    }

    pub(super) fn memory(&self) -> usize {
        match self {
            Self::Waiting => 0,
            Self::Running(_) => IDLE_SIZE,
        }
    }

    fn start(
        &mut self,
        first: u8,
        accept: impl FnOnce() -> Option<Arc<ServerConfig>>,
    ) -> Result<&mut Box<ServerConnection>, Error> {
        if first != HANDSHAKE_RECORD {
            return Err(Error::TlsExpected { first });
        }
        let config = accept().ok_or(Error::NotOpen)?;
        *self = Self::Running(Box::new(ServerConnection::new(config)?));
        match self {
            Self::Running(connection) => Ok(connection),
            Self::Waiting => Err(Error::NotOpen),
        }
    }
}

fn drain(
    connection: &mut ServerConnection,
    plaintext: &mut dyn FnMut(&[u8]) -> Result<Flow, Error>,
) -> Result<Flow, Error> {
    let mut reader = connection.reader();
    loop {
        // An error says only that there is no more for now or that the peer has closed.
        let size = match reader.fill_buf() {
            Ok(piece) if !piece.is_empty() => {
                if plaintext(piece)? == Flow::Ended {
                    return Ok(Flow::Ended);
                }
                piece.len()
            }
            Ok(_) | Err(_) => return Ok(Flow::Open),
        };
        reader.consume(size);
    }
}

fn flush(connection: &mut ServerConnection, wire: &mut Vec<u8>) -> Result<(), Error> {
    while connection.wants_write() {
        connection.write_tls(wire).map_err(|_| Error::NotOpen)?;
    }
    Ok(())
}

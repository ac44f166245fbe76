//! Asks a seed in which cluster it is, without joining it: for who has to know that before it starts, and
//! for an operator who wants to know why nobody answers.
//!
//! What a seed opens a connection with is not proven. It is good enough to say no, or why not; who joins
//! takes the cluster from a handshake.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::protocol::envelope::environment_tag;
use crate::protocol::identity::ClusterId;
use crate::protocol::key::KeyRing;
use crate::protocol::machine::Side;
use crate::protocol::refusal::Refusal;
use crate::protocol::stream::{Credentials, OPENING, Stream, cluster_of};

/// Addresses of one name that are asked.
const ADDRESSES_MAX: usize = 4;

/// A seed that does not say in which cluster it is.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It cannot be found, or reached.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It hangs up: it is of another environment, or has another key, or none.
    #[error("it hangs up: it has another environment or another key")]
    Refused,
    /// What is there is none of this version.
    #[error("it answers what makes no sense: {0:?}")]
    Malformed(Refusal),
}

/// The cluster of a seed, `name:port` or `address:port`; `None` if it has none yet. Each address of a name
/// is given so much time.
///
/// # Errors
/// See [`AskError`]; of the last address that was asked.
pub fn ask_cluster(
    seed: &str,
    environment: &str,
    keys: Option<&KeyRing>,
    timeout: Duration,
) -> Result<Option<ClusterId>, AskError> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    let credentials = Credentials {
        environment: environment_tag(environment),
        cluster: None,
        keys: keys.cloned(),
    };
    let opening = Stream::new(Side::Asker, credentials, nonce).output;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address").into();
    for address in seed.to_socket_addrs()?.take(ADDRESSES_MAX) {
        match ask(address, &opening, timeout.max(Duration::from_millis(1))) {
            Ok(cluster) => return Ok(cluster),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn ask(
    address: SocketAddr,
    opening: &[u8],
    timeout: Duration,
) -> Result<Option<ClusterId>, AskError> {
    let mut socket = TcpStream::connect_timeout(&address, timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    socket.write_all(opening)?;
    let mut answer = [0; OPENING];
    match socket.read_exact(&mut answer) {
        Ok(()) => cluster_of(&answer).map_err(AskError::Malformed),
        Err(error) if is_hang_up(&error) => Err(AskError::Refused),
        Err(error) => Err(error.into()),
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

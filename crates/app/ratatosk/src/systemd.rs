//! Telling the service manager about the state of the node: the `sd_notify` protocol.
//!
//! A datagram to the socket that `NOTIFY_SOCKET` names. Without one, or when it cannot be reached,
//! nothing happens: being supervised is not a condition for serving.

#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

/// What the node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State<'a> {
    /// Serving; with a line for people.
    Ready(&'a str),
    /// Taking a new configuration over, since this monotonic time.
    Reloading { monotonic_us: u64 },
    /// On the way out.
    Stopping,
}

impl Manager {
    /// `address` is the value of `NOTIFY_SOCKET`: a path, or an abstract name after `@`.
    pub(crate) fn connect(address: Option<&str>) -> Self {
        let socket = address.and_then(|address| {
            let target = parse(address)?;
            Some((UnixDatagram::unbound().ok()?, target))
        });
        Self { socket }
    }

    pub(crate) fn tell(&self, state: State<'_>) {
        let Some((socket, target)) = &self.socket else { return };
        let message = match state {
            State::Ready(status) => format!("READY=1\nSTATUS={status}"),
            State::Reloading { monotonic_us } => {
                format!("RELOADING=1\nMONOTONIC_USEC={monotonic_us}")
            }
            State::Stopping => "STOPPING=1".to_owned(),
        };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), target) {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }
}

fn parse(address: &str) -> Option<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = address.strip_prefix('@') {
        return SocketAddr::from_abstract_name(name).ok();
    }
    address.starts_with('/').then(|| SocketAddr::from_pathname(address).ok()).flatten()
}

/// The monotonic clock as the service manager reads it.
pub(crate) fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000
}

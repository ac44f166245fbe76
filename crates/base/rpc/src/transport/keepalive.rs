//! Finds connections whose other end is gone, or reads nothing any more.

use std::time::Duration;

use h2::{Ping, PingPong};

/// Pings every `interval`, and returns when one is not answered within `patience` or the
/// connection has ended. A peer that does not read does not answer either.
pub(crate) async fn keepalive(mut pings: PingPong, interval: Duration, patience: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let pong = pings.ping(Ping::opaque());
        if !matches!(tokio::time::timeout(patience, pong).await, Ok(Ok(_))) {
            return;
        }
    }
}

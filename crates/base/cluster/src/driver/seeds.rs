//! Where the seeds are: names are looked up on a thread of their own, since that may take its time.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::cluster::Shared;
use crate::protocol::machine::Input;

/// How often names are looked up in a cluster that is formed.
const INTERVAL: Duration = Duration::from_secs(30);
/// How often they are while this host has found nobody.
const INTERVAL_ALONE: Duration = Duration::from_secs(2);

/// Looks the seeds up, again and again, until the host stops.
pub(crate) fn run(shared: &Shared, seeds: &[String]) {
    let mut failed = Vec::new();
    while !shared.is_stopped() {
        let mut addresses = Vec::new();
        for seed in seeds {
            let is_known_to_fail = failed.contains(&seed);
            match resolve(seed) {
                Ok(found) => {
                    addresses.extend(found);
                    failed.retain(|it| *it != seed);
                }
                Err(error) if !is_known_to_fail => {
                    tracing::warn!(%seed, %error, "a seed of the cluster is not found");
                    failed.push(seed);
                }
                Err(_) => {}
            }
        }
        let is_alone = {
            let mut state = shared.state.lock();
            let mut effects = std::mem::take(&mut state.effects);
            // What cannot be found now may be again: the addresses of before are kept.
            if failed.is_empty() || !addresses.is_empty() {
                let input = Input::Seeds(addresses);
                state.machine.step(shared.clock.now(), input, &mut effects);
            }
            state.effects = effects;
            shared.members.current().is_empty()
        };
        shared.wake();
        shared.wait_stop(if is_alone { INTERVAL_ALONE } else { INTERVAL });
    }
}

fn resolve(seed: &str) -> std::io::Result<Vec<SocketAddr>> {
    Ok(seed.to_socket_addrs()?.collect())
}

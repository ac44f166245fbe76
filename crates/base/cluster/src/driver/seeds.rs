//! Where the seeds are: names are looked up on a thread of their own, since that may take its time.
//!
//! Addresses are known at once; each name counts as soon as it was found, whatever the others do. Of a
//! name that is not found any more the last addresses are kept.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::cluster::Shared;
use crate::protocol::machine::Input;

/// How often names are looked up in a cluster that is formed.
const INTERVAL: Duration = Duration::from_secs(30);
/// How often they are while this host has found nobody.
const INTERVAL_ALONE: Duration = Duration::from_secs(2);

struct Seed {
    name: String,
    addresses: Vec<SocketAddr>,
    /// That it is not found was logged.
    is_lost: bool,
}

/// Looks the seeds up, again and again, until the host stops.
pub(crate) fn run(shared: &Shared, names: Vec<String>) {
    let mut seeds: Vec<Seed> = names
        .into_iter()
        .map(|name| {
            let addresses = name.parse().into_iter().collect();
            Seed { name, addresses, is_lost: false }
        })
        .collect();
    tell(shared, &seeds);
    while !shared.is_stopped() {
        for at in 0..seeds.len() {
            if !shared.is_stopped() && look_up(&mut seeds[at]) {
                tell(shared, &seeds);
            }
        }
        let is_alone = shared.members.current().is_empty();
        shared.wait_stop(if is_alone { INTERVAL_ALONE } else { INTERVAL });
    }
}

/// Looks a seed up; true if it is elsewhere now.
fn look_up(seed: &mut Seed) -> bool {
    if seed.name.parse::<SocketAddr>().is_ok() {
        return false;
    }
    match seed.name.to_socket_addrs() {
        Ok(found) => {
            let found: Vec<SocketAddr> = found.collect();
            seed.is_lost = false;
            let is_moved = found != seed.addresses;
            seed.addresses = found;
            is_moved
        }
        Err(error) => {
            if !seed.is_lost {
                tracing::warn!(seed = %seed.name, %error, "a seed of the cluster is not found");
                seed.is_lost = true;
            }
            false
        }
    }
}

fn tell(shared: &Shared, seeds: &[Seed]) {
    let addresses = seeds.iter().flat_map(|seed| seed.addresses.iter().copied()).collect();
    shared.step(Input::Seeds(addresses));
    shared.wake();
}

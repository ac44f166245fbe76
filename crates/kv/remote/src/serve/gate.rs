//! Which stream of a client may propose: the one of the latest turn, and no earlier one any more.
//!
//! Bytes of a stream that broke may still lie in a socket when its client has opened the next one. What
//! they propose must not come behind what the next one proposes. So a later turn closes the earlier ones
//! first, and whoever proposes does it while nobody else can come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use ratatosk_rpc::HostId;

/// Clients that are remembered; of those that are gone the ones that came first are forgotten then.
const CLIENTS_MAX: usize = 4_096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gate {
    clients: Mutex<BTreeMap<(HostId, u64), Client>>,
    arrivals: AtomicU64,
}

#[derive(Debug)]
struct Client {
    latest: Arc<Mutex<u64>>,
    arrival: u64,
}

/// A stream that may propose until a later one comes.
#[derive(Debug)]
pub(super) struct Pass {
    latest: Arc<Mutex<u64>>,
    turn: u64,
}

impl Gate {
    /// Lets a stream in, and none of an earlier turn any more; `None` if a later one is there.
    pub(super) fn enter(&self, host: HostId, client: u64, turn: u64) -> Option<Pass> {
        let arrival = self.arrivals.fetch_add(1, Ordering::Relaxed);
        let mut clients = self.clients.lock();
        if clients.len() >= CLIENTS_MAX {
            let is_gone = |client: &&Client| Arc::strong_count(&client.latest) == 1;
            let gone = clients.values().filter(is_gone).map(|client| client.arrival).min();
            clients.retain(|_, client| Some(client.arrival) != gone);
        }
        let entry = clients.entry((host, client));
        let held = entry.or_insert_with(|| Client { latest: Arc::default(), arrival });
        held.arrival = arrival;
        let latest = Arc::clone(&held.latest);
        drop(clients);
        let mut last = latest.lock();
        if *last >= turn {
            return None;
        }
        *last = turn;
        drop(last);
        Some(Pass { latest, turn })
    }
}

impl Pass {
    /// Does something while no later stream can come; `None` if one has come.
    pub(super) fn with<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let latest = self.latest.lock();
        (*latest == self.turn).then(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostId = HostId(1);

    #[test]
    fn a_later_stream_closes_the_earlier_ones() {
        let gate = Gate::default();
        let first = gate.enter(HOST, 1, 5).expect("nobody is there");
        assert_eq!(first.with(|| 7), Some(7));
        let second = gate.enter(HOST, 1, 6).expect("it is later");
        assert_eq!((first.with(|| 7), second.with(|| 8)), (None, Some(8)));
        for turn in [4, 5, 6] {
            assert!(gate.enter(HOST, 1, turn).is_none(), "turn {turn} is not later");
        }
        assert_eq!(second.with(|| 8), Some(8));
        let other = gate.enter(HOST, 2, 1).expect("another client");
        assert_eq!((other.with(|| 9), second.with(|| 8)), (Some(9), Some(8)));
        drop((first, second));
        assert!(gate.enter(HOST, 1, 6).is_none(), "it is remembered when its streams are gone");
    }

    #[test]
    fn the_clients_that_are_remembered_are_bounded() {
        let gate = Gate::default();
        let kept = gate.enter(HOST, 0, 9).expect("nobody is there");
        for client in 1..=CLIENTS_MAX as u64 + 9 {
            assert!(gate.enter(HOST, client, 1).is_some());
        }
        assert_eq!(gate.clients.lock().len(), CLIENTS_MAX);
        assert!(gate.enter(HOST, 0, 8).is_none(), "who is there is not forgotten");
        assert_eq!(kept.with(|| 1), Some(1));
    }
}

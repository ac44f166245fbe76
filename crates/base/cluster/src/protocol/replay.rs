//! Which datagrams were taken already.
//!
//! Each process numbers its datagrams; whoever hears it keeps the highest number and which of the
//! 128 below it came, as IPsec does (RFC 4303, 3.4.3). That alone does not help somebody who hears of a
//! process for the first time, as everything that it ever sent would be new. So a window is only opened
//! by a handshake (`contact.rs`), which proves that the process is alive now.
//!
//! Without keys numbers prove nothing and are not looked at, but the handshake is asked for all the same:
//! it takes to read the traffic, then, to know an id that is heard.

use std::collections::BTreeMap;

use ratatosk_clock::Instant;
use ring::aead;

use super::identity::HostId;
use super::key::KeyId;

/// Processes of which something is remembered. The one not heard of for longest makes room.
pub(crate) const PEERS_MAX: usize = 2048;
/// Of these, those that have not proved that they are alive: so that a flood of strangers pushes out
/// strangers only.
const STRANGERS_MAX: usize = 256;
const WIDTH: u32 = u128::BITS;

/// Numbers that were taken: `highest`, and those below it by bit.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    highest: u64,
    /// Bit `i` stands for `highest - i`.
    taken: u128,
}

impl Window {
    /// A window in which everything up to `counter` counts as taken.
    pub(crate) fn new(counter: u64) -> Self {
        Window { highest: counter, taken: u128::MAX }
    }

    /// Takes a number, if it is new.
    pub(crate) fn accept(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            let ahead = u32::try_from(counter - self.highest).unwrap_or(u32::MAX);
            self.taken = self.taken.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = counter;
            return true;
        }
        let behind = u32::try_from(self.highest - counter).unwrap_or(u32::MAX);
        if behind >= WIDTH || self.taken >> behind & 1 == 1 {
            return false;
        }
        self.taken |= 1 << behind;
        true
    }
}

/// What is known of a process whose seal was right.
pub(crate) struct Peer {
    /// The key of the cluster, and its own that comes of it; none without keys.
    pub(crate) seal: Option<(KeyId, aead::LessSafeKey)>,
    /// Open once the process has proved that it is alive.
    pub(crate) window: Option<Window>,
    pub(crate) heard_at: Instant,
    /// When it was last asked to prove that it is alive.
    pub(crate) asked_at: Option<Instant>,
    /// The last datagram of it that waits for the proof.
    pub(crate) held: Option<Vec<u8>>,
}

/// Those processes.
#[derive(Default)]
pub(crate) struct Peers {
    peers: BTreeMap<HostId, Peer>,
}

impl Peers {
    pub(crate) fn find(&mut self, host: HostId) -> Option<&mut Peer> {
        self.peers.get_mut(&host)
    }

    /// Remembers a process that has proved nothing yet but its seal.
    pub(crate) fn insert(&mut self, host: HostId, peer: Peer) {
        let strangers = self.peers.iter().filter(|(_, peer)| peer.window.is_none());
        if strangers.clone().count() >= STRANGERS_MAX {
            let oldest = strangers.min_by_key(|(_, peer)| peer.heard_at);
            self.forget(oldest.map(|(host, _)| *host));
        } else if self.peers.len() >= PEERS_MAX {
            let oldest = self.peers.iter().min_by_key(|(_, peer)| peer.heard_at);
            self.forget(oldest.map(|(host, _)| *host));
        }
        self.peers.insert(host, peer);
    }

    fn forget(&mut self, host: Option<HostId>) {
        if let Some(host) = host {
            self.peers.remove(&host);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// CLU-012: whatever the order in which datagrams come, none is taken twice, and one that is
        /// not too late is taken.
        #[test]
        fn a_number_is_taken_once(counters in prop::collection::vec(90..400_u64, 1..300)) {
            let mut window = Window::new(100);
            let mut taken: BTreeSet<u64> = (0..=100).collect();
            for counter in counters {
                let highest = taken.last().copied().unwrap_or_default();
                let is_late = highest.saturating_sub(counter) >= u64::from(WIDTH);
                let is_new = !taken.contains(&counter) && !is_late;
                prop_assert_eq!(window.accept(counter), is_new, "{}", counter);
                if is_new {
                    taken.insert(counter);
                }
            }
        }
    }

    #[test]
    fn a_flood_of_strangers_pushes_out_strangers_only() {
        let peer = |window, millis| Peer {
            seal: None,
            window,
            heard_at: Instant::from_millis(millis),
            asked_at: None,
            held: None,
        };
        let id = |number: u64| HostId::from_bytes(u128::from(number).to_be_bytes());
        let mut peers = Peers::default();
        peers.insert(id(0), peer(Some(Window::new(1)), 0));
        for number in 1..5_000 {
            peers.insert(id(number), peer(None, number));
        }
        assert_eq!(peers.len(), 1 + STRANGERS_MAX);
        assert!(peers.find(id(0)).is_some() && peers.find(id(4_999)).is_some());
        for number in 5_000..9_000 {
            peers.insert(id(number), peer(Some(Window::new(1)), number));
        }
        assert_eq!(peers.len(), PEERS_MAX);
        assert!(peers.find(id(8_999)).is_some() && peers.find(id(5_000)).is_none());
    }

    #[test]
    fn a_leap_forgets_all_that_is_below() {
        let mut window = Window::new(0);
        assert!(window.accept(u64::MAX));
        assert!(!window.accept(u64::MAX));
        assert!(!window.accept(1));
        assert!(window.accept(u64::MAX - 127));
        assert!(!window.accept(u64::MAX - 128));
    }
}

//! Which datagrams were taken already.
//!
//! Each process numbers its datagrams; whoever hears it keeps the highest number and which of the
//! 128 below it came, as IPsec does (RFC 4303, 3.4.3). That alone does not help somebody who hears of a
//! process for the first time, as everything that it ever sent would be new. So a window is only opened
//! by a handshake (`contact.rs`), which proves that the process is alive now.
//!
//! Without keys nothing here is used: who can forge needs no replays.

use std::collections::BTreeMap;

use ratatosk_clock::Instant;
use ring::aead;

use super::identity::HostId;
use super::key::KeyId;

/// Processes of which something is remembered. The one not heard of for longest makes room.
pub(crate) const PEERS_MAX: usize = 2048;
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

/// What is known of a process that proved to have the key.
pub(crate) struct Peer {
    pub(crate) key_id: KeyId,
    pub(crate) key: aead::LessSafeKey,
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

    /// Remembers a process whose seal was right.
    pub(crate) fn insert(&mut self, host: HostId, peer: Peer) -> &mut Peer {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&host) {
            let oldest = self.peers.iter().min_by_key(|(_, peer)| peer.heard_at);
            if let Some(oldest) = oldest.map(|(host, _)| *host) {
                self.peers.remove(&oldest);
            }
        }
        self.peers.entry(host).insert_entry(peer).into_mut()
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
    fn a_leap_forgets_all_that_is_below() {
        let mut window = Window::new(0);
        assert!(window.accept(u64::MAX));
        assert!(!window.accept(u64::MAX));
        assert!(!window.accept(1));
        assert!(window.accept(u64::MAX - 127));
        assert!(!window.accept(u64::MAX - 128));
    }
}

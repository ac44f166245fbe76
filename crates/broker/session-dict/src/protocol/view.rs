//! Which servers and nodes there are, and which server a session belongs to.
//!
//! A session belongs to the server that wins it by rendezvous: when a server comes or goes, only
//! its own sessions move. Hosts may have different views for a while; a [`ViewId`] tells.

use std::collections::BTreeSet;

use ratatosk_contract::{PublisherId, SessionIdentity};
use ratatosk_topic::rendezvous;

use crate::protocol::stamp::Host;

/// Names a view: the same on every host that sees the same servers and nodes.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewId(pub u64);

/// The servers and nodes that a host sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    id: ViewId,
    /// In order.
    servers: Vec<Host>,
}

impl View {
    /// The view of these servers and nodes.
    #[must_use]
    pub fn new(servers: &BTreeSet<Host>, nodes: &BTreeSet<Host>) -> Self {
        let id = ViewId(fingerprint(&[servers, nodes]));
        Self { id, servers: servers.iter().copied().collect() }
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> ViewId {
        self.id
    }

    /// The servers, in order.
    #[must_use]
    pub fn servers(&self) -> &[Host] {
        &self.servers
    }

    /// The server that a session belongs to; `None` if there is none at all.
    #[must_use]
    pub fn server(&self, identity: &SessionIdentity) -> Option<Host> {
        self.server_of(identity.publisher())
    }

    /// The same for who has computed the session's number already.
    #[must_use]
    pub fn server_of(&self, PublisherId(number): PublisherId) -> Option<Host> {
        let index = rendezvous(number, self.servers.iter().map(|host| fold(*host)))?;
        Some(self.servers[index])
    }
}

/// Host ids are random: either half would do.
fn fold(Host(number): Host) -> u64 {
    let bytes = number.to_le_bytes();
    let half = |from: usize| {
        bytes[from..from + 8].iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
    };
    half(0) ^ half(8)
}

/// FNV-1a over how many there are of each and their ids in order, then mixed.
fn fingerprint(sets: &[&BTreeSet<Host>]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for set in sets {
        add(&(set.len() as u64).to_be_bytes());
        set.iter().for_each(|Host(number)| add(&number.to_be_bytes()));
    }
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ratatosk_contract::{ClientId, TenantId};

    use super::*;

    fn identity(client: &str) -> SessionIdentity {
        SessionIdentity {
            tenant: TenantId::new("t"),
            user: Some(Arc::from("u")),
            client: ClientId::new(client),
        }
    }

    fn hosts(numbers: std::ops::Range<u128>) -> BTreeSet<Host> {
        numbers.map(Host).collect()
    }

    /// Nodes of different builds must agree.
    #[test]
    fn golden_choices_stay() {
        let view = View::new(&hosts(1..4), &hosts(1..6));
        assert_eq!(view.id(), ViewId(144_018_763_873_870_298));
        let served = (0..12).map(|n| view.server(&identity(&format!("c{n}"))).unwrap().0);
        assert_eq!(served.collect::<Vec<_>>(), [2, 3, 3, 3, 1, 1, 1, 2, 1, 2, 2, 1]);
    }

    #[test]
    fn views_of_other_servers_and_of_other_nodes_are_others() {
        let (few, many) = (hosts(1..3), hosts(1..4));
        let views = [(&few, &few), (&few, &many), (&many, &few), (&many, &many)];
        let ids: BTreeSet<_> =
            views.iter().map(|(one, other)| View::new(one, other).id()).collect();
        assert_eq!(ids.len(), 4);
        assert_eq!(View::new(&BTreeSet::new(), &many).server(&identity("c")), None);
    }

    #[test]
    fn only_the_sessions_of_a_server_that_leaves_move() {
        let all = View::new(&hosts(1..6), &hosts(1..6));
        let rest = View::new(&hosts(1..5), &hosts(1..5));
        let mut moved = 0;
        for number in 0..5_000 {
            let session = identity(&format!("c{number}"));
            let before = all.server(&session).unwrap();
            if before == Host(5) {
                moved += 1;
            } else {
                assert_eq!(rest.server(&session), Some(before));
            }
        }
        assert!((800..1_200).contains(&moved), "{moved}");
    }
}

//! What operators want of stores, beyond what stores say of themselves: marks in the map that all hosts of
//! a cluster share, so that any node can be asked, and a store that is dead can be spoken of.
//!
//! The last one who marks a store wins. Every node puts the marks over the words that it hears, within a
//! second or so of each other; the planners bear such differences. Marks are in memory alone: they last as
//! long as one node of the cluster does. Decision 0029; the bytes are in `docs/formats/stores.md`.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use ratatosk_balance::landscape::{Landscape, Standing, StoreId};
use ratatosk_cluster::{Cluster, MapError, MapKey, Space, Watch};

/// The space of the shared map.
const SPACE: &str = "kv.standing";

/// The marks of a cluster.
pub(crate) struct Standings {
    // It must not keep the host: whoever stops a node lets go of that last.
    cluster: Weak<Cluster>,
    marks: Watch<Space>,
}

/// A mark was not made.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StandError {
    /// The host has stopped, or has not started.
    #[error("this node is in no cluster")]
    Alone,
    /// The map is full.
    #[error(transparent)]
    Map(#[from] MapError),
}

impl Standings {
    pub(crate) fn new(cluster: &Arc<Cluster>) -> Self {
        Self { cluster: Arc::downgrade(cluster), marks: cluster.space(SPACE) }
    }

    /// Marks a store, or takes its mark away.
    pub(crate) fn set(&self, store: StoreId, standing: Standing) -> Result<(), StandError> {
        let cluster = self.cluster.upgrade().ok_or(StandError::Alone)?;
        cluster.write(&MapKey::new(SPACE, &key(store))?, encode(standing))?;
        Ok(())
    }

    /// What was marked.
    pub(crate) fn of(&self, store: StoreId) -> Standing {
        let marks = self.marks.current();
        marks.get(&key(store)[..]).map_or(Standing::Member, |mark| decode(mark))
    }

    /// Puts the marks over what stores say of themselves.
    pub(crate) fn apply(&self, landscape: &mut Landscape) {
        let marks = self.marks.current();
        for (store, held) in &mut landscape.stores {
            let marked = marks.get(&key(*store)[..]).map_or(Standing::Member, |mark| decode(mark));
            held.standing = held.standing.max(marked);
        }
    }
}

fn key(store: StoreId) -> [u8; 8] {
    store.to_be_bytes()
}

fn encode(standing: Standing) -> Option<Bytes> {
    match standing {
        Standing::Member => None,
        Standing::Draining => Some(Bytes::from_static(&[1])),
        Standing::GivenUp => Some(Bytes::from_static(&[2])),
    }
}

/// What a later version may mean by a mark is passed over.
fn decode(mark: &[u8]) -> Standing {
    match mark.first() {
        Some(1) => Standing::Draining,
        Some(2) => Standing::GivenUp,
        _ => Standing::Member,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that a release has written stay readable, and those of a later one are no reason for anything.
    #[test]
    fn marks_have_the_bytes_that_the_format_says() {
        assert_eq!(key(0x0102_0304_0506_0708), [1, 2, 3, 4, 5, 6, 7, 8]);
        for (standing, bytes) in [(Standing::Draining, [1]), (Standing::GivenUp, [2])] {
            assert_eq!(encode(standing).as_deref(), Some(&bytes[..]));
            assert_eq!(decode(&bytes), standing);
            assert_eq!(decode(&[&bytes[..], b"more"].concat()), standing);
        }
        assert_eq!(encode(Standing::Member), None);
        assert_eq!([decode(&[]), decode(&[3])], [Standing::Member; 2]);
    }
}

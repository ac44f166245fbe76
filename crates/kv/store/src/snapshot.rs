//! What is sent to a replica that the log cannot bring up to date: a range as a checkpoint has it.
//!
//! A view of the engine has the data, what the range is, and how far the data came, all of one moment;
//! so nothing of the store waits while it is read. What arrives is handed to the receiver's machine
//! together with the message that announces it, and its host finds it among the
//! [`Arrivals`](crate::host::Arrivals). KV-011

use std::ops::ControlFlow;

use bytes::Bytes;
use raft::eraftpb::{Snapshot, SnapshotMetadata};
use ratatosk_engine::{Engine, Error, Overlay, SpaceId, View};

use crate::coprocessor::Keyspaces;
use crate::host::read_applied;
use crate::log::{GroupId, Truncated};
use crate::range::{Descriptor, META};

/// A range as it leaves. While it lives, the engine keeps what it has.
pub struct Departure<V> {
    descriptor: Descriptor,
    at: Truncated,
    space: SpaceId,
    view: V,
}

/// Makes a checkpoint and takes a range out of it; `None` if it is not here any more.
///
/// # Errors
/// The engine's.
pub fn depart<E: Engine>(
    overlay: &Overlay<E>,
    keyspaces: &Keyspaces,
    group: GroupId,
) -> Result<Option<Departure<E::View>>, Error> {
    overlay.checkpoint()?;
    let view = overlay.engine().view();
    let Some(found) = view.get(META, &Descriptor::key(group))? else { return Ok(None) };
    let Ok(descriptor) = Descriptor::decode(group, &found) else {
        let detail = format!("what range {} is, is not readable", group.0);
        return Err(Error::Corrupt { detail });
    };
    let Some(space) = keyspaces.space(&descriptor.keyspace) else { return Ok(None) };
    let applied = read_applied(&view, group)?;
    let at = Truncated { index: applied.index, term: applied.term };
    Ok(Some(Departure { descriptor, at, space, view }))
}

impl<V: View> Departure<V> {
    /// The last entry whose effects are in it.
    pub fn at(&self) -> Truncated {
        self.at
    }

    /// For the machine, which announces it to whoever needs it.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut metadata = SnapshotMetadata::default();
        (metadata.index, metadata.term) = (self.at.index, self.at.term);
        metadata.set_conf_state(self.descriptor.membership.conf_state());
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(metadata);
        snapshot.data = self.descriptor.encode();
        snapshot
    }

    /// Shows every key and value, in the order of the keys.
    ///
    /// # Errors
    /// The engine's; what was shown is right.
    pub fn read(&self, visit: &mut dyn FnMut(Bytes, Bytes)) -> Result<(), Error> {
        self.view.scan(self.space, &self.descriptor.boundary, &mut |key, value| {
            visit(Bytes::copy_from_slice(key), value.clone());
            ControlFlow::Continue(())
        })
    }
}

impl<V> std::fmt::Debug for Departure<V> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let group = self.descriptor.group;
        formatter.debug_struct("Departure").field("group", &group).finish_non_exhaustive()
    }
}

//! What is sent to a replica that the log cannot bring up to date: a range as a checkpoint has it.
//!
//! A view of the engine has the data, what the range is, and how far the data came, all of one moment;
//! so nothing of the store waits while it is read. A [`sender`] cuts it into the pieces of a
//! [`stream`], a [`receiver`] stages them in a [`folder`]. When all have come, the message that
//! announces the data goes to the receiver's machine, and its host finds the data among the
//! [`Arrivals`](crate::host::Arrivals). KV-011

mod bucket;
pub mod folder;
pub mod receiver;
pub mod sender;
mod staged;
pub mod stream;

use std::ops::ControlFlow;

use raft::eraftpb::{Snapshot, SnapshotMetadata};
use ratatosk_engine::{Engine, Error, KeyRange, Overlay, SpaceId, View};

use crate::coprocessor::Keyspaces;
use crate::host::{behind, read_applied};
use crate::log::{GroupId, Truncated};
use crate::range::{Descriptor, META};
use crate::snapshot::stream::{Chunk, Filling, Head, Position, SnapshotId};

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

    /// Which range it is of, and of which moment.
    #[must_use]
    pub fn head(&self, id: SnapshotId) -> Head {
        Head { id, descriptor: self.descriptor.clone(), at: self.at }
    }

    /// The pairs behind a place, so many bytes of them or one; `None` if there is none.
    ///
    /// # Errors
    /// The engine's.
    pub fn chunk(
        &self,
        id: SnapshotId,
        place: &Position,
        bytes_max: usize,
    ) -> Result<Option<Chunk>, Error> {
        let KeyRange { start, end } = self.descriptor.boundary.clone();
        let start = if place.chunks == 0 { start } else { behind(&place.last_key).max(start) };
        let mut filling = Filling::new(bytes_max);
        self.view.scan(self.space, &KeyRange { start, end }, &mut |key, value| match filling
            .push(key, value)
        {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        })?;
        Ok(filling.finish(id, place.chunks))
    }
}

impl<V> std::fmt::Debug for Departure<V> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let group = self.descriptor.group;
        formatter.debug_struct("Departure").field("group", &group).finish_non_exhaustive()
    }
}

//! Data of a range that comes from another store, or goes for ever: more than one batch of the engine
//! may hold.
//!
//! A mark is durable before the first batch and goes with the last one, and while it is there the
//! group has no descriptor: a crash in between leaves what nobody reads and
//! [`Host::clear_leftovers`] removes. All of it is written to the engine itself, after a checkpoint, so
//! the overlay has nothing of the range that could hide what comes, or bring back what goes. KV-016

use std::ops::ControlFlow;

use bytes::Bytes;
use ratatosk_engine::{Batch, Engine, Error, KeyRange, SpaceId, View};

use super::range::Range;
use super::{Arrivals, Done, Host, read_tombstone, unknown};
use crate::log::{GroupId, Truncated};
use crate::machine::Input;
use crate::mark::{Installing, Removing};
use crate::range::{Applied, Descriptor, Fate, META, OVER, Tombstone};

/// Bytes of keys and values that are written to the engine at once.
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// From so many of them on they are synced: little by little, so that whoever else waits for the disk does
/// not wait for all of a range.
const UNSYNCED_BATCHES: usize = 4;

/// What a snapshot brings.
#[derive(Copy, Clone)]
pub(super) struct Coming {
    /// The last entry whose effects are in the data.
    pub(super) at: Truncated,
    /// The log has the entries behind it.
    pub(super) keeps_log: bool,
}

/// An installation that has begun.
struct Begun {
    mark: Installing,
    /// Ranges that are a part of what comes, and the replicas that they were here.
    taken_in: Vec<(GroupId, u64)>,
}

/// A batch that is written whenever it has grown large.
struct Batches<'a, E> {
    engine: &'a E,
    bytes_max: usize,
    batch: Batch,
    /// Batches that the disk may not have.
    unsynced: usize,
}

impl<E: Engine> Host<E> {
    /// Writes so many bytes at once, about, where the data of a range comes or goes.
    #[must_use]
    pub fn with_batches(self, bytes: usize) -> Self {
        Self { batch_bytes: bytes, ..self }
    }

    /// Removes what a crash has left of ranges whose data came or went. To be called before the ranges
    /// are taken in; may be called again.
    ///
    /// # Errors
    /// The engine's; [`Error::Corrupt`] for a keyspace that is not known.
    pub fn clear_leftovers(&mut self) -> Result<(), Error> {
        let (mut coming, mut going, mut unreadable) = (Vec::new(), Vec::new(), None);
        self.overlay.view().scan(META, &KeyRange::all(), &mut |key, value| {
            if let Some(group) = Installing::group_of(key) {
                match Installing::decode(value) {
                    Ok(mark) => coming.push((group, mark)),
                    Err(_) => unreadable = Some(group),
                }
            }
            if let Some(group) = Removing::group_of(key) {
                match Removing::decode(value) {
                    Ok(mark) => going.push((group, mark)),
                    Err(_) => unreadable = Some(group),
                }
            }
            ControlFlow::Continue(())
        })?;
        if let Some(group) = unreadable {
            let detail = format!("what is half there of group {} is not readable", group.0);
            return Err(Error::Corrupt { detail });
        }
        for (group, mark) in going {
            self.clear(group, &mark)?;
        }
        for (group, mark) in coming.into_iter().filter(|(_, mark)| !mark.unclean.is_empty()) {
            let space = self.known_space(group, &mark.keyspace)?;
            let mut batches = self.batches();
            for keys in &mark.unclean {
                batches.clear(space, keys)?;
            }
            // Other ranges may come here from now on.
            let clean = Installing { unclean: Vec::new(), ..mark };
            batches.put(META, Installing::key(group), clean.encode())?;
            batches.finish()?;
        }
        Ok(())
    }

    /// The data of another store takes the place of what is there, and is durable then. KV-011
    pub(super) fn install<T>(
        &mut self,
        descriptor: Descriptor,
        coming: Coming,
        arrivals: &impl Arrivals,
        done: &mut Done<T>,
    ) -> Result<(), Error> {
        let Coming { at, keeps_log } = coming;
        let group = descriptor.group;
        let Some(space) = self.keyspaces.space(&descriptor.keyspace) else {
            return Err(unknown(&descriptor));
        };
        self.check_edition(&descriptor)?;
        // From here on the overlay has nothing of the range that could hide what comes.
        self.overlay.checkpoint()?;
        let Begun { mark, taken_in } = self.mark_installing(&descriptor)?;
        let mut batches = self.batches();
        for keys in &mark.unclean {
            batches.clear(space, keys)?;
        }
        arrivals.read(group, at, &mut |key, value| batches.put(space, key, value))?;
        // Where the log begins that is held against it.
        let installed = if keeps_log { mark.applied.installed } else { at.index };
        let applied = Applied { index: at.index, term: at.term, installed };
        batches.batch.put(META, Descriptor::key(group), descriptor.encode());
        batches.batch.put(META, Applied::key(group), applied.encode());
        batches.batch.remove(META, Installing::key(group));
        batches.finish()?;
        self.open(descriptor.clone())?;
        done.inputs.push(Input::Installed { descriptor: Box::new(descriptor) });
        let removed = |(group, replica)| Input::Removed { group, replica };
        done.inputs.extend(taken_in.into_iter().map(removed));
        Ok(())
    }

    /// From now on the group has no data that counts, and what it has taken in elsewhere is no more. To
    /// be cleared are the keys that they had, and those that it is to have.
    fn mark_installing(&mut self, descriptor: &Descriptor) -> Result<Begun, Error> {
        let group = descriptor.group;
        let mut batch = Batch::new();
        let mut unclean = Vec::new();
        let taken_in = self.take_out(descriptor, &mut batch, &mut unclean)?;
        let held = self.let_go(group);
        // Of a former attempt there is still how far the data had come before it.
        let former = Installing::read(&self.overlay.engine().view(), group)?;
        let former = former.map_or_else(Applied::default, |mark| mark.applied);
        unclean.push(descriptor.boundary.clone());
        let other = held.as_ref().map(|range| &range.descriptor.boundary);
        unclean.extend(other.filter(|held| **held != descriptor.boundary).cloned());
        let me = descriptor.membership.of_store(self.store);
        let mark = Installing {
            replica: me.map_or(0, |replica| replica.id),
            keyspace: descriptor.keyspace.clone(),
            applied: held.as_ref().map_or(former, |range| range.applied),
            unclean,
        };
        batch.put(META, Installing::key(group), mark.encode());
        batch.remove(META, Descriptor::key(group));
        batch.remove(META, Applied::key(group));
        self.overlay.engine().write(batch)?;
        self.overlay.engine().persist()?;
        Ok(Begun { mark, taken_in })
    }

    /// Has the ranges go that one has taken in elsewhere, which comes as a snapshot; answers which. Their
    /// keys are to be cleared. The machine lets none in that has a key of another range. KV-018
    fn take_out(
        &mut self,
        whole: &Descriptor,
        batch: &mut Batch,
        unclean: &mut Vec<KeyRange>,
    ) -> Result<Vec<(GroupId, u64)>, Error> {
        let mut taken = Vec::new();
        let others = self.ranges.values().map(|range| &range.descriptor);
        for held in others.filter(|held| held.group != whole.group && held.overlaps(whole)) {
            if whole.fate_of(held) != Some(Fate::Merged) {
                let (one, two) = (whole.group.0, held.group.0);
                let detail = format!("groups {one} and {two} have the same keys");
                return Err(Error::Corrupt { detail });
            }
            batch.remove(META, Descriptor::key(held.group));
            batch.remove(META, Applied::key(held.group));
            batch.put(META, Tombstone::key(held.group), Tombstone(OVER).encode());
            taken.push((held.group, OVER));
            unclean.push(held.boundary.clone());
        }
        for (group, _) in &taken {
            self.let_go(*group);
        }
        Ok(taken)
    }

    /// Takes a range out whose data goes; its coprocessor hears of it.
    fn let_go(&mut self, group: GroupId) -> Option<Range> {
        let mut range = self.ranges.remove(&group)?;
        range.leave();
        Some(range)
    }

    /// Removes what is there of a group, durably, and leaves the mark that it was here. KV-019
    pub(super) fn remove<T>(
        &mut self,
        group: GroupId,
        replica: u64,
        done: &mut Done<T>,
    ) -> Result<(), Error> {
        let mut changes = Batch::new();
        let mut removing = None;
        if let Some(mut range) = self.ranges.remove(&group) {
            range.leave();
            let Descriptor { keyspace, boundary, .. } = range.descriptor.clone();
            let mark = Removing { keyspace, boundary };
            changes.put(META, Removing::key(group), mark.encode());
            removing = Some(mark);
        }
        let view = self.overlay.view();
        let highest = replica.max(read_tombstone(&view, group)?);
        // One that came after it may wait for its data.
        if Installing::read(&view, group)?.is_some_and(|mark| mark.replica <= replica) {
            changes.remove(META, Installing::key(group));
        }
        drop(view);
        changes.remove(META, Descriptor::key(group));
        changes.remove(META, Applied::key(group));
        changes.put(META, Tombstone::key(group), Tombstone(highest).encode());
        self.overlay.apply(changes);
        self.overlay.checkpoint()?;
        if let Some(mark) = removing {
            self.clear(group, &mark)?;
        }
        done.inputs.push(Input::Removed { group, replica });
        Ok(())
    }

    /// Removes the data that a durable mark says to be left.
    pub(super) fn clear(&self, group: GroupId, mark: &Removing) -> Result<(), Error> {
        let space = self.known_space(group, &mark.keyspace)?;
        let mut batches = self.batches();
        batches.clear(space, &mark.boundary)?;
        batches.batch.remove(META, Removing::key(group));
        batches.finish()
    }

    fn known_space(&self, group: GroupId, keyspace: &str) -> Result<SpaceId, Error> {
        self.keyspaces.space(keyspace).ok_or_else(|| Error::Corrupt {
            detail: format!("group {} is of {keyspace:?}, which is not known here", group.0),
        })
    }

    fn batches(&self) -> Batches<'_, E> {
        let engine = self.overlay.engine();
        Batches { engine, bytes_max: self.batch_bytes, batch: Batch::new(), unsynced: 0 }
    }
}

impl<E: Engine> Batches<'_, E> {
    fn put(&mut self, space: SpaceId, key: Bytes, value: Bytes) -> Result<(), Error> {
        self.batch.put(space, key, value);
        self.write_if_large()
    }

    /// Removes every key of an interval.
    fn clear(&mut self, space: SpaceId, keys: &KeyRange) -> Result<(), Error> {
        let mut rest = keys.clone();
        loop {
            // A view a batch: one that is held for long holds back what the engine collects.
            let view = self.engine.view();
            let mut last = None;
            view.scan(space, &rest, &mut |key, _| {
                let key = Bytes::copy_from_slice(key);
                last = Some(key.clone());
                self.batch.remove(space, key);
                match self.is_large() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })?;
            let Some(last) = last.filter(|_| self.is_large()) else { return Ok(()) };
            rest.start = behind(&last);
            self.write_if_large()?;
        }
    }

    fn is_large(&self) -> bool {
        self.batch.size_bytes() >= self.bytes_max
    }

    fn write_if_large(&mut self) -> Result<(), Error> {
        if self.is_large() {
            self.engine.write(std::mem::take(&mut self.batch))?;
            self.unsynced += 1;
        }
        if self.unsynced >= UNSYNCED_BATCHES {
            self.engine.persist()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Writes the rest, and makes all of it durable.
    fn finish(self) -> Result<(), Error> {
        self.engine.write(self.batch)?;
        self.engine.persist()
    }
}

/// The first key behind another.
pub(crate) fn behind(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

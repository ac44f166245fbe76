//! Takes snapshots in: piece by piece into a file, until all of one is there.
//!
//! Every piece is checked before it is written, and answered with how far the stream has come, so what
//! is lost on its way is sent again and what comes twice is nothing new. A file counts once its end is
//! there and the disk has taken all of it: only then the machine hears of the snapshot, and gives up
//! what it has for it. What fails here, for want of room or else, costs this stream and nothing else.
//! No file outlives its process. KV-011
//!
//! `staged ≤ staged_max`; of each group at most one is on its way, or one has come.

use std::collections::BTreeMap;
use std::time::Duration;

use ratatosk_clock::Instant;

use super::folder::{Folder, Staged};
use super::sender::{Parcel, Receipt, Said};
use super::staged::Arrived;
pub use super::staged::Shelf;
use super::stream::{Chunk, End, Head, Piece, Position, SnapshotId};
use crate::log::{GroupId, Truncated};
use crate::machine::{Envelope, Event, described};

/// Limits of what is staged.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Snapshots that are on their way.
    pub staged_max: usize,
    /// How long one may come no further before it is given up.
    pub stall_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { staged_max: 8, stall_max: Duration::from_secs(60) }
    }
}

/// What comes of a parcel.
#[derive(Debug, Default)]
pub struct Taken {
    /// For the sender.
    pub receipt: Option<Receipt>,
    /// For the machine, as [`Input::Message`](crate::machine::Input::Message): all of its data is here.
    /// The receiver has to hear what [becomes](Receiver::settle) of it.
    pub message: Option<Box<Envelope>>,
}

/// Snapshots of which a machine is told with the step that comes next.
#[derive(Debug, Default)]
pub struct Told(Vec<(GroupId, Truncated)>);

/// What a machine has made of the message that announces a snapshot.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The group.
    pub group: GroupId,
    /// The last entry whose effects are in it.
    pub at: Truncated,
    /// The host is to take it in; or it is of no use.
    pub is_taken: bool,
}

impl Told {
    /// The machine is told of this one.
    pub fn note(&mut self, envelope: &Envelope) {
        self.0.push((envelope.group, place_of(envelope)));
    }

    /// The step has begun: what came of those that it was told of.
    pub fn settle<T>(&mut self, events: &[Event<T>]) -> impl Iterator<Item = Settled> {
        std::mem::take(&mut self.0).into_iter().map(|(group, at)| {
            let is_it = |event: &Event<T>| {
                matches!(event, Event::Install { descriptor, at: place, .. }
                    if descriptor.group == group && *place == at)
            };
            Settled { group, at, is_taken: events.iter().any(is_it) }
        })
    }
}

/// See the module.
pub struct Receiver<F: Folder> {
    folder: F,
    config: Config,
    staging: BTreeMap<GroupId, Staging<F::File>>,
    shelf: Shelf<F::File>,
    /// The last that came of each group, and for which replica: its sender may not have heard of it.
    come: BTreeMap<GroupId, (SnapshotId, u64)>,
}

/// A snapshot on its way.
struct Staging<File> {
    from: u64,
    envelope: Box<Envelope>,
    head: Head,
    name: String,
    file: File,
    /// Bytes of the file.
    length: u64,
    position: Position,
    /// When it last came further.
    advanced: Instant,
}

impl<F: Folder> Receiver<F> {
    /// Stages to a folder, of which nothing is kept.
    ///
    /// # Errors
    /// The system's.
    pub fn open(folder: F, config: Config) -> std::io::Result<Self> {
        folder.clear()?;
        let (staging, shelf) = (BTreeMap::new(), Shelf::new());
        let come = BTreeMap::new();
        Ok(Self { folder, config, staging, shelf, come })
    }

    /// What has come, for the host.
    #[must_use]
    pub fn shelf(&self) -> Shelf<F::File> {
        self.shelf.clone()
    }

    /// Takes what a store has sent, if the machine
    /// [wants](crate::machine::Machine::wants) what it announces.
    pub fn take(
        &mut self,
        now: Instant,
        from: u64,
        parcel: Parcel,
        mut wants: impl FnMut(&Envelope) -> bool,
    ) -> Taken {
        let (group, id, said, message) = match parcel {
            Parcel::Begin { envelope, head } => {
                let Ok(Piece::Head(head)) = Piece::decode(&head) else { return Taken::default() };
                let (group, id) = (head.descriptor.group, head.id);
                let said = match announces(&envelope, &head) && wants(&envelope) {
                    true => self.begin(now, from, envelope, head),
                    false => Said::Refused,
                };
                (group, id, said, None)
            }
            Parcel::Piece { group, id, data } => {
                let is_it = |held: &&mut Staging<F::File>| held.head.id == id && held.from == from;
                let Some(held) = self.staging.get_mut(&group).filter(is_it) else {
                    return Taken { receipt: Some(self.unknown(group, id)), message: None };
                };
                let (said, message) = match Piece::decode(&data) {
                    Ok(Piece::Chunk(chunk)) if chunk.id == id => {
                        (held.write(now, &chunk, &self.folder), None)
                    }
                    Ok(Piece::End(end)) if end.id == id => self.finish(group, end),
                    Ok(_) => (Said::Refused, None),
                    Err(damaged) => {
                        // It is as good as lost.
                        tracing::warn!(group = group.0, from, %damaged, "a piece of a snapshot");
                        (Said::Has(held.position.clone()), None)
                    }
                };
                (group, id, said, message)
            }
        };
        let is_its = |held: &Staging<F::File>| held.head.id == id;
        if said == Said::Refused && self.staging.get(&group).is_some_and(is_its) {
            self.give_up(group);
        }
        Taken { receipt: Some(Receipt { group, id, said }), message }
    }

    /// What the machine has made of a message that came of [`take`](Self::take).
    pub fn settle(&mut self, settled: Settled) {
        let Settled { group, at, is_taken } = settled;
        if !is_taken {
            self.come.remove(&group);
            self.drop_arrived(|held| held.descriptor.group == group && held.at == at, u64::MAX);
        }
    }

    /// The host has taken in a snapshot of a group.
    pub fn installed(&mut self, group: GroupId) {
        self.drop_arrived(|held| held.descriptor.group == group, u64::MAX);
    }

    /// The store has left a group as this replica.
    pub fn leave(&mut self, group: GroupId, replica: u64) {
        let is_its = |held: &Staging<F::File>| held.envelope.message.to <= replica;
        if self.staging.get(&group).is_some_and(is_its) {
            self.give_up(group);
        }
        self.drop_arrived(|held| held.descriptor.group == group, replica);
        self.come.retain(|held, (_, known)| *held != group || *known > replica);
    }

    /// Gives up what comes no further.
    pub fn poll(&mut self, now: Instant) {
        let stall_max = self.config.stall_max;
        let is_stalled = |held: &Staging<F::File>| now >= held.advanced + stall_max;
        let stalled = self.staging.iter().filter(|(_, held)| is_stalled(held));
        let stalled: Vec<GroupId> = stalled.map(|(group, _)| *group).collect();
        stalled.into_iter().for_each(|group| self.give_up(group));
    }

    /// When [`poll`](Self::poll) has something to do, if ever.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.staging.values().map(|held| held.advanced + self.config.stall_max).min()
    }

    fn begin(&mut self, now: Instant, from: u64, envelope: Box<Envelope>, head: Head) -> Said {
        let (group, id) = (head.descriptor.group, head.id);
        if self.come.get(&group) == Some(&(id, envelope.message.to)) {
            return Said::Arrived;
        }
        if self.shelf.has(group) {
            // One is about to be taken in, or to be given up.
            return Said::Refused;
        }
        if let Some(held) = self.staging.get_mut(&group) {
            if held.head == head && held.from == from {
                held.envelope = envelope;
                return Said::Has(held.position.clone());
            }
            if rank(&envelope) < rank(&held.envelope) {
                return Said::Refused;
            }
            self.give_up(group);
        }
        if self.staging.len() >= self.config.staged_max {
            return Said::Refused;
        }
        match self.stage(now, from, envelope, head) {
            Ok(true) => Said::Has(Position::default()),
            Ok(false) => {
                tracing::warn!(group = group.0, from, "the disk has no room for a snapshot");
                Said::Refused
            }
            Err(error) => {
                tracing::warn!(group = group.0, from, %error, "a snapshot cannot be staged");
                Said::Refused
            }
        }
    }

    /// Makes a file; false if there is no room.
    fn stage(
        &mut self,
        now: Instant,
        from: u64,
        envelope: Box<Envelope>,
        head: Head,
    ) -> std::io::Result<bool> {
        let (group, SnapshotId { store, number }) = (head.descriptor.group, head.id);
        if !self.folder.has_room(0)? {
            return Ok(false);
        }
        let name = format!("{:016x}-{store:016x}-{number:016x}", group.0);
        let (mut file, piece) = (self.folder.create(&name)?, head.encode());
        if let Err(error) = file.append(&piece) {
            let _ = self.folder.remove(&name);
            return Err(error);
        }
        let (length, position) = (piece.len() as u64, Position::default());
        let staging = Staging { from, envelope, head, name, file, length, position, advanced: now };
        self.staging.insert(group, staging);
        Ok(true)
    }

    /// All has come, if it is what the end says.
    fn finish(&mut self, group: GroupId, end: End) -> (Said, Option<Box<Envelope>>) {
        let Some(mut held) = self.staging.remove(&group) else { return (Said::Unknown, None) };
        if end.chunks != held.position.chunks {
            let said = Said::Has(held.position.clone());
            self.staging.insert(group, held);
            return (said, None);
        }
        let finished = match end == held.position.end(end.id) {
            true => held.finish(&end.encode()).map_err(|error| error.to_string()),
            false => Err("its end does not fit what came".to_owned()),
        };
        if let Err(error) = finished {
            tracing::warn!(group = group.0, from = held.from, error, "a snapshot is given up");
            self.remove(&held.name);
            return (Said::Refused, None);
        }
        let Staging { envelope, head, name, file, length, .. } = held;
        let replica = envelope.message.to;
        self.come.insert(group, (head.id, replica));
        self.shelf.put(Arrived { head, replica, name, file, length });
        (Said::Arrived, Some(envelope))
    }

    /// Of a snapshot that is not on its way: it has come, or it is not known.
    fn unknown(&self, group: GroupId, id: SnapshotId) -> Receipt {
        let has_come = self.come.get(&group).is_some_and(|(known, _)| *known == id);
        let said = if has_come { Said::Arrived } else { Said::Unknown };
        Receipt { group, id, said }
    }

    fn give_up(&mut self, group: GroupId) {
        if let Some(held) = self.staging.remove(&group) {
            self.remove(&held.name);
        }
    }

    fn drop_arrived(&self, goes: impl Fn(&Head) -> bool, replica_max: u64) {
        let goes = |held: &Arrived<F::File>| held.replica <= replica_max && goes(&held.head);
        self.shelf.take(goes).iter().for_each(|name| self.remove(name));
    }

    fn remove(&self, name: &str) {
        // What is left goes at the next start.
        if let Err(error) = self.folder.remove(name) {
            tracing::warn!(name, %error, "a staged snapshot cannot be removed");
        }
    }
}

impl<File: Staged> Staging<File> {
    fn write(&mut self, now: Instant, chunk: &Chunk, folder: &impl Folder) -> Said {
        if chunk.number != self.position.chunks {
            return Said::Has(self.position.clone());
        }
        let group = self.head.descriptor.group.0;
        let behind = match self.position.behind(chunk, &self.head.descriptor.boundary) {
            Ok(behind) => behind,
            Err(what) => {
                tracing::warn!(group, from = self.from, what, "a snapshot is given up");
                return Said::Refused;
            }
        };
        let piece = chunk.encode();
        let length = self.length + piece.len() as u64;
        let written = folder.has_room(length).and_then(|has_room| match has_room {
            true => self.file.append(&piece),
            false => Err(std::io::ErrorKind::StorageFull.into()),
        });
        if let Err(error) = written {
            tracing::warn!(group, from = self.from, %error, "a snapshot cannot be staged");
            return Said::Refused;
        }
        (self.position, self.length, self.advanced) = (behind, length, now);
        Said::Has(self.position.clone())
    }

    /// From here on it counts: what the disk does not take shows before anything is given up for it.
    fn finish(&mut self, end: &[u8]) -> std::io::Result<()> {
        self.file.append(end)?;
        self.file.sync()?;
        self.length += end.len() as u64;
        Ok(())
    }
}

/// Whether a message is of the snapshot that a head begins.
fn announces(envelope: &Envelope, head: &Head) -> bool {
    let described = described(envelope.group, envelope.message.get_snapshot());
    place_of(envelope) == head.at && described.as_ref() == Some(&head.descriptor)
}

/// Where the snapshot ends that a message announces.
fn place_of(envelope: &Envelope) -> Truncated {
    let metadata = envelope.message.get_snapshot().get_metadata();
    Truncated { index: metadata.index, term: metadata.term }
}

/// Of two snapshots of a group the one is wanted that was sent later.
fn rank(envelope: &Envelope) -> (u64, u64, u64) {
    let message = &envelope.message;
    (message.to, message.term, message.get_snapshot().get_metadata().index)
}

impl<F: Folder> std::fmt::Debug for Receiver<F> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Receiver")
            .field("staging", &self.staging.len())
            .finish_non_exhaustive()
    }
}

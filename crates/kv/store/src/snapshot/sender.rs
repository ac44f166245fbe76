//! Sends snapshots: which piece goes to whom, and when.
//!
//! A plain state machine: it is told the time, what receivers say, and that snapshots were made and are
//! to be sent; it answers with parcels. It reads a chunk where the one before ended, so a stream goes
//! on from wherever its receiver says that it is. At most so many chunks are on their way to a receiver,
//! so many streams at work, and so many bytes a second leave the store. A view holds back what the
//! engine collects, so its life is capped: what is not sent by then fails, and the library asks for
//! another snapshot. KV-011

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_engine::{Error, View};

use super::Departure;
use super::bucket::Bucket;
use super::stream::{Position, SnapshotId};
use crate::log::{GroupId, Truncated};
use crate::machine::Envelope;

/// Limits of a store's streams, all together.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of pairs in a chunk.
    pub chunk_bytes: usize,
    /// Chunks that are on their way to a receiver.
    pub window: u64,
    /// Bytes that leave in a second.
    pub bytes_per_second: u64,
    /// Streams at work.
    pub streams_max: usize,
    /// Streams that wait; with more the next one fails.
    pub waiting_max: usize,
    /// How long a view of the engine is kept.
    pub view_life: Duration,
    /// How long a receiver may say nothing before it is asked how far it has come.
    pub patience: Duration,
    /// How long it may come no further before its stream fails.
    pub stall_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            chunk_bytes: 256 << 10,
            window: 8,
            bytes_per_second: 64 << 20,
            streams_max: 2,
            waiting_max: 1_024,
            view_life: Duration::from_secs(600),
            patience: Duration::from_secs(1),
            stall_max: Duration::from_secs(20),
        }
    }
}

/// What goes to the receiver of a snapshot.
#[derive(Clone, Debug)]
pub enum Parcel {
    /// A snapshot is to come, or to go on: how far has it come?
    Begin {
        /// For the receiver's machine, once all of it is there.
        envelope: Box<Envelope>,
        /// The first piece.
        head: Bytes,
    },
    /// Another piece.
    Piece {
        /// The group.
        group: GroupId,
        /// Of which snapshot.
        id: SnapshotId,
        /// The piece.
        data: Bytes,
    },
}

/// What a receiver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The group.
    pub group: GroupId,
    /// Of which snapshot.
    pub id: SnapshotId,
    /// How it stands.
    pub said: Said,
}

/// How a stream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// So much has come.
    Has(Position),
    /// All of it has.
    Arrived,
    /// It does not know this snapshot, or does no more.
    Unknown,
    /// It takes none of it, or no more.
    Refused,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Dispatch {
    /// For other stores, each with the store.
    pub parcels: Vec<(u64, Parcel)>,
    /// Streams that have ended: the group, the replica, and whether all arrived; for
    /// [`Input::SnapshotSent`](crate::machine::Input::SnapshotSent).
    pub ended: Vec<(GroupId, u64, bool)>,
}

/// See the module.
pub struct Sender<V> {
    store: u64,
    next_number: u64,
    config: Config,
    bucket: Bucket,
    /// The latest snapshot of each group.
    held: BTreeMap<GroupId, Arc<Held<V>>>,
    /// The first ones are at work, the others wait.
    streams: VecDeque<Stream<V>>,
}

struct Held<V> {
    id: SnapshotId,
    departure: Departure<V>,
    made: Instant,
}

struct Stream<V> {
    to: u64,
    envelope: Envelope,
    held: Arc<Held<V>>,
    /// What the receiver is known to have; `None` while it is asked.
    known: Option<Position>,
    /// What was sent.
    sent: Position,
    is_end_sent: bool,
    /// What was behind `known` was sent again already.
    is_repeated: bool,
    /// When it was last asked or heard of; `None` before it is at work.
    heard: Option<Instant>,
    /// When it last came further; `None` before it is at work.
    advanced: Option<Instant>,
}

/// How long a snapshot is kept that nobody is sent.
const UNUSED_LIFE: Duration = Duration::from_secs(5);

impl<V: View> Sender<V> {
    /// One of store number `store`. Numbers of snapshots count from `first`: no other sender of the
    /// store, in whichever process, may ever have given them.
    #[must_use]
    pub fn new(store: u64, first: u64, now: Instant, config: Config) -> Self {
        let burst_bytes = (config.bytes_per_second / 10).max(1);
        let bucket = Bucket::new(now, config.bytes_per_second, burst_bytes);
        let (held, streams) = (BTreeMap::new(), VecDeque::new());
        Self { store, next_number: first, config, bucket, held, streams }
    }

    /// Keeps a snapshot that was made, in place of a former one of the group.
    pub fn keep(&mut self, now: Instant, departure: Departure<V>) -> SnapshotId {
        let id = SnapshotId { store: self.store, number: self.next_number };
        self.next_number = self.next_number.wrapping_add(1);
        let group = departure.descriptor.group;
        self.held.insert(group, Arc::new(Held { id, departure, made: now }));
        id
    }

    /// Sends what a message of the machine announces.
    pub fn send(&mut self, to: u64, envelope: Envelope, dispatch: &mut Dispatch) {
        let (group, replica) = (envelope.group, envelope.message.to);
        let metadata = envelope.message.get_snapshot().get_metadata();
        let at = Truncated { index: metadata.index, term: metadata.term };
        let held = self.held.get(&group).filter(|held| held.departure.at == at).cloned();
        let known = self.streams.iter_mut().find(|stream| stream.is_for(group, replica));
        if let (Some(stream), Some(held)) = (known, &held)
            && stream.held.id == held.id
        {
            // The message may be of a newer term.
            stream.envelope = envelope;
            return;
        }
        self.streams.retain(|stream| !stream.is_for(group, replica));
        let Some(held) = held.filter(|_| self.streams.len() < self.streams_max()) else {
            dispatch.ended.push((group, replica, false));
            return;
        };
        self.streams.push_back(Stream {
            to,
            envelope,
            held,
            known: None,
            sent: Position::default(),
            is_end_sent: false,
            is_repeated: false,
            heard: None,
            advanced: None,
        });
    }

    fn streams_max(&self) -> usize {
        self.config.streams_max.saturating_add(self.config.waiting_max)
    }

    /// Sends no more of a group: this store leads it no longer, or has left it.
    pub fn forget(&mut self, group: GroupId) {
        self.streams.retain(|stream| stream.envelope.group != group);
        self.held.remove(&group);
    }

    /// A receiver says how it stands.
    pub fn take(&mut self, now: Instant, from: u64, receipt: Receipt, dispatch: &mut Dispatch) {
        let Receipt { group, id, said } = receipt;
        let is_it = |stream: &Stream<V>| {
            stream.to == from && stream.held.id == id && stream.envelope.group == group
        };
        let Some(place) = self.streams.iter().position(is_it) else { return };
        let stream = &mut self.streams[place];
        match said {
            Said::Has(position) => stream.reach(now, position),
            Said::Unknown => {
                stream.known = None;
                stream.heard = None;
            }
            Said::Arrived | Said::Refused => {
                let replica = stream.envelope.message.to;
                dispatch.ended.push((group, replica, said == Said::Arrived));
                self.streams.remove(place);
            }
        }
    }

    /// Sends what may be sent now.
    ///
    /// # Errors
    /// The engine's.
    pub fn poll(&mut self, now: Instant, dispatch: &mut Dispatch) -> Result<(), Error> {
        self.end(now, dispatch);
        let Config { streams_max, patience, .. } = self.config;
        for stream in self.streams.iter_mut().take(streams_max) {
            stream.ask(now, patience, dispatch);
        }
        // In turn, one chunk each.
        let mut has_sent = true;
        while has_sent {
            has_sent = false;
            for stream in self.streams.iter_mut().take(streams_max) {
                if stream.may_send(&self.config) && self.bucket.is_open(now) {
                    let data = stream.next_piece(&self.config)?;
                    self.bucket.take(data.len() as u64);
                    let (group, id) = (stream.envelope.group, stream.held.id);
                    dispatch.parcels.push((stream.to, Parcel::Piece { group, id, data }));
                    has_sent = true;
                }
            }
        }
        Ok(())
    }

    /// When it has something to do without being told, if ever; to be asked after
    /// [`poll`](Self::poll).
    #[must_use]
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let Config { streams_max, patience, stall_max, view_life, .. } = self.config;
        let at_work = self.streams.iter().take(streams_max);
        let sends = at_work.clone().any(|stream| stream.may_send(&self.config));
        let sends = sends.then(|| now + self.bucket.wait());
        let asks = at_work.clone().map(|stream| stream.heard.map_or(now, |heard| heard + patience));
        let stalls = at_work.filter_map(|stream| Some(stream.advanced? + stall_max));
        let views = self.held.values().map(|held| match Arc::strong_count(held) {
            1 => held.made + UNUSED_LIFE.min(view_life),
            _ => held.made + view_life,
        });
        sends.into_iter().chain(asks).chain(stalls).chain(views).min()
    }

    /// Lets go of what has taken too long.
    fn end(&mut self, now: Instant, dispatch: &mut Dispatch) {
        let Config { stall_max, view_life, .. } = self.config;
        let is_old = |held: &Held<V>| now >= held.made + view_life;
        self.streams.retain(|stream| {
            let is_stalled = stream.advanced.is_some_and(|advanced| now >= advanced + stall_max);
            let ends = is_old(&stream.held) || is_stalled;
            if ends {
                let replica = stream.envelope.message.to;
                dispatch.ended.push((stream.envelope.group, replica, false));
            }
            !ends
        });
        self.held.retain(|_, held| {
            let is_unused = Arc::strong_count(held) == 1 && now >= held.made + UNUSED_LIFE;
            !is_old(held) && !is_unused
        });
    }

    /// Streams at work and waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }
}

impl<V: View> Stream<V> {
    fn is_for(&self, group: GroupId, replica: u64) -> bool {
        self.envelope.group == group && self.envelope.message.to == replica
    }

    /// The receiver has so much.
    fn reach(&mut self, now: Instant, position: Position) {
        let Some(known) = &self.known else {
            // It was asked: this is where to go on, whatever was sent before.
            if position.chunks > 0 {
                self.advanced = Some(now);
            }
            self.go_on_from(now, position);
            return;
        };
        if position.chunks > known.chunks {
            self.advanced = Some(now);
            if self.sent.chunks < position.chunks {
                self.go_on_from(now, position);
                return;
            }
            (self.heard, self.is_repeated) = (Some(now), false);
            self.known = Some(position);
        } else if position.chunks == known.chunks && !self.is_repeated {
            // Something behind it came, and what follows it did not.
            self.go_on_from(now, position);
            self.is_repeated = true;
        }
    }

    fn go_on_from(&mut self, now: Instant, position: Position) {
        self.sent = position.clone();
        self.known = Some(position);
        (self.is_end_sent, self.is_repeated) = (false, false);
        self.heard = Some(now);
    }

    /// Asks the receiver how far it has come, if it has not said so for a while.
    fn ask(&mut self, now: Instant, patience: Duration, dispatch: &mut Dispatch) {
        if self.heard.is_some_and(|heard| now < heard + patience) {
            return;
        }
        (self.known, self.heard) = (None, Some(now));
        self.advanced.get_or_insert(now);
        let head = self.held.departure.head(self.held.id).encode();
        let envelope = Box::new(self.envelope.clone());
        dispatch.parcels.push((self.to, Parcel::Begin { envelope, head }));
    }

    fn may_send(&self, config: &Config) -> bool {
        let limit = self.known.as_ref().map(|known| known.chunks.saturating_add(config.window));
        !self.is_end_sent && limit.is_some_and(|limit| self.sent.chunks < limit)
    }

    fn next_piece(&mut self, config: &Config) -> Result<Bytes, Error> {
        let Held { id, departure, .. } = &*self.held;
        let Some(chunk) = departure.chunk(*id, &self.sent, config.chunk_bytes)? else {
            self.is_end_sent = true;
            return Ok(self.sent.end(*id).encode());
        };
        let behind = self.sent.behind(&chunk, &departure.descriptor.boundary);
        let unordered = |what| Error::Corrupt { detail: format!("of a range {what}") };
        self.sent = behind.map_err(unordered)?;
        Ok(chunk.encode())
    }
}

impl<V> std::fmt::Debug for Sender<V> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Sender")
            .field("streams", &self.streams.len())
            .finish_non_exhaustive()
    }
}

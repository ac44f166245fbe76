//! What shards leave for each other.
//!
//! A shard has one mailbox. Messages come in lanes, one per sending shard: the sender collects a
//! whole tick's worth in a batch of its own and hands it over at once, so that a lane is locked
//! once a tick and its shard woken at most once. Notes (a new connection, a kick, an answer) are
//! rare and go one by one.
//!
//! What comes from other hosts has a lane of its own, whose sender is the relay's thread.
//!
//! A lane is bounded by its sender: while it holds more than [`LANE_BYTES_MAX`], or less while memory
//! is short, the sender reads nothing from its publishers; other hosts are told that there is no room. Notes are bounded by the sessions that they are about.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_contract::{
    ReplyTo, SessionRef, Ticket,
    call::Settlement,
    group::Group,
    inbox::{Answer, DueWill},
    relay,
    session_dict::{Change, ChangeAnswer, EndCause},
    sessions::Delivery,
};
use tokio::sync::Notify;

use crate::{acceptor::Accepted, tenants::TenantNumber};

/// From how many bytes in a lane on its sender stops reading.
pub(crate) const LANE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Messages for one shard, as records; see [`crate::shard::wire`].
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) shared: Vec<Bytes>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.bytes.len() + self.shared.iter().map(Bytes::len).sum::<usize>()
    }
}

/// Something that a shard is told.
#[derive(Debug)]
pub(crate) enum Note {
    /// A connection to serve.
    Accept(Box<Accepted>),
    /// End this session: `by` takes it over and waits for [`Note::Kicked`].
    Kick { session: SessionRef, by: SessionRef },
    /// The session that `waiter` took over has ended.
    Kicked { waiter: SessionRef },
    /// See [`ratatosk_contract::session_dict::Holders::grant`].
    Granted(SessionRef),
    /// See [`ratatosk_contract::session_dict::Holders::end`].
    End { session: SessionRef, cause: EndCause },
    /// See [`ratatosk_contract::session_dict::Holders::change`].
    Change { session: SessionRef, change: Box<Change>, answer: ChangeAnswer },
    /// See [`ratatosk_contract::sessions::Sessions::inbox_ready`].
    InboxReady(SessionRef),
    /// See [`ratatosk_contract::sessions::Sessions::settle`].
    Settle { session: SessionRef, ticket: Ticket, settlement: Settlement },
    /// See [`ratatosk_contract::sessions::Sessions::chosen_before`].
    ChosenBefore { session: SessionRef, ticket: Ticket, groups: Vec<Arc<Group>> },
    /// See [`ratatosk_contract::sessions::Sessions::answered`].
    Answered { reply_to: ReplyTo, answer: Answer },
    /// What became of a message that the shard keeps while it is on its way to another host.
    SettleKept { ticket: Ticket, outcome: relay::Outcome },
    /// Publish a will that is due.
    Publish(Box<DueWill>),
    /// See [`ratatosk_contract::sessions::Sessions::deliver`].
    Deliver { session: SessionRef, delivery: Box<Delivery> },
    /// Routes of a tenant that were awaited may be there.
    LookAtRoutes(TenantNumber),
    /// Retained messages of a tenant that were awaited may be there.
    LookAtRetained(TenantNumber),
    /// A lane of this shard has room again.
    Resume,
    /// End all sessions at this many a second, then stop.
    Drain { per_second: u32 },
}

/// A shard's mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox {
    lanes: Vec<Lane>,
    notes: Mutex<Vec<Note>>,
    is_armed: AtomicBool,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Lane {
    batch: Mutex<Batch>,
    bytes: AtomicUsize,
    /// The sender waits for room.
    is_waited_for: AtomicBool,
}

impl Mailbox {
    /// A mailbox with a lane for each of `shards` shards, and one for what other hosts send.
    pub(crate) fn new(shards: usize) -> Self {
        Mailbox {
            lanes: (0..=shards).map(|_| Lane::default()).collect(),
            notes: Mutex::default(),
            is_armed: AtomicBool::new(false),
            bell: Notify::new(),
        }
    }

    /// Leaves a note.
    pub(crate) fn note(&self, note: Note) {
        self.notes.lock().push(note);
        self.ring();
    }

    /// Leaves notes.
    pub(crate) fn note_all(&self, notes: impl Iterator<Item = Note>) {
        self.notes.lock().extend(notes);
        self.ring();
    }

    /// Hands over a batch, which is empty afterwards and may have kept an allocation.
    pub(crate) fn hand_over(&self, from: usize, batch: &mut Batch) {
        let lane = &self.lanes[from];
        {
            // The count changes with what it counts: one that is out of step hides a batch.
            let mut waiting = lane.batch.lock();
            lane.bytes.fetch_add(batch.size_bytes(), Ordering::SeqCst);
            if waiting.is_empty() {
                std::mem::swap(&mut *waiting, batch);
            } else {
                waiting.bytes.append(&mut batch.bytes);
                waiting.shared.append(&mut batch.shared);
            }
        }
        self.ring();
    }

    /// How many bytes a lane holds.
    pub(crate) fn lane_bytes(&self, from: usize) -> usize {
        self.lanes[from].bytes.load(Ordering::Relaxed)
    }

    /// Whether the lane of a sender holds as much as it may. If so the sender is sent
    /// [`Note::Resume`] once it does not.
    pub(crate) fn is_full(&self, from: usize, bytes_max: usize) -> bool {
        let lane = &self.lanes[from];
        if lane.bytes.load(Ordering::Relaxed) < bytes_max {
            return false;
        }
        lane.is_waited_for.store(true, Ordering::SeqCst);
        // The receiver may have emptied the lane between the two looks.
        lane.bytes.load(Ordering::SeqCst) >= bytes_max
    }

    /// Takes what a sender handed over into `batch`, which must be empty. True if the sender
    /// waits for room and has to be told.
    pub(crate) fn take_batch(&self, from: usize, batch: &mut Batch) -> bool {
        let lane = &self.lanes[from];
        if lane.bytes.load(Ordering::SeqCst) == 0 {
            return false;
        }
        debug_assert!(batch.is_empty(), "a batch is read to its end first");
        {
            let mut waiting = lane.batch.lock();
            std::mem::swap(&mut *waiting, batch);
            lane.bytes.store(0, Ordering::SeqCst);
        }
        lane.is_waited_for.swap(false, Ordering::SeqCst)
    }

    /// Takes all notes into `notes`, which must be empty.
    pub(crate) fn take_notes(&self, notes: &mut Vec<Note>) {
        std::mem::swap(&mut *self.notes.lock(), notes);
    }

    /// Waits until something was left since the last look.
    pub(crate) async fn wait(&self) {
        self.bell.notified().await;
        self.is_armed.store(false, Ordering::SeqCst);
    }

    fn ring(&self) {
        if !self.is_armed.swap(true, Ordering::SeqCst) {
            self.bell.notify_one();
        }
    }
}

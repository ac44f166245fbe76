//! The way of effects into the log.
//!
//! A call decides under the locks of its sessions, and its [`Change`] collects the effects; they
//! are submitted before the locks are given up, so that what concerns one session is in the log in
//! the order in which it was decided.

use std::sync::Arc;

use ratatosk_client::{Busy, Fate, Keyspace, ReignPipe};
use ratatosk_clock::{Epoch, Timestamp};
use ratatosk_contract::{
    ReplyTo, SessionIdentity, SessionRef, StoredMessage,
    inbox::{InboxId, Subscription},
    sessions::Delivery,
};
use smallvec::SmallVec;

use crate::{
    coprocessor::MALFORMED,
    effect::{Effect, Target, VERSION},
    partition::Ended,
    partitions::{Partitions, Sequel, partition_number},
    queue::Transfer,
    schema::{
        EntryRecord, Key, MessageRecord, Position, SessionRecord, SubscriptionRecord, WillRecord,
    },
    seats::Seats,
};

/// The log of the inbox. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Journal {
    way: Way,
    pub(crate) epoch: Epoch,
    partitions: Arc<Partitions>,
}

/// The way to the ranges.
#[derive(Clone)]
enum Way {
    /// All of them, which are this node's alone.
    Whole(Arc<dyn Keyspace>),
    /// Those over which this node reigns.
    Reigns(Arc<Seats>),
}

impl Journal {
    pub(crate) fn new(
        keyspace: Arc<dyn Keyspace>,
        epoch: Epoch,
        partitions: Arc<Partitions>,
    ) -> Self {
        Journal { way: Way::Whole(keyspace), epoch, partitions }
    }

    /// Into ranges over which this node reigns now and then.
    pub(crate) fn of_reigns(seats: Arc<Seats>, epoch: Epoch, partitions: Arc<Partitions>) -> Self {
        Journal { way: Way::Reigns(seats), epoch, partitions }
    }

    /// The keyspace, where all of it is this node's.
    pub(crate) fn whole(&self) -> Option<&Arc<dyn Keyspace>> {
        match &self.way {
            Way::Whole(keyspace) => Some(keyspace),
            Way::Reigns(_) => None,
        }
    }

    /// Which partitions are served, where that is not all.
    pub(crate) fn seats(&self) -> Option<&Arc<Seats>> {
        match &self.way {
            Way::Whole(_) => None,
            Way::Reigns(seats) => Some(seats),
        }
    }

    pub(crate) fn partitions(&self) -> &Partitions {
        &self.partitions
    }

    /// Whether the store takes more. Under reigns that is asked for a partition.
    pub(crate) fn check(&self) -> Result<(), Busy> {
        self.whole().map_or(Ok(()), |keyspace| keyspace.check())
    }

    /// Whether the store takes more for a session.
    pub(crate) fn check_at(&self, inbox: InboxId) -> Result<(), Busy> {
        match &self.way {
            Way::Whole(keyspace) => keyspace.check(),
            Way::Reigns(seats) => seats.check(partition_number(inbox.0)),
        }
    }

    /// Tells a caller what became of what he waited for.
    pub(crate) fn tell(&self, reply_to: Option<ReplyTo>, is_done: bool) {
        self.partitions.follow(&Sequel { reply_to, ..Sequel::default() }, is_done);
    }

    /// Puts a command into the log. Called with the locks held of all whom it concerns.
    pub(crate) fn submit(&self, inbox: InboxId, effects: Effects, sequel: Sequel) {
        self.submit_to(None, inbox, effects, sequel);
    }

    /// The same, under a reign that is not the partition's any more, perhaps: then it comes to nothing.
    pub(crate) fn submit_to(
        &self,
        reign: Option<&ReignPipe>,
        inbox: InboxId,
        effects: Effects,
        sequel: Sequel,
    ) {
        let partitions = Arc::clone(&self.partitions);
        let done = move |fate: Fate| {
            let is_refused = matches!(&fate, Fate::Applied(answer) if &answer[..] == MALFORMED);
            debug_assert!(!is_refused, "the coprocessor reads what the service writes");
            // What was not carried out is promised to nobody.
            let is_done = !is_refused && matches!(fate, Fate::Applied(_));
            partitions.follow(&sequel, is_done);
        };
        let (key, bytes, done) = (Key::front(inbox), effects.bytes.into(), Box::new(done));
        match &self.way {
            Way::Whole(keyspace) => keyspace.submit(&key, bytes, done),
            Way::Reigns(seats) => {
                match reign.cloned().or_else(|| seats.assigned(partition_number(inbox.0))) {
                    Some(reign) => reign.submit(&key, bytes, done),
                    None => debug_assert!(false, "nothing is decided for a partition of others"),
                }
            }
        }
    }
}

/// What one call changes: for the log, and for those who are told when no lock is held any more.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Owners that have something to fetch.
    pub(crate) ready: SmallVec<[SessionRef; 8]>,
    /// What goes to transient members of groups.
    pub(crate) deliveries: Vec<(SessionRef, Delivery)>,
    /// Sessions whose routes are to be removed.
    pub(crate) ended: Vec<Ended>,
    /// Members of groups that are to look for what waits at others, if they wait themselves.
    pub(crate) nudges: Vec<InboxId>,
}

/// A command as it is written.
#[derive(Debug)]
pub(crate) struct Effects {
    bytes: Vec<u8>,
    epoch: Epoch,
}

impl Effects {
    pub(crate) fn new(epoch: Epoch) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.push(VERSION);
        Effects { bytes, epoch }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == 1
    }

    /// The bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn push(&mut self, effect: &Effect<'_>) {
        effect.encode(&mut self.bytes);
    }

    pub(crate) fn session(&mut self, inbox: InboxId, session: &SessionRecord) {
        let mut record = Vec::new();
        session.encode(&mut record);
        self.push(&Effect::Session { inbox, record: &record });
    }

    pub(crate) fn subscription(&mut self, inbox: InboxId, ordinal: u32, held: &Subscription) {
        let mut record = Vec::new();
        SubscriptionRecord::of(held).encode(&mut record);
        self.push(&Effect::Subscription { inbox, ordinal, record: &record });
    }

    /// Messages that left a queue for others.
    pub(crate) fn removed(&mut self, inbox: InboxId, transfers: &[Transfer], position: Position) {
        let sequences = transfers.iter().map(|transfer| transfer.sequence).collect();
        self.push(&Effect::Removed { inbox, sequences, position });
    }

    /// A message in the queues of `targets`, if there are any.
    pub(crate) fn append(&mut self, targets: Vec<Target<'_>>, message: &MessageRecord<'_>) {
        let Some(first) = targets.first() else { return };
        let mut bytes = Vec::with_capacity(64 + message.topic.len() + message.payload.len());
        message.encode(&mut bytes);
        if targets.len() > 1 {
            self.push(&Effect::Fan { targets, message: &bytes });
            return;
        }
        let mut record = Vec::with_capacity(16 + bytes.len());
        EntryRecord::Here { head: first.head, message: &bytes }.encode(&mut record);
        let (inbox, sequence) = (first.inbox, first.sequence);
        self.push(&Effect::Entry { inbox, sequence, record: &record });
    }

    /// A will, which is due then, or with its session or the node.
    pub(crate) fn will(&mut self, will: InboxId, order: &WillOrder<'_>) {
        let (mut bytes, message) = (Vec::new(), order.message.as_message());
        let mut record = MessageRecord::of(&message, self.epoch, false);
        if order.due.is_none() {
            let span = message.deadline.map(|deadline| deadline.since(message.accepted));
            let millis = |span: std::time::Duration| u64::try_from(span.as_millis());
            record.deadline_ms = span.map(|span| millis(span).unwrap_or(u64::MAX));
        }
        record.publisher = Some(message.publisher);
        record.encode(&mut bytes);
        let mut record = Vec::new();
        WillRecord {
            identity: order.identity.clone(),
            session: order.session,
            delay_s: order.delay_s,
            due: order.due,
            message: &bytes,
        }
        .encode(&mut record);
        self.push(&Effect::Will { will, record: &record });
    }
}

/// A will that is to be kept.
#[derive(Clone, Debug)]
pub(crate) struct WillOrder<'a> {
    pub(crate) identity: &'a SessionIdentity,
    /// The persistent session whose end makes it due.
    pub(crate) session: Option<InboxId>,
    pub(crate) delay_s: u32,
    pub(crate) due: Option<Timestamp>,
    pub(crate) message: &'a StoredMessage,
}

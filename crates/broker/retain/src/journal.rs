//! Where a service keeps its messages beyond the process.
//!
//! What is stored or cleared is submitted under the lock of the tenant that it belongs to, so the log has the
//! effects of a topic in the order in which memory has them, as far as they are this node's. Room is asked
//! for before anything is decided; from then on nothing refuses.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use ratatosk_client::{Fate, Keyspace};
use ratatosk_clock::Epoch;
use ratatosk_contract::{Message, ReplyTo, call::Settlement, sessions::Sessions};

use crate::{
    coprocessor::Answer,
    effect::Draft,
    over::Over,
    schema::{
        message::{Record, TENANT_BYTES_MAX, TopicHash, key},
        stamp::Stamp,
    },
};

/// How many topics one command removes at most: about 17 KB, or 25 with stamps.
const REMOVED_MAX: usize = 1_000;

/// See the module.
pub(crate) struct Journal {
    pub(crate) keyspace: Arc<dyn Keyspace>,
    pub(crate) sessions: Arc<dyn Sessions>,
    pub(crate) epoch: Epoch,
}

impl Journal {
    /// Whether more may be decided at the moment.
    pub(crate) fn has_room(&self) -> bool {
        self.keyspace.check().is_ok()
    }

    /// Whether the tenant's name fits into a key.
    pub(crate) fn takes(tenant: &str) -> bool {
        tenant.len() <= TENANT_BYTES_MAX
    }

    /// The entry of a message, or of its topic's clearing if the payload is empty; with the stamp of the
    /// change, if other nodes may change the topic as well. Copies the payload, so it is made before a lock
    /// is taken.
    pub(crate) fn entry(&self, tenant: &str, message: &Message<'_>, stamp: Option<Stamp>) -> Entry {
        let topic = TopicHash::of(message.topic);
        let draft = Draft::of(tenant);
        let draft = match (message.payload.is_empty(), stamp) {
            (true, None) => draft.removed(topic),
            (true, Some(stamp)) => draft.cleared(message.topic, stamp),
            (false, stamp) => draft.put(&Record {
                stamp,
                topic: message.topic,
                payload: message.payload,
                properties: message.properties,
                qos: message.qos,
                publisher: message.publisher,
                accepted: self.epoch.stamp(message.accepted),
                deadline: message.deadline.map(|deadline| self.epoch.stamp(deadline)),
            }),
        };
        Entry { topic, key: key(tenant, topic), command: draft.finish() }
    }

    /// Writes what was decided; `reply_to` is told once it is durable. A `removal` is counted there
    /// until it is.
    pub(crate) fn write(
        &self,
        entry: Entry,
        removal: Option<&Removals>,
        reply_to: Option<ReplyTo>,
    ) {
        let removal = removal.map(Removals::begin);
        self.submit(entry, reply_to, move |is_done| {
            if let Some(removals) = removal.filter(|_| is_done) {
                removals.end();
            }
        });
    }

    /// Puts a command into the log. Once it is known what became of it `concluded` hears whether it is
    /// done, and then `reply_to`.
    pub(crate) fn submit(
        &self,
        entry: Entry,
        reply_to: Option<ReplyTo>,
        concluded: impl FnOnce(bool) + Send + 'static,
    ) {
        let sessions = reply_to.map(|reply_to| (Arc::clone(&self.sessions), reply_to));
        let done = move |fate| {
            let settlement = match &fate {
                Fate::Applied(answer) if Answer::is_done(answer) => Settlement::Done,
                Fate::Refused => Settlement::Busy,
                Fate::Applied(_) | Fate::Unknown => Settlement::Unknown,
            };
            concluded(settlement == Settlement::Done);
            if let Some((sessions, ReplyTo { session, ticket })) = sessions {
                sessions.settle(session, ticket, settlement);
            }
        };
        self.keyspace.submit(&entry.key, entry.command, Box::new(done));
    }

    /// Writes that messages are over, for which nobody waits. Each command's `concluded` hears whether it is
    /// done.
    pub(crate) fn write_ended<F: FnOnce(bool) + Send + 'static>(
        &self,
        tenant: &str,
        over: &[Over],
        concluded: impl Fn() -> F,
    ) {
        for over in over.chunks(REMOVED_MAX) {
            let draft = Draft::of(tenant);
            let draft =
                over.iter().fold(draft, |draft, (topic, stamp)| draft.ended(*topic, *stamp));
            let topic = over[0].0;
            let entry = Entry { topic, key: key(tenant, topic), command: draft.finish() };
            self.submit(entry, None, concluded());
        }
    }

    /// Writes that topics have no message any more, for which nobody waits.
    pub(crate) fn write_removed(&self, tenant: &str, topics: &[TopicHash], removals: &Removals) {
        for topics in topics.chunks(REMOVED_MAX) {
            let draft = topics.iter().fold(Draft::of(tenant), |draft, topic| draft.removed(*topic));
            let topic = topics[0];
            let entry = Entry { topic, key: key(tenant, topic), command: draft.finish() };
            self.write(entry, Some(removals), None);
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Journal").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// A command that is ready to be written.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) topic: TopicHash,
    key: Vec<u8>,
    command: Bytes,
}

/// How many removals of a tenant are not durable yet. While there are any, a topic without a
/// message may have one again after a crash. One whose fate is unknown counts for ever.
#[derive(Clone, Debug, Default)]
pub(crate) struct Removals(Arc<AtomicUsize>);

impl Removals {
    fn begin(&self) -> Removals {
        self.0.fetch_add(1, Ordering::AcqRel);
        self.clone()
    }

    fn end(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether all are durable.
    pub(crate) fn are_over(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

//! What one message puts into queues of several ranges: a command for each, and one answer.
//!
//! Between ranges there is no order, and after a crash one command may be there and another not. So
//! whatever may only be known once the others are durable, which is that a message of QoS 2 was accepted,
//! goes when they are: a crash before has its publisher bring it again. What was begun before
//! ([`exchanges`](crate::exchanges)) is queued once then, for each partition notes in its command that it has it;
//! what was not is queued twice in some. Where all is of one range it is one command. DUR-010

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use ratatosk_client::ReignPipe;
use ratatosk_codec::PacketId;
use ratatosk_contract::{
    inbox::{Claim, InboxId},
    serving::{Once, Terms},
};
use smallvec::SmallVec;

use crate::{
    InboxService,
    handover::{Parcel, accept_in},
    journal::{Effects, Journal},
    partitions::{Locks, PartitionSet, Sequel, partition_number},
    repair::LeftRoutes,
    routing::Both,
    seats::Seats,
};

/// Commands that one caller waits for.
pub(crate) struct Joint {
    left: AtomicUsize,
    has_failed: AtomicBool,
    finish: Mutex<Option<Finish>>,
}

/// Told whether all was done.
type Finish = Box<dyn FnOnce(bool) + Send>;

/// What one range gets of a message.
struct Part {
    reign: ReignPipe,
    /// Where it is.
    at: InboxId,
    /// Its partitions that were asked.
    asked: PartitionSet,
    effects: Effects,
    entries: SmallVec<[(InboxId, u64); 2]>,
}

impl Joint {
    fn new(count: usize, finish: Finish) -> Arc<Self> {
        let (left, has_failed) = (AtomicUsize::new(count), AtomicBool::new(false));
        Arc::new(Joint { left, has_failed, finish: Mutex::new(Some(finish)) })
    }

    /// One of them was carried out, or may be lost.
    pub(crate) fn add(&self, is_done: bool) {
        self.has_failed.fetch_or(!is_done, Ordering::AcqRel);
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(finish) = self.finish.lock().take()
        {
            finish(!self.has_failed.load(Ordering::Acquire));
        }
    }
}

impl InboxService {
    /// Removes routes once what they followed from is durably gone: under reigns, where whoever decides may
    /// not know that he leads no longer. `None` if they are to be removed at once.
    pub(crate) fn remove_later(
        &self,
        left: impl Iterator<Item = LeftRoutes>,
        both: Option<Arc<Both>>,
    ) -> Option<Arc<Joint>> {
        self.seats()?;
        let left: Vec<_> = left.collect();
        if left.is_empty() {
            return None;
        }
        let (dist, routing) = (Arc::clone(&self.dist), Arc::clone(&self.routing));
        let partitions = Arc::clone(&self.partitions);
        let remove = move |is_done: bool| {
            for mut left in left.into_iter().filter(|_| is_done) {
                // Whoever subscribed again meanwhile has asked for his route already.
                let partition = partitions.lock_of(left.inbox());
                if let Some(session) = partition.sessions.get(&left.inbox()) {
                    left.spare(session);
                }
                left.remove(&*dist, &routing, both.clone());
            }
            if let Some(both) = both.filter(|_| !is_done) {
                both.add(false);
            }
        };
        Some(Joint::new(1, Box::new(remove)))
    }

    /// As [`post`](Self::post), where partitions are of several ranges. A message is stored once in each
    /// partition, so that a range can be parted between any two.
    ///
    /// Each partition that was asked gets a command, also if nothing is queued there: that a session is
    /// gone, or its queue is full, or that it has the message already, is known only by whoever leads, which
    /// the command proves.
    pub(crate) fn post_apart(
        &self,
        (journal, seats): (&Journal, &Seats),
        locks: &mut Locks<'_>,
        (parcel, asked): (&Parcel<'_>, PartitionSet),
        terms: Terms,
    ) -> bool {
        let mut parts = cut(journal, seats, parcel, asked);
        if let Some(once) = &terms.once {
            self.note_parts(locks, &mut parts, once, parcel);
        }
        let Terms { exchange, reply_to, .. } = terms;
        let at = exchange.map(|(claim, _)| partition_number(claim.inbox.0));
        let accepting = at.and_then(|number| seats.serving(number));
        let is_one = |parts: &[Part]| match (parts, &accepting) {
            ([], _) => true,
            ([part], Some(reign)) => part.reign.is(reign),
            ([_], None) => exchange.is_none(),
            _ => false,
        };
        if !is_one(&parts) {
            post_parts(journal, parts, terms);
            return true;
        }
        let part = parts.pop().map(|Part { at, effects, entries, .. }| (at, effects, entries));
        let claimed = exchange.map(|(claim, _)| claim.inbox);
        let alone = || Some((claimed?, Effects::new(journal.epoch), SmallVec::new()));
        let Some((at, mut effects, entries)) = part.or_else(alone) else { return false };
        accept_in(locks, terms, &mut effects);
        journal.submit(at, effects, Sequel { entries, reply_to, ..Sequel::default() });
        true
    }

    /// Notes in its command that each partition that was asked has a message that may come again.
    fn note_parts(
        &self,
        locks: &mut Locks<'_>,
        parts: &mut [Part],
        once: &Once,
        parcel: &Parcel<'_>,
    ) {
        let since_ms = self.epoch().stamp(parcel.message().accepted).as_millis();
        for part in parts {
            for number in part.asked.numbers() {
                if !locks.at(number).notes.has(once) {
                    self.note_once(locks, number, (once, since_ms), &mut part.effects);
                }
            }
        }
    }
}

fn post_parts(journal: &Journal, parts: Vec<Part>, terms: Terms) {
    let its = journal.clone();
    let finish = Box::new(move |is_done| match terms.exchange {
        Some(exchange) => accept(&its, exchange, is_done, &terms),
        None => its.tell(terms.reply_to, is_done),
    });
    let joint = Joint::new(parts.len(), finish);
    for Part { at, effects, entries, .. } in parts {
        let joint = Some(Arc::clone(&joint));
        journal.submit(at, effects, Sequel { entries, joint, ..Sequel::default() });
    }
}

/// What each range gets. The locks of all are held.
fn cut(journal: &Journal, seats: &Seats, parcel: &Parcel<'_>, asked: PartitionSet) -> Vec<Part> {
    let mut set = asked;
    parcel.inboxes().for_each(|inbox| set.insert(partition_number(inbox.0)));
    let mut parts: Vec<Part> = Vec::new();
    for number in set.numbers() {
        let Some(reign) = seats.serving(number) else {
            debug_assert!(false, "partition {number} is served: it was looked at");
            continue;
        };
        let at = parts.iter().position(|part| part.reign.is(&reign)).unwrap_or_else(|| {
            let (effects, entries) = (Effects::new(journal.epoch), SmallVec::new());
            let (at, asked) = (InboxId(number as u64), PartitionSet::default());
            parts.push(Part { reign, at, asked, effects, entries });
            parts.len() - 1
        });
        let part = &mut parts[at];
        if asked.has(number) {
            part.asked.insert(number);
        }
        let is_its = |inbox: InboxId| partition_number(inbox.0) == number;
        part.entries.extend(parcel.write_those(&mut part.effects, is_its));
    }
    parts
}

/// The message of a publisher is in all queues, durably, or perhaps not in all: then it is not accepted.
fn accept(journal: &Journal, (claim, packet_id): (Claim, PacketId), is_done: bool, terms: &Terms) {
    let (inbox, reply_to) = (claim.inbox, terms.reply_to);
    let mut partition = journal.partitions().lock_of(inbox);
    let session = partition.claimed(claim).ok().filter(|_| is_done);
    let session = session.filter(|session| session.may_accept(packet_id, terms.once));
    let Some(session) = session else {
        drop(partition);
        return journal.tell(reply_to, false);
    };
    let was_begun = session.accept(packet_id);
    let mut effects = Effects::new(journal.epoch);
    effects.accepted(inbox, packet_id, was_begun);
    journal.submit(inbox, effects, Sequel { reply_to, ..Sequel::default() });
}

impl std::fmt::Debug for Joint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Joint").field("left", &self.left).finish_non_exhaustive()
    }
}

//! The sessions of one partition that are connected to this host, wherever they are served.
//!
//! A session has a small buffer here, which its inbox fills by credit. What was handed to the client and is
//! not confirmed is known, so that an inbox that takes the session over learns what the one before may not
//! have heard. `open ≤ handed`; what is in the buffer lies behind what was handed, or waits to be handed
//! again.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use ratatosk_codec::Qos;
use ratatosk_contract::SessionRef;
use ratatosk_contract::inbox::{Claim, Entry, FetchBudget, InboxId, Sequence, Subscription};

use crate::ask::{CallId, Credit, Open};
use crate::lane::Question;
use crate::serve::used;

/// Messages that the buffer of a session may have.
const BUFFER_MESSAGES: u32 = 64;
/// Bytes of them, about.
const BUFFER_BYTES: u32 = 64 << 10;
/// All that a session may be handed at the beginning.
pub(crate) const WHOLE: Credit = Credit { messages: BUFFER_MESSAGES, bytes: BUFFER_BYTES };
/// Changes of the sessions of a partition that wait while nobody serves it.
pub(crate) const HELD_MAX: usize = 65_536;

/// See the module.
#[derive(Default)]
pub(crate) struct Partition {
    pub(crate) sessions: HashMap<InboxId, Session>,
    /// Changes that wait until somebody serves the partition, in their order.
    pub(crate) held: Vec<Question>,
}

/// A session of this host.
pub(crate) struct Session {
    pub(crate) claim: Claim,
    pub(crate) owner: SessionRef,
    /// Another owner has it.
    pub(crate) is_stale: bool,
    /// The filters that it has.
    pub(crate) filters: HashSet<Box<str>>,
    pub(crate) filters_max: u32,
    /// What comes before the answer to this question was said before it was asked, and comes again.
    pub(crate) resuming: Option<CallId>,
    buffer: VecDeque<Entry>,
    /// It found nothing, and is to be told when there is something.
    is_hungry: bool,
    /// What it took of the credit and was not given again.
    taken: Credit,
    handed: Sequence,
    /// What was handed and is not confirmed, and whether its PUBREC came.
    open: BTreeMap<Sequence, bool>,
}

impl Partition {
    /// The session of a claim, if it is still its owner's.
    pub(crate) fn claimed(&mut self, claim: Claim) -> Option<&mut Session> {
        let session = self.sessions.get_mut(&claim.inbox)?;
        (session.claim == claim && !session.is_stale).then_some(session)
    }
}

impl Session {
    pub(crate) fn new(
        claim: Claim,
        owner: SessionRef,
        subscriptions: &[Subscription],
        filters_max: u32,
    ) -> Self {
        Session {
            claim,
            owner,
            is_stale: false,
            filters: subscriptions.iter().map(|held| held.filter.clone()).collect(),
            filters_max,
            resuming: None,
            buffer: VecDeque::new(),
            is_hungry: false,
            taken: Credit::default(),
            handed: Sequence(0),
            open: BTreeMap::new(),
        }
    }

    /// Puts into the buffer what came; true if the session waits for it.
    pub(crate) fn fill(&mut self, entries: Vec<Entry>) -> bool {
        self.buffer.extend(entries);
        !self.buffer.is_empty() && std::mem::take(&mut self.is_hungry)
    }

    /// Hands out what follows `after`; answers what credit may be given again.
    pub(crate) fn fetch(
        &mut self,
        after: Sequence,
        budget: &FetchBudget,
        entries: &mut Vec<Entry>,
    ) -> Option<Credit> {
        // What is up to there was taken. QoS 0 goes when it is handed out.
        let is_over = |entry: &Entry| entry.qos != Qos::AtMostOnce && entry.sequence <= after;
        while let Some(entry) = self.buffer.pop_front_if(|entry| is_over(entry)) {
            self.take(&entry);
        }
        let (first, mut bytes) = (entries.len(), 0);
        let mut kept = VecDeque::new();
        while let Some(entry) = self.buffer.pop_front() {
            let is_full = entries.len() - first >= budget.messages_max || bytes >= budget.bytes_max;
            if is_full {
                self.buffer.push_front(entry);
                break;
            }
            bytes += entry.message.size_bytes();
            if entry.qos == Qos::AtMostOnce {
                self.take(&entry);
                entries.push(entry);
            } else {
                entries.push(entry.clone());
                kept.push_back(entry);
            }
        }
        kept.append(&mut self.buffer);
        self.buffer = kept;
        self.note_handed(&entries[first..]);
        self.is_hungry = entries.len() == first;
        self.credit()
    }

    /// Notes what was handed to the client.
    pub(crate) fn note_handed(&mut self, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.qos != Qos::AtMostOnce) {
            self.handed = self.handed.max(entry.sequence);
            // It may have been handed before, while there was no room for it.
            *self.open.entry(entry.sequence).or_default() |= entry.is_received;
        }
    }

    /// The client confirmed a message.
    pub(crate) fn commit(&mut self, sequence: Sequence) {
        self.open.remove(&sequence);
    }

    /// The client's PUBREC came.
    pub(crate) fn receive(&mut self, sequence: Sequence) {
        if let Some(is_received) = self.open.get_mut(&sequence) {
            *is_received = true;
        }
    }

    /// Another inbox takes it over: what it is to be told, after which it hands out everything that was not
    /// handed to the client, by a whole credit.
    pub(crate) fn restart(&mut self) -> (Sequence, Vec<Open>) {
        // What was handed may have been given back for want of room.
        let handed = self.handed;
        self.buffer.retain(|entry| entry.qos == Qos::AtMostOnce || entry.sequence <= handed);
        self.taken = Credit::default();
        self.resuming = None;
        let open = self.open.iter();
        let open =
            open.map(|(sequence, received)| Open { sequence: *sequence, is_received: *received });
        (self.handed, open.collect())
    }

    /// Whether it is to be told that there may be more.
    pub(crate) fn wake(&mut self) -> bool {
        std::mem::take(&mut self.is_hungry)
    }

    fn take(&mut self, entry: &Entry) {
        let used = used(std::slice::from_ref(entry));
        self.taken.messages = self.taken.messages.saturating_add(used.messages);
        self.taken.bytes = self.taken.bytes.saturating_add(used.bytes);
    }

    /// What credit is given again, once it is worth a word.
    fn credit(&mut self) -> Option<Credit> {
        let is_much = self.taken.messages >= BUFFER_MESSAGES / 2
            || self.taken.bytes >= BUFFER_BYTES / 2
            || self.buffer.is_empty() && self.taken.messages > 0;
        is_much.then(|| std::mem::take(&mut self.taken))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ratatosk_clock::Instant;
    use ratatosk_contract::{Message, PublisherId, ShardId};

    use super::*;

    fn entry(sequence: u64, qos: Qos) -> Entry {
        let message = Message {
            topic: "a",
            payload: b"x",
            shared: None,
            properties: &[],
            qos,
            retain: false,
            publisher: PublisherId(1),
            accepted: Instant::ZERO,
            deadline: None,
        };
        Entry {
            sequence: Sequence(sequence),
            qos,
            retain: false,
            is_received: false,
            subscription_id: None,
            message: Arc::new(message.to_stored()),
        }
    }

    fn session() -> Session {
        let owner = SessionRef { shard: ShardId(0), slot: 0, generation: 0 };
        Session::new(Claim { inbox: InboxId(1), version: 1 }, owner, &[], 10)
    }

    fn fetch(session: &mut Session, after: u64, max: usize) -> (Vec<u64>, Option<u32>) {
        let mut entries = Vec::new();
        let budget = FetchBudget { now: Instant::ZERO, messages_max: max, bytes_max: usize::MAX };
        let credit = session.fetch(Sequence(after), &budget, &mut entries);
        let places = entries.iter().map(|entry| entry.sequence.0).collect();
        (places, credit.map(|credit| credit.messages))
    }

    /// INBOX-006: what was handed out is there until the client had room for it, and credit is given again
    /// for what it took.
    #[test]
    fn a_buffer_gives_back_what_was_taken_of_it() {
        let mut session = session();
        assert_eq!(fetch(&mut session, 0, 10), (vec![], None));
        let (one, zero) = (Qos::AtLeastOnce, Qos::AtMostOnce);
        let entries = vec![entry(1, one), entry(1, zero), entry(2, one), entry(3, one)];
        assert!(session.fill(entries), "it waits for it");
        assert_eq!(fetch(&mut session, 0, 3), (vec![1, 1, 2], None));
        // It had room for the first only; what was of QoS 0 is not handed out again.
        assert_eq!(fetch(&mut session, 1, 10), (vec![2, 3], None));
        assert_eq!(fetch(&mut session, 3, 10), (vec![], Some(4)), "all that it took");
        assert!(!session.fill(vec![]) && session.fill(vec![entry(4, one)]));
        assert!(!session.fill(vec![entry(5, one)]), "it knows");
    }

    /// INBOX-007: whoever takes a session over is told what its client has not confirmed.
    #[test]
    fn a_session_that_moves_knows_what_is_open() {
        let mut session = session();
        session.fill((1..=5).map(|number| entry(number, Qos::ExactlyOnce)).collect());
        assert_eq!(fetch(&mut session, 0, 4).0, [1, 2, 3, 4]);
        session.commit(Sequence(2));
        session.receive(Sequence(3));
        session.receive(Sequence(9));
        let (handed, open) = session.restart();
        assert_eq!(handed, Sequence(4));
        let open: Vec<(u64, bool)> =
            open.iter().map(|open| (open.sequence.0, open.is_received)).collect();
        assert_eq!(open, [(1, false), (3, true), (4, false)]);
        // What was handed may have been given back; what was not comes again.
        assert_eq!(fetch(&mut session, 3, 10).0, [4]);
    }
}

//! A stream of another host, as the inbox that it asks has it: what waits to be told, and which answers
//! are not durable yet.

use std::collections::HashMap;

use parking_lot::Mutex;
use ratatosk_clock::Instant;
use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::WillId;
use ratatosk_contract::serving::Begun;
use ratatosk_contract::{ReplyTo, SessionRef, ShardId, Ticket};
use ratatosk_rpc::HostId;
use ratatosk_telemetry::memory::Account;
use tokio::sync::Notify;

use crate::ask::CallId;
use crate::outbox::Outbox;
use crate::tell::{Outcome, Said, Taken, Tell};
use crate::turn::{Closed, Turn};

/// The shard number of streams, as those who are told when something is durable. No data plane has it.
pub(crate) const LINK_SHARD: ShardId = ShardId(u8::MAX - 1);

/// Bytes that may wait for a host before QoS 0 for its sessions is dropped.
const TOLD_BYTES_MAX: usize = 16 << 20;

/// See the module.
pub(crate) struct Link {
    pub(crate) host: HostId,
    number: u32,
    /// When it was opened.
    pub(crate) since: Instant,
    told: Outbox,
    answers: Mutex<HashMap<u64, Half>>,
    /// Sessions whose inbox has more.
    ready: Mutex<Vec<u32>>,
    stirred: Notify,
    /// Partitions for which messages are refused: one for them was refused or is in doubt, and nothing overtakes
    /// it.
    closed: Closed,
}

/// What is known of an answer that waits for the other half.
enum Half {
    /// The answer, once it is durable.
    Owed(Owed),
    /// It is durable, or nobody knows.
    Settled(Settlement),
}

/// An answer.
pub(crate) enum Owed {
    Nothing,
    /// Of a message for sessions of these partitions, in its turn.
    Appended(u64, Turn),
    Attached(Box<Taken>),
    Discarded(bool),
    Subscribed(Outcome),
    Will(WillId),
    Begun(Begun),
}

impl Owed {
    fn told(self, call: CallId, settlement: Settlement) -> Tell {
        let is_done = settlement == Settlement::Done;
        match self {
            Owed::Nothing | Owed::Appended(..) => Tell::Settled { call, settlement },
            Owed::Attached(taken) => {
                Tell::Attached { call, attached: Some(taken).filter(|_| is_done) }
            }
            Owed::Discarded(existed) => {
                Tell::Discarded { call, existed: Some(existed).filter(|_| is_done) }
            }
            Owed::Subscribed(outcome) if is_done => Tell::Subscribed { call, outcome },
            // It may be asked again.
            Owed::Subscribed(_) => Tell::Settled { call, settlement },
            Owed::Will(will) if is_done => Tell::WillKept { call, will },
            Owed::Begun(Begun { once, choices, others }) if is_done => {
                let said = Said { numbers: (once.number, once.low), choices, others };
                Tell::Begun { call, said: Box::new(said) }
            }
            // It may be begun again.
            Owed::Begun(_) => Tell::NotServed { call, is_to_begin: false },
            Owed::Will(_) => Tell::Settled { call, settlement },
        }
    }
}

impl Link {
    pub(crate) fn new(host: HostId, number: u32, since: Instant, account: &Account) -> Self {
        Self {
            host,
            number,
            since,
            told: Outbox::new(account),
            answers: Mutex::default(),
            ready: Mutex::default(),
            stirred: Notify::new(),
            closed: Closed::default(),
        }
    }

    /// What names it among the streams of all hosts.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Who is told when the answer to a question is durable; nobody if nobody asks.
    pub(crate) fn reply_to(&self, call: CallId) -> Option<ReplyTo> {
        let session = SessionRef { shard: LINK_SHARD, slot: self.number, generation: 0 };
        (call != CallId(0)).then_some(ReplyTo { session, ticket: Ticket(call.0) })
    }

    /// Whether a message for these partitions is refused, since one before it was and comes again.
    pub(crate) fn refuses(&self, set: u64, turn: Turn) -> bool {
        self.closed.refuses(set, turn)
    }

    /// Refuses what is behind a message for these partitions from now on.
    pub(crate) fn close(&self, set: u64, turn: Turn) {
        self.closed.close(set, turn);
    }

    fn say(&self, owed: Owed, call: CallId, settlement: Settlement, now: Instant) {
        if let (Owed::Appended(set, turn), Settlement::Unknown) = (&owed, settlement) {
            self.close(*set, *turn);
        }
        self.tell(&owed.told(call, settlement), now);
    }

    /// Says something.
    pub(crate) fn tell(&self, tell: &Tell, now: Instant) {
        self.told.put(|into| tell.put(into, now));
    }

    /// Whether there is room for what may be dropped.
    pub(crate) fn has_room(&self) -> bool {
        self.told.bytes() <= TOLD_BYTES_MAX
    }

    /// What is to be said next. Cancel-safe.
    pub(crate) async fn next(&self) -> bytes::Bytes {
        self.told.next().await
    }

    /// Answers a question, once the answer is durable.
    pub(crate) fn answer(&self, call: CallId, owed: Owed, is_durable: bool, now: Instant) {
        if call == CallId(0) {
            return;
        }
        if is_durable {
            self.say(owed, call, Settlement::Done, now);
            return;
        }
        let mut answers = self.answers.lock();
        // It may have become durable before it was known here.
        match answers.remove(&call.0) {
            Some(Half::Settled(settlement)) => {
                drop(answers);
                self.say(owed, call, settlement, now);
            }
            _ => {
                answers.insert(call.0, Half::Owed(owed));
            }
        }
    }

    /// An answer is durable, or nobody knows.
    pub(crate) fn settle(&self, ticket: Ticket, settlement: Settlement, now: Instant) {
        let mut answers = self.answers.lock();
        match answers.remove(&ticket.0) {
            Some(Half::Owed(owed)) => {
                drop(answers);
                self.say(owed, CallId(ticket.0), settlement, now);
            }
            _ => {
                answers.insert(ticket.0, Half::Settled(settlement));
            }
        }
    }

    /// The inbox of a session has more.
    pub(crate) fn stir(&self, slot: u32) {
        self.ready.lock().push(slot);
        self.stirred.notify_one();
    }

    /// The sessions whose inboxes have more. Waits until there is one. Cancel-safe.
    pub(crate) async fn stirred(&self) -> Vec<u32> {
        loop {
            let stirred = self.stirred.notified();
            let ready = std::mem::take(&mut *self.ready.lock());
            if !ready.is_empty() {
                return ready;
            }
            stirred.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_millis(1);

    fn told(link: &Link) -> Vec<Tell> {
        let mut all = Vec::new();
        while let Some(batch) = link.told.take_now() {
            all.extend(crate::tell::take_all(&batch, NOW).unwrap());
        }
        all
    }

    /// DUR-009: whichever half of an answer comes first, it is said once, when both are there.
    #[test]
    fn an_answer_is_said_when_it_is_known_and_durable() {
        let memory = ratatosk_telemetry::memory::Accountant::default();
        let link = Link::new(HostId(1), 3, NOW, &memory.account(""));
        assert_eq!(link.reply_to(CallId(0)), None);
        link.answer(CallId(1), Owed::Discarded(true), false, NOW);
        assert!(told(&link).is_empty());
        link.settle(Ticket(1), Settlement::Done, NOW);
        assert!(matches!(
            told(&link)[..],
            [Tell::Discarded { call: CallId(1), existed: Some(true) }]
        ));
        link.settle(Ticket(2), Settlement::Unknown, NOW);
        assert!(told(&link).is_empty());
        link.answer(CallId(2), Owed::Discarded(true), false, NOW);
        assert!(matches!(told(&link)[..], [Tell::Discarded { call: CallId(2), existed: None }]));
        link.answer(CallId(3), Owed::Nothing, true, NOW);
        assert!(matches!(told(&link)[..], [Tell::Settled { settlement: Settlement::Done, .. }]));
        assert!(link.answers.lock().is_empty());
    }

    /// MQTT-054: behind a message that is in doubt none for the same partitions is taken until it comes again.
    #[test]
    fn behind_what_is_in_doubt_nothing_is_taken_until_it_comes_again() {
        let memory = ratatosk_telemetry::memory::Accountant::default();
        let link = Link::new(HostId(1), 3, NOW, &memory.account(""));
        let turn = |number| Turn { number, first: None };
        link.answer(CallId(1), Owed::Appended(0b100, turn(1)), false, NOW);
        link.settle(Ticket(1), Settlement::Unknown, NOW);
        assert!(link.refuses(0b100, turn(2)), "what became of the one before is not known");
        link.answer(CallId(2), Owed::Appended(0b1000, turn(3)), false, NOW);
        link.settle(Ticket(2), Settlement::Done, NOW);
        assert!(!link.refuses(0b1000, turn(4)));
        assert!(!link.refuses(0b100, Turn { first: Some(1), ..turn(1) }));
        assert!(!link.refuses(0b100, turn(5)));
    }
}

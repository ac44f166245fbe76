//! Behaviour of the queue at its limits, and of the service against a naive model.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use ratatosk_clock::Instant;
use ratatosk_codec::Qos;
use ratatosk_contract::{
    Message,
    inbox::{Claim, Entry, FetchBudget, Inbox, QueueLimits, Sequence},
};

use crate::{
    fake::{BUDGET, Bench, bench, message, payloads, seconds},
    queue::{FetchEnd, Item, Queue},
};

const LIMITS: QueueLimits = QueueLimits {
    messages_max: 70_000,
    filters_max: 0,
    members_max: 0,
    qos0_drop_oldest: false,
    qos0_when_offline: true,
};

fn item(payload: &str, qos: Qos, deadline: Option<Instant>) -> Item {
    let message = Arc::new(Message { deadline, ..message(payload, qos) }.to_stored());
    Item { message, qos, retain: false, subscription_id: None, origin: None }
}

/// Packet identifiers follow from sequences: no two messages in flight may have the same.
#[test]
fn a_message_is_held_back_while_its_packet_identifier_is_in_flight() {
    let mut queue = Queue::default();
    let shared = item("x", Qos::AtLeastOnce, None);
    for _ in 0..65_537 {
        assert!(queue.push(shared.clone(), &LIMITS).is_queued);
    }
    let mut entries = Vec::new();
    assert_eq!(queue.fetch(Sequence(0), &BUDGET, &mut entries).end, FetchEnd::Window);
    assert_eq!(entries.len(), 65_535);
    for sequence in 2..=65_535 {
        assert!(queue.commit(Sequence(sequence)));
    }
    entries.clear();
    assert_eq!(queue.fetch(Sequence(65_535), &BUDGET, &mut entries).end, FetchEnd::Window);
    assert!(entries.is_empty(), "the first is still in flight");
    assert!(queue.commit(Sequence(1)));
    assert_eq!(queue.fetch(Sequence(65_535), &BUDGET, &mut entries).end, FetchEnd::Empty);
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].sequence.packet_id(), Sequence(1).packet_id());
    queue.check_invariants();
}

#[test]
fn the_owner_is_told_when_a_packet_identifier_is_free_again() {
    let mut bench = bench();
    bench.limits.messages_max = 70_000;
    let claim = bench.attach("c", Instant::ZERO).claim;
    bench.subscribe(claim, "a", Qos::AtLeastOnce);
    for _ in 0..65_536 {
        bench.append("x", Qos::AtLeastOnce);
    }
    assert_eq!(bench.fetch_all(claim).len(), 65_535);
    bench.inbox.commit(claim, Sequence(2)).unwrap();
    bench.append("x", Qos::AtLeastOnce);
    assert!(bench.sessions.take_ready().is_empty());
    bench.inbox.commit(claim, Sequence(1)).unwrap();
    assert_eq!(bench.sessions.take_ready().len(), 1);
    assert_eq!(bench.fetch(claim, Sequence(65_535), BUDGET).len(), 2);
}

/// [MQTT-3.3.2-5] what was sent before its deadline is sent again after it.
#[test]
fn expired_messages_are_not_handed_out_unless_they_were_before() {
    let mut queue = Queue::default();
    let deadline = Some(seconds(5));
    for (payload, qos) in
        [("sent", Qos::ExactlyOnce), ("unsent", Qos::AtLeastOnce), ("unsent-0", Qos::AtMostOnce)]
    {
        queue.push(item(payload, qos, deadline), &LIMITS);
    }
    queue.push(item("ever", Qos::AtLeastOnce, None), &LIMITS);
    let mut entries = Vec::new();
    queue.fetch(Sequence(0), &FetchBudget { messages_max: 1, ..BUDGET }, &mut entries);
    assert_eq!(payloads(&entries), ["sent"]);
    entries.clear();
    let later = FetchBudget { now: seconds(5), ..BUDGET };
    let fetched = queue.fetch(Sequence(0), &later, &mut entries);
    assert_eq!(payloads(&entries), ["sent", "ever"]);
    assert_eq!((fetched.expired, queue.len(), queue.qos0_len()), (2, 2, 0));
    queue.check_invariants();
}

#[test]
fn expired_messages_make_room_in_a_full_queue() {
    let mut queue = Queue::default();
    let limits = QueueLimits { messages_max: 3, ..LIMITS };
    queue.push(item("1", Qos::AtLeastOnce, Some(seconds(5))), &limits);
    queue.push(item("2", Qos::AtLeastOnce, None), &limits);
    queue.push(item("3", Qos::AtLeastOnce, Some(seconds(9))), &limits);
    assert!(queue.push(item("4", Qos::AtLeastOnce, None), &limits).is_overflow);
    let mut late = item("5", Qos::AtLeastOnce, None);
    Arc::get_mut(&mut late.message).unwrap().accepted = seconds(5);
    let displaced = queue.push(late, &limits);
    assert!(displaced.is_queued && !displaced.is_overflow);
    assert_eq!(displaced.expired, 1);
    let mut entries = Vec::new();
    queue.fetch(Sequence(0), &BUDGET, &mut entries);
    assert_eq!(payloads(&entries), ["2", "3", "5"]);
    queue.check_invariants();
}

#[derive(Clone, Debug)]
enum Step {
    Append(u8, Option<u8>),
    Fetch(usize),
    Commit(prop::sample::Index),
    Receive(prop::sample::Index),
    Detach,
    Attach,
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..3_u8, prop::option::weighted(0.3, 1..20_u8)).prop_map(|(q, d)| Step::Append(q, d)),
        3 => (1..6_usize).prop_map(Step::Fetch),
        4 => any::<prop::sample::Index>().prop_map(Step::Commit),
        1 => any::<prop::sample::Index>().prop_map(Step::Receive),
        1 => Just(Step::Detach),
        1 => Just(Step::Attach),
        1 => (1..5_u8).prop_map(Step::Wait),
    ]
}

/// A message as the model has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// As the entry must have it; for QoS 0 that of the one before.
    sequence: u64,
    payload: String,
    qos: Qos,
    deadline: Option<Instant>,
    is_received: bool,
}

/// One session as plain lists: everything is a search from the front.
struct Model {
    is_small: bool,
    drop_oldest: bool,
    next: u64,
    sent: u64,
    known: Vec<Known>,
    qos0: Vec<Known>,
}

impl Model {
    const SMALL: usize = 4;

    fn append(&mut self, known: Known) {
        let is_qos0 = known.qos == Qos::AtMostOnce;
        let list = if is_qos0 { &mut self.qos0 } else { &mut self.known };
        if self.is_small && list.len() == Self::SMALL {
            if !(is_qos0 && self.drop_oldest) {
                return;
            }
            list.remove(0);
        }
        list.push(Known { sequence: if is_qos0 { self.next - 1 } else { self.next }, ..known });
        self.next += u64::from(!is_qos0);
    }

    fn fetch(&mut self, now: Instant, after: u64, max: usize) -> Vec<Known> {
        let is_over = |known: &Known| known.deadline.is_some_and(|deadline| deadline <= now);
        let mut told = Vec::new();
        let mut all: Vec<Known> = [&self.known[..], &self.qos0[..]].concat();
        all.retain(|known| known.qos == Qos::AtMostOnce || known.sequence > after);
        // QoS 0 stands behind the sequence that it has, but before all that are later than both.
        all.sort_by_key(|known| {
            let is_qos0 = known.qos == Qos::AtMostOnce;
            (if is_qos0 { known.sequence.max(after) } else { known.sequence }, is_qos0)
        });
        for known in all {
            let is_qos0 = known.qos == Qos::AtMostOnce;
            let list = if is_qos0 { &mut self.qos0 } else { &mut self.known };
            if is_over(&known) && (is_qos0 || known.sequence > self.sent) {
                // The service drops what it meets on the way, also behind the last of the budget.
                list.retain(|held| held.payload != known.payload);
                continue;
            }
            if told.len() == max {
                break;
            }
            if is_qos0 {
                list.retain(|held| held.payload != known.payload);
            } else {
                self.sent = self.sent.max(known.sequence);
            }
            told.push(known);
        }
        told
    }
}

fn known(entry: &Entry) -> Known {
    Known {
        sequence: entry.sequence.0,
        payload: String::from_utf8(entry.message.payload.to_vec()).unwrap(),
        qos: entry.qos,
        deadline: entry.message.deadline,
        is_received: entry.is_received,
    }
}

/// The service, with one session that is attached or not, beside the model.
struct Pair {
    bench: Bench,
    model: Model,
    claim: Option<Claim>,
    cursor: u64,
    now: Instant,
    count: usize,
}

impl Pair {
    fn new(is_small: bool, drop_oldest: bool) -> Self {
        let mut bench = bench();
        bench.limits = QueueLimits {
            messages_max: if is_small { u32::try_from(Model::SMALL).unwrap() } else { 1_000 },
            qos0_drop_oldest: drop_oldest,
            ..bench.limits
        };
        let claim = bench.attach_as("c", Instant::ZERO, false, None).claim;
        bench.subscribe(claim, "a", Qos::ExactlyOnce);
        let (known, qos0) = (Vec::new(), Vec::new());
        let model = Model { is_small, drop_oldest, next: 1, sent: 0, known, qos0 };
        Pair { bench, model, claim: Some(claim), cursor: 0, now: Instant::ZERO, count: 0 }
    }

    fn append(&mut self, qos: u8, lifetime_s: Option<u8>) {
        self.count += 1;
        let payload = self.count.to_string();
        let lifetime_s = lifetime_s.filter(|_| !self.model.is_small);
        let deadline = lifetime_s.map(|time_s| self.now + Duration::from_secs(time_s.into()));
        let qos = Qos::try_from(qos).unwrap();
        let appended = Message { deadline, accepted: self.now, ..message(&payload, qos) };
        let direct = self.bench.append_message(&appended);
        let is_direct =
            qos == Qos::AtMostOnce && self.claim.is_some() && self.model.qos0.is_empty();
        assert_eq!(direct.len(), usize::from(is_direct));
        if !is_direct {
            let known = Known { sequence: 0, payload, qos, deadline, is_received: false };
            self.model.append(known);
        }
    }

    fn fetch(&mut self, max: usize) {
        let Some(claim) = self.claim else { return };
        let budget = FetchBudget { now: self.now, messages_max: max, ..BUDGET };
        let entries = self.bench.fetch(claim, Sequence(self.cursor), budget);
        let told: Vec<_> = entries.iter().map(known).collect();
        assert_eq!(told, self.model.fetch(self.now, self.cursor, max));
        self.cursor = told.iter().map(|known| known.sequence).fold(self.cursor, u64::max);
    }

    /// A sequence that was sent and is not confirmed.
    fn outstanding(&self, index: prop::sample::Index) -> Option<(Claim, usize)> {
        let sent = self.model.known.iter().filter(|known| known.sequence <= self.cursor).count();
        Some((self.claim?, (sent > 0).then(|| index.index(sent))?))
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Append(qos, lifetime_s) => self.append(qos, lifetime_s),
            Step::Fetch(max) => self.fetch(max),
            Step::Commit(index) => {
                let Some((claim, at)) = self.outstanding(index) else { return };
                let known = self.model.known.remove(at);
                self.bench.inbox.commit(claim, Sequence(known.sequence)).unwrap();
            }
            Step::Receive(index) => {
                let Some((claim, at)) = self.outstanding(index) else { return };
                let known = &mut self.model.known[at];
                known.is_received = known.qos == Qos::ExactlyOnce;
                assert!(self.bench.inbox.received(claim, Sequence(known.sequence), None).is_ok());
            }
            Step::Detach => {
                if let Some(claim) = self.claim.take() {
                    self.bench.detach(claim, self.now);
                }
            }
            Step::Attach => {
                let attached = self.bench.attach_as("c", self.now, false, None);
                assert!(attached.is_present);
                assert_eq!(attached.sent, Sequence(self.model.sent));
                (self.claim, self.cursor) = (Some(attached.claim), 0);
            }
            Step::Wait(time_s) => {
                self.now = self.now + Duration::from_secs(time_s.into());
                assert!(self.bench.expire(self.now).is_empty());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// INBOX-006: nothing is lost, nothing comes again once it is confirmed, and all in
    /// the order in which it came, over any sequence of attach, fetch, commit, detach and time.
    #[test]
    fn a_session_behaves_as_plain_lists(
        steps in prop::collection::vec(step(), 1..150),
        is_small: bool,
        drop_oldest: bool,
    ) {
        let mut pair = Pair::new(is_small, drop_oldest);
        for step in &steps {
            pair.apply(step);
            pair.bench.inbox.check_invariants();
            pair.bench.check_conservation();
        }
        // Whatever is left comes at last, and in order.
        pair.apply(&Step::Attach);
        pair.fetch(usize::MAX);
        let stats = pair.bench.inbox.stats();
        prop_assert_eq!(stats.queued, pair.model.known.len() as u64);
        prop_assert_eq!(stats.queued_qos0, 0);
    }
}

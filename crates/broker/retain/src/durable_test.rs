//! Behaviour of retained messages that are kept in a keyspace: what is durable when, and what is
//! there after a crash.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use ratatosk_client::{Busy, Done, Fate, Keyspace, Read, held::HeldKeyspace};
use ratatosk_clock::{Epoch, Instant, Timestamp};
use ratatosk_codec::Qos;
use ratatosk_contract::{
    Call, Message, PublisherId, ReplyTo, SessionRef, ShardId, StoredMessage, TenantId, Ticket,
    call::Settlement,
    inbox::DueWill,
    retain::{Cursor, Page, Retain, RetainLimits, StoreOutcome, TenantRetained},
    sessions::{Delivery, Sessions},
};
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::coprocessor::{Coprocessor, Position, Reader, Writer};
use ratatosk_telemetry::memory::{Accountant, Share, post_changes};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{RetainCoprocessor, RetainService, schema::message::TENANT_BYTES_MAX};

/// When the first process of a test began, by the wall clock.
const BEGINNING_MS: u64 = 1_000_000_000;

/// Remembers what it is told.
#[derive(Default)]
struct Told(Mutex<Vec<(u64, Settlement)>>);

impl Told {
    fn take(&self) -> Vec<(u64, Settlement)> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Sessions for Told {
    fn inbox_ready(&self, _session: SessionRef) {}

    fn deliver(&self, _session: SessionRef, _delivery: Delivery) {}

    fn settle(&self, _session: SessionRef, ticket: Ticket, settlement: Settlement) {
        self.0.lock().push((ticket.0, settlement));
    }

    fn publish(&self, _will: DueWill) {}
}

/// A service, its keyspace, and whoever is told.
struct Process {
    keyspace: Arc<HeldKeyspace>,
    told: Arc<Told>,
    service: RetainService,
    memory: Accountant,
    epoch: Epoch,
}

impl Process {
    fn new() -> Self {
        Self::of(HeldKeyspace::new(Box::new(RetainCoprocessor::new())), 0)
    }

    /// A process that begins so long after the first, and takes over what the keyspace has.
    fn of(keyspace: Arc<HeldKeyspace>, after_ms: u64) -> Self {
        let process = Self::before_restoring(keyspace, after_ms);
        process.service.restore().unwrap();
        process
    }

    fn before_restoring(keyspace: Arc<HeldKeyspace>, after_ms: u64) -> Self {
        let epoch = Epoch::new(Instant::ZERO, Timestamp::from_millis(BEGINNING_MS + after_ms));
        let (told, memory) = (Arc::<Told>::default(), Accountant::default());
        let service = RetainService::new(RetainLimits::default()).charged_to(&memory).kept_in(
            Arc::clone(&keyspace) as Arc<dyn Keyspace>,
            Arc::clone(&told) as Arc<dyn Sessions>,
            epoch,
        );
        Process { keyspace, told, service, memory, epoch }
    }

    /// The next process, after a crash: only the log is left.
    fn crash(&self, after_ms: u64) -> Self {
        Self::of(self.keyspace.crash(Box::new(RetainCoprocessor::new())), after_ms)
    }

    /// The next process, after a checkpoint: only the data are left.
    fn reopen(&self, after_ms: u64) -> Self {
        Self::of(self.keyspace.reopen(Box::new(RetainCoprocessor::new())), after_ms)
    }

    fn tenant(&self, name: &str) -> Arc<dyn TenantRetained> {
        self.service.tenant(&TenantId::new(name))
    }

    /// Stores for a publisher that waits under `ticket`.
    fn store(&self, tenant: &str, topic: &str, payload: &str, ticket: u64) -> Call<StoreOutcome> {
        self.tenant(tenant).store(&message(topic, payload, None), Some(reply_to(ticket)))
    }

    /// Stores for nobody who waits, until a moment of the wall clock.
    fn store_until(&self, tenant: &str, topic: &str, payload: &str, until_ms: Option<u64>) {
        let deadline = until_ms.map(|after_ms| self.at(after_ms));
        let call = self.tenant(tenant).store(&message(topic, payload, deadline), None);
        assert!(matches!(call, Call::Pending | Call::Ready(StoreOutcome::Cleared)));
    }

    /// A moment so long after the beginning of the first process.
    fn at(&self, after_ms: u64) -> Instant {
        self.epoch.instant(Timestamp::from_millis(BEGINNING_MS + after_ms))
    }

    /// Topics and payloads of a tenant, in the order of the cursor.
    fn read(&self, tenant: &str, now: Instant) -> Vec<(String, String)> {
        let text = |message: &Arc<StoredMessage>| {
            let payload = String::from_utf8(message.payload.to_vec()).unwrap();
            (message.topic.to_string(), payload)
        };
        self.messages(tenant, now).iter().map(text).collect()
    }

    fn messages(&self, tenant: &str, now: Instant) -> Vec<Arc<StoredMessage>> {
        let filter = TopicFilter::parse("#", &TopicLimits::PROTOCOL).unwrap();
        let mut page = Page { messages_max: usize::MAX, bytes_max: usize::MAX, ..Page::default() };
        let mut cursor = Cursor::Start;
        while cursor != Cursor::End {
            self.tenant(tenant).scan(now, &filter, &mut cursor, &mut page);
        }
        page.messages
    }
}

fn reply_to(ticket: u64) -> ReplyTo {
    let session = SessionRef { shard: ShardId(0), slot: 0, generation: 0 };
    ReplyTo { session, ticket: Ticket(ticket) }
}

fn message<'a>(topic: &'a str, payload: &'a str, deadline: Option<Instant>) -> Message<'a> {
    Message {
        topic,
        payload: payload.as_bytes(),
        shared: None,
        properties: b"\x01\x01",
        qos: Qos::AtLeastOnce,
        retain: true,
        publisher: PublisherId(7),
        accepted: Instant::ZERO,
        deadline,
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(topic, payload)| ((*topic).to_owned(), (*payload).to_owned())).collect()
}

/// DUR-009: what is stored or cleared is seen at once, and settles when the log is released.
#[test]
fn nothing_settles_before_it_is_durable_and_then_all_does() {
    let process = Process::new();
    assert_eq!(process.store("t", "a", "1", 1), Call::Pending);
    assert_eq!(process.store("t", "b", "2", 2), Call::Pending);
    assert_eq!(process.store("t", "a", "", 3), Call::Pending);
    process.store_until("t", "c", "3", None);
    assert_eq!(process.read("t", Instant::ZERO), pairs(&[("b", "2"), ("c", "3")]));
    assert_eq!((process.keyspace.waiting(), process.told.take()), (4, Vec::new()));
    process.keyspace.settle_some(2);
    assert_eq!(process.told.take(), [(1, Settlement::Done), (2, Settlement::Done)]);
    process.keyspace.settle();
    assert_eq!(process.told.take(), [(3, Settlement::Done)], "nobody waits for the last");
}

/// DUR-002, RET-006: at whichever command the log ends, what was settled is there, and nothing else.
#[test]
fn a_crash_at_any_point_keeps_what_was_settled() {
    let history = [
        ("t", "a", "1"),
        ("t", "a/b", "2"),
        ("u", "a", "3"),
        ("t", "a", "4"),
        ("t", "a/b", ""),
        ("u", "b", "5"),
        ("t", "a", ""),
        ("t", "a", "6"),
    ];
    for settled in 0..=history.len() {
        let process = Process::new();
        for (ticket, (tenant, topic, payload)) in (0..).zip(history) {
            assert_eq!(process.store(tenant, topic, payload, ticket), Call::Pending);
        }
        process.keyspace.settle_some(settled);
        assert_eq!(process.told.take().len(), settled);
        let mut expected = BTreeMap::new();
        for (tenant, topic, payload) in &history[..settled] {
            expected.insert((*tenant, *topic), *payload);
        }
        expected.retain(|_, payload| !payload.is_empty());
        let next = process.crash(5_000);
        for tenant in ["t", "u"] {
            let own = expected.iter().filter(|((owner, _), _)| *owner == tenant);
            let own: Vec<_> = own.map(|((_, topic), payload)| (*topic, *payload)).collect();
            assert_eq!(next.read(tenant, Instant::ZERO), pairs(&own), "after {settled}");
        }
        assert_eq!(next.service.stats().topics, expected.len());
    }
}

/// DUR-002: whoever stores at the same time, the log has the order that memory has.
#[test]
fn the_log_has_the_order_of_memory() {
    let process = Process::new();
    std::thread::scope(|scope| {
        for writer in 0..4_u64 {
            let process = &process;
            scope.spawn(move || {
                for number in 0..500_u64 {
                    let ticket = writer * 1_000 + number;
                    let payload = if number % 7 == 6 { String::new() } else { ticket.to_string() };
                    let topic = if number % 3 == 0 { "a" } else { "b" };
                    let _ = process.store("t", topic, &payload, ticket);
                }
            });
        }
    });
    process.keyspace.settle();
    let shown = process.read("t", Instant::ZERO);
    assert_eq!(process.crash(0).read("t", Instant::ZERO), shown);
    assert_eq!(process.reopen(0).read("t", Instant::ZERO), shown);
}

/// DUR-002: a publisher is not told that a message is durable when nobody knows.
#[test]
fn an_unknown_fate_is_told_as_such() {
    struct Lost(Mutex<Vec<Done>>);
    impl Keyspace for Lost {
        fn check(&self) -> Result<(), Busy> {
            Ok(())
        }

        fn submit(&self, _key: &[u8], _command: Bytes, done: Done) {
            self.0.lock().push(done);
        }

        fn read(&self, _read: &mut Read<'_>) -> Result<(), Error> {
            Ok(())
        }
    }
    let lost = Arc::new(Lost(Mutex::default()));
    let told = Arc::<Told>::default();
    let service = RetainService::default().kept_in(
        Arc::clone(&lost) as Arc<dyn Keyspace>,
        Arc::clone(&told) as Arc<dyn Sessions>,
        Epoch::default(),
    );
    let tenant = service.tenant(&TenantId::new("t"));
    let fates = [
        Fate::Unknown,
        Fate::Applied(Bytes::from_static(&[1])),
        Fate::Applied(Bytes::from_static(&[0])),
    ];
    for (ticket, fate) in (1..).zip(fates) {
        let call = tenant.store(&message("a", "1", None), Some(reply_to(ticket)));
        assert_eq!(call, Call::Pending);
        let done = lost.0.lock().pop().unwrap();
        done(fate);
    }
    let unknown = Settlement::Unknown;
    assert_eq!(told.take(), [(1, unknown), (2, unknown), (3, Settlement::Done)]);
}

/// RET-001: nothing that changes nothing is written, or waited for.
#[test]
fn what_changes_nothing_is_not_written() {
    let process = Process::new();
    let retained = process.tenant("t");
    retained.set_limits(RetainLimits { topics_max: 1, ..RetainLimits::default() });
    assert_eq!(process.store("t", "a", "", 1), Call::Ready(StoreOutcome::Cleared));
    assert_eq!(process.store("t", "a", "1", 2), Call::Pending);
    assert_eq!(process.store("t", "b", "2", 3), Call::Ready(StoreOutcome::Refused));
    assert_eq!(process.keyspace.waiting(), 1);
    process.keyspace.settle();
    assert_eq!(process.crash(0).read("t", Instant::ZERO), pairs(&[("a", "1")]));
}

/// DUR-002: whoever clears a topic that another is clearing is not told before it is so.
#[test]
fn a_topic_that_is_being_cleared_is_not_called_clear() {
    let process = Process::new();
    assert_eq!(process.store("t", "a", "1", 1), Call::Pending);
    process.keyspace.settle();
    assert_eq!(process.store("t", "a", "", 2), Call::Pending);
    assert_eq!(process.store("t", "a", "", 3), Call::Pending);
    assert_eq!(process.crash(0).read("t", Instant::ZERO), pairs(&[("a", "1")]));
    process.keyspace.settle();
    assert_eq!(process.told.take().len(), 3);
    assert_eq!(process.store("t", "a", "", 4), Call::Ready(StoreOutcome::Cleared));
    assert_eq!(process.crash(0).read("t", Instant::ZERO), []);
}

/// RET-007: refused before anything is decided, and collected later.
#[test]
fn a_busy_store_changes_nothing() {
    let process = Process::new();
    process.store_until("t", "a", "1", Some(50));
    process.keyspace.settle();
    process.keyspace.set_busy(true);
    assert_eq!(process.store("t", "a", "2", 1), Call::Ready(StoreOutcome::Busy));
    assert_eq!(process.store("t", "a", "", 2), Call::Ready(StoreOutcome::Busy));
    assert_eq!(process.service.collect(Instant::from_millis(50), 10), 0);
    assert_eq!(process.read("t", Instant::ZERO), pairs(&[("a", "1")]));
    assert_eq!((process.keyspace.waiting(), process.told.take()), (0, Vec::new()));
    process.keyspace.set_busy(false);
    assert_eq!(process.service.collect(Instant::from_millis(50), 10), 1);
    assert_eq!(process.keyspace.waiting(), 1);
}

/// RET-006: with everything it came with, times by the wall clock.
#[test]
fn a_message_comes_back_as_it_was() {
    let process = Process::new();
    let (now, deadline) = (Instant::from_millis(2_000), Instant::from_millis(9_000));
    let payload = "x".repeat(10_000);
    for (topic, qos) in [("a", Qos::AtMostOnce), ("b", Qos::ExactlyOnce)] {
        let message = Message { qos, accepted: now, ..message(topic, &payload, Some(deadline)) };
        assert_eq!(process.tenant("t").store(&message, None), Call::Pending);
    }
    process.keyspace.settle();
    for next in [process.crash(1_500), process.reopen(1_500)] {
        let messages = next.messages("t", Instant::ZERO);
        for (message, qos) in messages.iter().zip([Qos::AtMostOnce, Qos::ExactlyOnce]) {
            assert_eq!(
                (message.qos, message.retain, message.publisher),
                (qos, true, PublisherId(7))
            );
            assert_eq!(
                (&*message.properties, &message.payload[..]),
                (&b"\x01\x01"[..], payload.as_bytes())
            );
            assert_eq!(message.accepted, Instant::from_millis(500));
            assert_eq!(message.deadline, Some(Instant::from_millis(7_500)));
        }
        assert_eq!(messages.len(), 2);
    }
}

/// RET-004: what expired meanwhile is not taken back, and leaves the store with the next
/// collection, in commands that are not too large.
#[test]
fn what_expired_meanwhile_is_collected_durably() {
    let process = Process::new();
    for number in 0..2_500 {
        process.store_until("t", &format!("{number}"), "x", Some(1_000));
    }
    process.store_until("t", "later", "x", Some(3_000));
    process.store_until("t", "ever", "x", None);
    let next = process.reopen(1_000);
    assert_eq!((next.tenant("t").len(), next.keyspace.content().len()), (2, 2_502));
    // One of them has a message again, which stays.
    next.store_until("t", "7", "new", None);
    assert_eq!(next.service.collect(Instant::ZERO, 10_000), 2_499);
    assert_eq!(next.keyspace.waiting(), 4, "three commands behind the new message");
    next.keyspace.settle();
    assert_eq!(next.service.collect(Instant::ZERO, 10_000), 0);
    assert_eq!(next.keyspace.content().len(), 3);
    assert_eq!(next.service.collect(Instant::from_millis(2_000), 10_000), 1, "in its own time");
    next.keyspace.settle();
    let last = next.crash(9_000);
    assert_eq!(last.read("t", Instant::ZERO), pairs(&[("7", "new"), ("ever", "x")]));
    assert_eq!(next.service.stats().expired, 2_500);
}

/// RET-006: the longest topic, and tenants of any length that fits.
#[test]
fn long_topics_and_tenants_are_kept() {
    let process = Process::new();
    let (topic, other) = ("x".repeat(65_535), format!("{}y", "x".repeat(65_534)));
    let tenants = ["t".to_owned(), "tt".to_owned(), "t".repeat(TENANT_BYTES_MAX)];
    for tenant in &tenants {
        process.store_until(tenant, &topic, "1", None);
        process.store_until(tenant, &other, "2", None);
    }
    process.keyspace.settle();
    let next = process.crash(0);
    for tenant in &tenants {
        assert_eq!(next.read(tenant, Instant::ZERO), pairs(&[(&topic, "1"), (&other, "2")]));
    }
    let too_long = "t".repeat(TENANT_BYTES_MAX + 1);
    assert_eq!(next.store(&too_long, "a", "1", 1), Call::Ready(StoreOutcome::Refused));
    assert_eq!((next.keyspace.waiting(), next.service.stats().refused), (0, 1));
}

/// RET-008: a cursor goes on where it was before the crash.
#[test]
fn the_order_of_a_cursor_survives() {
    let process = Process::new();
    for topic in ["b/b", "a", "a b", "/", "a/b/c", "a/", "ab", "a/b"] {
        process.store_until("t", topic, topic, None);
    }
    process.keyspace.settle();
    let before = process.read("t", Instant::ZERO);
    let filter = TopicFilter::parse("#", &TopicLimits::PROTOCOL).unwrap();
    let (mut cursor, mut first) =
        (Cursor::Start, Page { messages_max: 3, bytes_max: usize::MAX, ..Page::default() });
    process.tenant("t").scan(Instant::ZERO, &filter, &mut cursor, &mut first);
    let next = process.crash(0);
    assert_eq!(next.read("t", Instant::ZERO), before);
    let mut rest = Page { messages_max: 99, bytes_max: usize::MAX, ..Page::default() };
    next.tenant("t").scan(Instant::ZERO, &filter, &mut cursor, &mut rest);
    let told = first.messages.iter().chain(&rest.messages);
    let told: Vec<_> = told.map(|message| message.topic.to_string()).collect();
    assert!(told.iter().eq(before.iter().map(|(topic, _)| topic)), "{told:?}");
}

/// MEM-002: what was taken back is charged as what was stored, and what is only to be removed is
/// charged until it is.
#[test]
fn what_is_taken_back_is_charged() {
    let process = Process::new();
    let charged = |process: &Process| {
        post_changes();
        process.memory.account("t").charged().charged[Share::Retained.index()].bytes()
    };
    for number in 0..100 {
        process.store_until("t", &format!("small/{number}"), "x", Some(1_000));
        process.store_until("t", &format!("large/{number}"), &"x".repeat(10_000), None);
    }
    let next = process.reopen(0);
    assert_eq!(charged(&next), charged(&process));
    assert_eq!(next.service.stats().bytes, process.service.stats().bytes);
    let late = process.reopen(1_000);
    let with_stale = charged(&late);
    assert_eq!(late.service.collect(Instant::ZERO, 1_000), 100);
    assert_eq!(with_stale - charged(&late), 100 * 32);
}

/// DUR-002: something else in the store is not passed over.
#[test]
fn what_cannot_be_read_stops_the_node() {
    let next = Process::before_restoring(foreign_keyspace(), 0);
    assert!(matches!(next.service.restore(), Err(Error::Corrupt { .. })));
}

/// One whose data are of another topic than their key.
fn foreign_keyspace() -> Arc<HeldKeyspace> {
    struct Foreign;
    impl Coprocessor for Foreign {
        fn reset(&mut self, _boundary: &KeyRange, _reader: &dyn Reader) -> Result<(), Error> {
            Ok(())
        }

        fn apply(
            &mut self,
            _position: Position,
            command: &Bytes,
            writer: &mut Writer<'_>,
        ) -> Result<Bytes, Error> {
            writer.put(&b"t\xff0123456789abcdef"[..], command.clone());
            Ok(Bytes::new())
        }

        fn query(&self, _question: &Bytes, _reader: &dyn Reader) -> Result<Bytes, Error> {
            Ok(Bytes::new())
        }
    }
    let keyspace = HeldKeyspace::new(Box::new(Foreign));
    let record = b"\x01\x00________\x00\x01a\x00x";
    keyspace.submit(b"t", Bytes::from_static(record), Box::new(|_| {}));
    keyspace.settle();
    keyspace
}

/// What happens in a random history.
#[derive(Clone, Debug)]
enum Step {
    Set {
        tenant: usize,
        topic: usize,
        until_ms: Option<u64>,
    },
    Clear {
        tenant: usize,
        topic: usize,
    },
    /// Time passes, and what has expired is collected.
    Collect {
        after_ms: u64,
        count_max: usize,
    },
    Settle {
        count: usize,
    },
    Crash {
        after_ms: u64,
    },
}

const TENANTS: [&str; 4] = ["", "a", "ab", "b\0"];
const TOPICS: [&str; 5] = ["a", "a/b", "/", "$x", "ab"];

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..TENANTS.len(), 0..TOPICS.len());
    prop_oneof![
        6 => (place(), prop::option::of(0..600_u64)).prop_map(|((tenant, topic), until_ms)| {
            Step::Set { tenant, topic, until_ms }
        }),
        3 => place().prop_map(|(tenant, topic)| Step::Clear { tenant, topic }),
        2 => (0..100_u64, 1..6_usize).prop_map(|(after_ms, count_max)| {
            Step::Collect { after_ms, count_max }
        }),
        2 => (1..8_usize).prop_map(|count| Step::Settle { count }),
        1 => (0..300_u64).prop_map(|after_ms| Step::Crash { after_ms }),
    ]
}

/// What a naive reader of the log would have: payload and deadline by tenant and topic.
type Model = BTreeMap<(usize, usize), (String, Option<u64>)>;

/// What a command does to the model, by tenant and topic. A collection removes only what nobody
/// sees: it does nothing.
type Change = Option<((usize, usize), Option<(String, Option<u64>)>)>;

fn change(model: &mut Model, changes: impl IntoIterator<Item = Change>) {
    for (place, message) in changes.into_iter().flatten() {
        match message {
            Some(message) => model.insert(place, message),
            None => model.remove(&place),
        };
    }
}

/// Compares what a process shows at a moment of the wall clock.
fn check_against(model: &Model, process: &Process, now_ms: u64) {
    process.service.check_invariants();
    for (tenant, name) in TENANTS.iter().enumerate() {
        let own = model.iter().filter(|((owner, _), _)| *owner == tenant);
        let live = own.filter(|(_, (_, until))| until.is_none_or(|until_ms| until_ms > now_ms));
        let live: BTreeSet<_> = live
            .map(|((_, topic), (payload, _))| (TOPICS[*topic].to_owned(), payload.clone()))
            .filter(|(topic, _)| !topic.starts_with('$'))
            .collect();
        let shown: BTreeSet<_> = process.read(name, process.at(now_ms)).into_iter().collect();
        assert_eq!(shown, live, "tenant {name:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// DUR-002, RET-006: crashes lose what was not settled and nothing else; data alone say the
    /// same as the log; the log applied twice says the same as once.
    #[test]
    fn a_crash_is_survived_by_what_was_settled(steps in prop::collection::vec(step(), 0..60)) {
        let (mut process, mut now_ms) = (Process::new(), 0);
        let (mut decided, mut durable) = (Model::new(), Model::new());
        let mut waiting: Vec<Change> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            let before = process.keyspace.waiting();
            let mut effect = None;
            match step {
                Step::Set { tenant, topic, until_ms } => {
                    let message = (number.to_string(), until_ms.map(|until_ms| now_ms + until_ms));
                    process.store_until(TENANTS[tenant], TOPICS[topic], &message.0, message.1);
                    effect = Some(((tenant, topic), Some(message)));
                }
                Step::Clear { tenant, topic } => {
                    process.store_until(TENANTS[tenant], TOPICS[topic], "", None);
                    effect = Some(((tenant, topic), None));
                }
                Step::Collect { after_ms, count_max } => {
                    now_ms += after_ms;
                    process.service.collect(process.at(now_ms), count_max);
                }
                Step::Settle { count } => {
                    process.keyspace.settle_some(count);
                    change(&mut durable, waiting.drain(..count.min(before)));
                    prop_assert_eq!(process.keyspace.waiting(), waiting.len());
                    continue;
                }
                Step::Crash { after_ms } => {
                    now_ms += after_ms;
                    process = process.crash(now_ms);
                    waiting.clear();
                    decided = durable.clone();
                }
            }
            change(&mut decided, [effect.clone()]);
            check_against(&decided, &process, now_ms);
            let written = process.keyspace.waiting().saturating_sub(before);
            waiting.extend((0..written).map(|_| effect.clone()));
        }
        process.keyspace.settle();
        let log = process.keyspace.log();
        let (crashed, reopened) = (process.crash(now_ms), process.reopen(now_ms));
        check_against(&decided, &crashed, now_ms);
        check_against(&decided, &reopened, now_ms);
        prop_assert_eq!(crashed.keyspace.content(), reopened.keyspace.content());
        for command in &log {
            reopened.keyspace.submit(&[], command.clone(), Box::new(|_| {}));
        }
        reopened.keyspace.settle();
        prop_assert_eq!(crashed.keyspace.content(), reopened.keyspace.content());
        while crashed.service.collect(Instant::ZERO, 2) > 0 {}
        crashed.keyspace.settle();
        let kept = crashed.service.stats().topics;
        prop_assert_eq!(crashed.keyspace.content().len(), kept, "no trace of what expired");
    }
}

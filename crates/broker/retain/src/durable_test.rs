//! Behaviour of retained messages that are kept in a keyspace: what is durable when, and what is
//! there after a crash.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_client::{Busy, Done, Fate, Keyspace, Read, held::HeldKeyspace};
use ratatosk_clock::{Epoch, Instant};
use ratatosk_codec::Qos;
use ratatosk_contract::{
    Call, Message, PublisherId, TenantId,
    call::Settlement,
    retain::{Cursor, Page, Retain, RetainLimits, StoreOutcome},
    sessions::Sessions,
};
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::coprocessor::{Coprocessor, Position, Reader, Writer};
use ratatosk_telemetry::memory::{Share, post_changes};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{
    RetainService,
    durable_fixture::{Process, Told, message, pairs, reply_to},
    schema::message::TENANT_BYTES_MAX,
};

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

/// RET-009, DUR-002: what was ended is gone after a crash; while the log has no room nothing is.
#[test]
fn what_was_ordered_to_end_is_ended_durably() {
    let process = Process::new();
    for topic in ["a", "b", "c"] {
        process.store_until("t", topic, "1", None);
    }
    process.keyspace.settle();
    assert_eq!(process.tenant("t").expire_all(), 3);
    process.keyspace.set_busy(true);
    assert_eq!(process.service.expire_ordered(2), 0);
    process.keyspace.set_busy(false);
    assert_eq!(process.service.expire_ordered(2), 2);
    assert_eq!(process.crash(0).read("t", Instant::ZERO).len(), 3, "not durable yet");
    process.keyspace.settle();
    assert_eq!(process.crash(0).read("t", Instant::ZERO), pairs(&[("c", "1")]));
    assert_eq!(process.service.expire_ordered(2), 1);
    process.keyspace.settle();
    for next in [process.crash(0), process.reopen(0)] {
        assert_eq!(next.read("t", Instant::ZERO), []);
    }
    assert!(process.keyspace.content().is_empty());
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

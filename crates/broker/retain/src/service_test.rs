//! Behaviour of retained messages, of one tenant and of many.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;
use ratatosk_clock::Instant;
use ratatosk_codec::Qos;
use ratatosk_contract::{
    Message, PublisherId, TenantId,
    retain::{Cursor, Page, Retain, RetainLimits, StoreOutcome, TenantRetained},
};
use ratatosk_telemetry::memory::{Accountant, Share, post_changes};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{
    RetainService,
    tenant::{Home, Tenant},
};

const NOW: Instant = Instant::from_millis(1_000);

fn tenant() -> Arc<Tenant> {
    let account = Accountant::default().account("t");
    Tenant::new(TenantId::new("t"), RetainLimits::default(), account, Home::Memory)
}

fn store(retained: &dyn TenantRetained, topic: &str, payload: &str) -> StoreOutcome {
    store_until(retained, topic, payload, None)
}

fn store_until(
    retained: &dyn TenantRetained,
    topic: &str,
    payload: &str,
    deadline: Option<Instant>,
) -> StoreOutcome {
    let message = Message {
        topic,
        payload: payload.as_bytes(),
        shared: None,
        properties: b"\x01\x01",
        qos: Qos::ExactlyOnce,
        retain: true,
        publisher: PublisherId(7),
        accepted: NOW,
        deadline,
    };
    retained.store(&message, None).ready().unwrap()
}

fn read_page(retained: &dyn TenantRetained, filter: &str, cursor: &mut Cursor, max: usize) -> Page {
    let filter = TopicFilter::parse(filter, &TopicLimits::PROTOCOL).unwrap();
    let mut page = Page { messages_max: max, bytes_max: usize::MAX, ..Page::default() };
    let before = cursor.clone();
    retained.scan(NOW, &filter, cursor, &mut page);
    assert_ne!(*cursor, before, "every page goes on");
    page
}

/// The topics that match, each page of `max`, until the end.
fn topics(retained: &dyn TenantRetained, filter: &str, max: usize) -> Vec<String> {
    let (mut cursor, mut topics) = (Cursor::Start, Vec::new());
    while cursor != Cursor::End {
        let page = read_page(retained, filter, &mut cursor, max);
        assert!(page.messages.len() <= max);
        topics.extend(page.messages.iter().map(|message| message.topic.to_string()));
    }
    topics
}

fn payload_of(retained: &dyn TenantRetained, topic: &str) -> Option<String> {
    let page = read_page(retained, topic, &mut Cursor::Start, 2);
    page.messages.first().map(|message| String::from_utf8(message.payload.to_vec()).unwrap())
}

/// RET-001: [MQTT-3.3.1-5] the latest stays, [MQTT-3.3.1-6] an empty payload clears,
/// [MQTT-3.3.1-7] and is not kept itself.
#[test]
fn the_latest_message_of_a_topic_is_kept_until_it_is_cleared() {
    let retained = tenant();
    assert_eq!(store(&*retained, "a/b", "1"), StoreOutcome::Stored);
    assert_eq!(store(&*retained, "a/c", "2"), StoreOutcome::Stored);
    assert_eq!(store(&*retained, "a/b", "3"), StoreOutcome::Stored);
    assert_eq!(payload_of(&*retained, "a/b").as_deref(), Some("3"));
    assert_eq!(store(&*retained, "a/b", ""), StoreOutcome::Cleared);
    assert_eq!(store(&*retained, "never", ""), StoreOutcome::Cleared);
    assert_eq!(payload_of(&*retained, "a/b"), None);
    assert_eq!(topics(&*retained, "#", 9), ["a/c"]);
    let stats = retained.stats();
    assert_eq!((stats.topics, stats.stored, stats.cleared), (1, 3, 1));
    retained.check_invariants();
}

#[test]
fn a_message_is_kept_with_all_that_it_came_with() {
    let retained = tenant();
    store_until(&*retained, "a", "x", Some(Instant::from_millis(9_000)));
    let page = read_page(&*retained, "a", &mut Cursor::Start, 1);
    let message = &page.messages[0];
    assert_eq!((message.qos, message.retain), (Qos::ExactlyOnce, true));
    assert_eq!((&*message.properties, message.publisher), (&b"\x01\x01"[..], PublisherId(7)));
    assert_eq!((message.accepted, message.deadline), (NOW, Some(Instant::from_millis(9_000))));
}

/// RET-002: in the order of levels, a parent before its children, whatever the page.
#[test]
fn exact_and_wildcard_filters_find_their_topics() {
    let retained = tenant();
    for topic in ["a/b", "a", "a/b/c", "b/b", "/", "a/", "ab", "a b"] {
        store(&*retained, topic, "x");
    }
    for max in [1, 2, 100] {
        let check =
            |filter, expected: &[&str]| assert_eq!(topics(&*retained, filter, max), expected);
        check("a", &["a"]);
        check("c", &[]);
        check("a/#", &["a", "a/", "a/b", "a/b/c"]);
        check("+/b", &["a/b", "b/b"]);
        check("a/+", &["a/", "a/b"]);
        check("+", &["a", "a b", "ab"]);
        check("#", &["/", "a", "a/", "a/b", "a/b/c", "a b", "ab", "b/b"]);
        check("$share/g/a/b", &["a/b"]);
    }
}

/// RET-003: [MQTT-4.7.2-1]
#[test]
fn a_leading_wildcard_does_not_find_reserved_topics() {
    let retained = tenant();
    for topic in ["$SYS/a", "$", "a/$SYS", "a"] {
        store(&*retained, topic, "x");
    }
    assert_eq!(topics(&*retained, "#", 9), ["a", "a/$SYS"]);
    assert_eq!(topics(&*retained, "+", 9), ["a"]);
    assert_eq!(topics(&*retained, "+/a", 9), [""; 0]);
    assert_eq!(topics(&*retained, "$SYS/#", 9), ["$SYS/a"]);
}

/// RET-004: not found from its deadline on, and removed by the next collection.
#[test]
fn expired_messages_are_neither_found_nor_kept() {
    let service = RetainService::default();
    let retained = service.tenant(&TenantId::new("t"));
    let at = |millis| Some(Instant::from_millis(millis));
    store_until(&*retained, "past", "x", at(1_000));
    store_until(&*retained, "future", "x", at(1_001));
    store_until(&*retained, "renewed", "x", at(500));
    store_until(&*retained, "renewed", "x", at(2_000));
    store(&*retained, "ever", "x");
    assert_eq!(topics(&*retained, "#", 9), ["ever", "future", "renewed"]);
    assert_eq!(payload_of(&*retained, "past"), None);
    assert_eq!(retained.len(), 4);

    assert_eq!(service.collect(NOW, 10), 1);
    assert_eq!((retained.len(), service.stats().expired), (3, 1));
    assert_eq!(service.collect(Instant::from_millis(9_000), 1), 1, "no more than asked for");
    assert_eq!(service.collect(Instant::from_millis(9_000), 10), 1);
    assert_eq!(topics(&*retained, "#", 9), ["ever"]);
    assert_eq!(service.collect(Instant::from_nanos(u64::MAX), 10), 0);
}

#[test]
fn every_tenant_has_its_turn_of_a_bounded_collection() {
    let service = RetainService::default();
    for number in 0..10 {
        let retained = service.tenant(&TenantId::new(&format!("t{number}")));
        for topic in 0..100 {
            store_until(&*retained, &format!("{topic}"), "x", Some(NOW));
        }
    }
    for _ in 0..10 {
        service.collect(NOW, 10);
    }
    let touched = (0..10)
        .filter(|number| service.tenant_stats(&TenantId::new(&format!("t{number}"))).expired > 0)
        .count();
    assert_eq!((touched, service.stats().expired), (10, 100));
}

/// The message is refused, the one before it stays, and counts are kept. (The rest of RES-009 is
/// the matter of whoever distributes the message.)
#[test]
fn messages_beyond_the_limits_are_refused() {
    let retained = tenant();
    store(&*retained, "a", "1");
    let size = retained.stats().bytes;
    retained.set_limits(RetainLimits { topics_max: 2, bytes_max: 2 * size + 1 });
    assert_eq!(store(&*retained, "b", "22"), StoreOutcome::Stored);
    assert_eq!(store(&*retained, "c", "3"), StoreOutcome::Refused, "a third topic");
    assert_eq!(store(&*retained, "b", "333"), StoreOutcome::Refused, "a byte too many");
    assert_eq!(payload_of(&*retained, "b").as_deref(), Some("22"));
    assert_eq!(store(&*retained, "b", ""), StoreOutcome::Cleared);
    assert_eq!(store(&*retained, "c", "33"), StoreOutcome::Stored);
    assert_eq!(retained.stats().refused, 2);
    retained.set_limits(RetainLimits { topics_max: 0, bytes_max: 0 });
    assert_eq!(retained.len(), 2, "what is there stays");
    retained.check_invariants();
}

/// MEM-002: to the byte per tenant, small messages and large ones, until the last reader of a large
/// payload has it no more.
#[test]
fn what_is_retained_is_charged_to_its_tenant() {
    let memory = Accountant::default();
    let service = RetainService::default().charged_to(&memory);
    let (acme, other) = (TenantId::new("acme"), TenantId::new("other"));
    let charged = |tenant: &TenantId| {
        post_changes();
        let shares = memory.account(tenant.as_str()).charged().charged;
        usize::try_from(shares[Share::Retained.index()].bytes()).unwrap()
    };
    let retained = service.tenant(&acme);
    for number in 0..100 {
        store(&*retained, &format!("small/{number}"), &"x".repeat(100));
        store(&*retained, &format!("large/{number}"), &"x".repeat(10_000));
    }
    let payloads = 100 * 10_100;
    assert!((payloads..payloads * 11 / 10).contains(&charged(&acme)), "{}", charged(&acme));
    assert_eq!(charged(&other), 0);
    store(&*service.tenant(&other), "a", "x");
    assert!((1..1_000).contains(&charged(&other)), "{}", charged(&other));

    let page = read_page(&*retained, "large/7", &mut Cursor::Start, 1);
    let payload = page.messages[0].payload.clone();
    drop(page);
    for number in 0..100 {
        store(&*retained, &format!("small/{number}"), "");
        store(&*retained, &format!("large/{number}"), "");
    }
    assert_eq!(charged(&acme), payload.len());
    drop(payload);
    assert_eq!(charged(&acme), 0);
}

/// RET-009: all that is there, in bounded batches; not what comes later, nor another tenant's.
#[test]
fn the_retained_messages_of_a_tenant_are_expired_in_batches() {
    const COUNT: usize = 6_000;
    let service = RetainService::default();
    let (retained, other) =
        (service.tenant(&TenantId::new("t")), service.tenant(&TenantId::new("u")));
    for number in 0..COUNT {
        store(&*retained, &number.to_string(), "x");
    }
    store(&*other, "1", "x");
    assert_eq!(service.expire_ordered(10), 0, "nobody ordered it");
    assert_eq!(retained.expire_all(), COUNT);
    assert_eq!(retained.len(), COUNT, "an order alone removes nothing");
    assert_eq!(service.expire_ordered(10), 10);
    store(&*retained, "1", "later");
    store(&*retained, "new", "later");
    let mut count = 10;
    for _ in 0..COUNT {
        let ended = service.expire_ordered(7);
        assert!(ended <= 7, "{ended}");
        count += ended;
    }
    service.check_invariants();
    assert_eq!(topics(&*retained, "#", 9), ["1", "new"]);
    assert_eq!(topics(&*other, "#", 9), ["1"]);
    assert!((COUNT - 1..=COUNT).contains(&count), "{count}");
    assert_eq!(service.stats().expired, count as u64);
    // Again, and two at once.
    assert_eq!((retained.expire_all(), other.expire_all()), (2, 1));
    assert_eq!((service.expire_ordered(2), service.expire_ordered(9)), (2, 1));
    assert!(retained.is_empty() && other.is_empty());
}

#[test]
fn a_page_ends_at_its_bytes_and_holds_one_message_at_least() {
    let retained = tenant();
    for topic in ["a", "b", "c"] {
        store(&*retained, topic, &"x".repeat(1_000));
    }
    let filter = TopicFilter::parse("#", &TopicLimits::PROTOCOL).unwrap();
    let mut cursor = Cursor::Start;
    for (bytes_max, expected) in [(0, 1), (1_500, 2)] {
        let mut page = Page { messages_max: 9, bytes_max, ..Page::default() };
        retained.scan(NOW, &filter, &mut cursor, &mut page);
        assert_eq!(page.messages.len(), expected);
    }
}

#[test]
fn a_page_looks_at_a_bounded_number_of_topics() {
    let retained = tenant();
    for number in 0..10_000 {
        store(&*retained, &format!("{number}/no"), "x");
    }
    store(&*retained, "z/yes", "x");
    let (mut cursor, mut pages, mut found) = (Cursor::Start, 0, 0);
    while cursor != Cursor::End {
        found += read_page(&*retained, "+/yes", &mut cursor, 9).messages.len();
        pages += 1;
    }
    assert_eq!(found, 1);
    assert!((2..10).contains(&pages), "{pages}");
}

#[test]
fn tenants_that_keep_nothing_leave_nothing_behind() {
    let service = RetainService::default();
    store(&*service.tenant(&TenantId::new("kept")), "a", "x");
    for number in 0..5_000 {
        let retained = service.tenant(&TenantId::new(&format!("passing-{number}")));
        assert!(retained.is_empty(), "tenants do not see each other");
        store(&*retained, "a", "x");
        store(&*retained, "a", "");
    }
    let stats = service.stats();
    assert!(stats.tenants <= 200, "{}", stats.tenants);
    assert_eq!((stats.topics, stats.stored, stats.cleared), (1, 5_001, 5_000));
    assert_eq!(service.tenant(&TenantId::new("kept")).len(), 1);
}

const LEVELS: [&str; 5] = ["a", "b", "", "$x", "ab"];

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&LEVELS[..]), 1..4)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic has a character", |topic| !topic.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop::sample::select(&["a", "b", "", "$x", "+", "+"][..]);
    (prop::collection::vec(level, 0..4), any::<bool>())
        .prop_map(|(mut levels, is_open)| {
            levels.extend(is_open.then_some("#"));
            levels.join("/")
        })
        .prop_filter("a filter has a character", |filter| !filter.is_empty())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// RET-002: with changes between the pages, what stays is told once, the rest at most once.
    #[test]
    fn pages_tell_every_topic_that_stays_exactly_once(
        before in prop::collection::btree_set(topic(), 0..40),
        changes in prop::collection::vec((any::<bool>(), topic()), 0..60),
        filter in filter(),
        max in 1..5_usize,
    ) {
        let retained = tenant();
        for topic in &before {
            store(&*retained, topic, "x");
        }
        let mut present = before.clone();
        let mut stayed = before;
        let mut ever = stayed.clone();
        let mut changes = changes.into_iter();
        let (mut cursor, mut told) = (Cursor::Start, BTreeMap::<String, usize>::new());
        while cursor != Cursor::End {
            for message in read_page(&*retained, &filter, &mut cursor, max).messages {
                *told.entry(message.topic.to_string()).or_default() += 1;
            }
            for (is_stored, topic) in changes.by_ref().take(3) {
                store(&*retained, &topic, if is_stored { "y" } else { "" });
                if is_stored {
                    present.insert(topic.clone());
                    ever.insert(topic);
                } else {
                    present.remove(&topic);
                    stayed.remove(&topic);
                }
            }
        }
        retained.check_invariants();
        prop_assert_eq!(retained.len(), present.len());
        let is_match = |topic: &&String| ratatosk_topic::matches(&filter, topic);
        prop_assert!(told.values().all(|count| *count == 1), "{:?}", told);
        let told: BTreeSet<_> = told.into_keys().collect();
        prop_assert!(stayed.iter().filter(is_match).all(|topic| told.contains(topic)));
        prop_assert!(told.iter().all(|topic| ever.contains(topic) && is_match(&topic)));
    }
}

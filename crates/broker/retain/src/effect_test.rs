//! The bytes of commands, records and keys, as `docs/formats/retain.md` has them.

use std::collections::BTreeSet;

use proptest::{collection::vec, option, prelude::*};
use ratatosk_clock::Timestamp;
use ratatosk_codec::Qos;
use ratatosk_contract::PublisherId;
use ratatosk_engine::{KEY_BYTES_MAX, wire::Malformed};

use crate::{
    effect::{Command, Draft, Effect},
    schema::{
        message::{Record, TENANT_BYTES_MAX, TopicHash, key, keys_of, parse_key},
        stamp::Stamp,
    },
};

/// Version, QoS 1 with a deadline, publisher, accepted, deadline, topic, properties, payload.
const RECORD: &[u8] = b"\x01\x05\
    \x08\x07\x06\x05\x04\x03\x02\x01\
    \xe8\x07\
    \xd0\x0f\
    \x03a/b\
    \x02\x01\x01\
    hello";

/// Version, tenant; put with a record of 26 bytes; removed.
const COMMAND: &[u8] = b"\x01\x04acme\
    \x01\x1a\x01\x05\x08\x07\x06\x05\x04\x03\x02\x01\xe8\x07\xd0\x0f\x03a/b\x02\x01\x01hello\
    \x02\xca\x97\x81\x12\xca\x1b\xbd\xca\xfa\xc2\x31\xb3\x9a\x23\xdc\x4d";

/// The same record with a stamp behind its flags.
const STAMPED: &[u8] = b"\x02\x05\
    \xd7\x0d\x32\x59\xe4\xe1\xcb\x63\
    \x08\x07\x06\x05\x04\x03\x02\x01\
    \xe8\x07\
    \xd0\x0f\
    \x03a/b\
    \x02\x01\x01\
    hello";

/// Version, tenant; cleared with a stamp and the topic; ended with the topic and a stamp, and without one.
const OVER: &[u8] = b"\x01\x04acme\
    \x03\xd7\x0d\x32\x59\xe4\xe1\xcb\x63\x03a/b\
    \x04\xca\x97\x81\x12\xca\x1b\xbd\xca\xfa\xc2\x31\xb3\x9a\x23\xdc\x4d\
    \xd7\x0d\x32\x59\xe4\xe1\xcb\x63\
    \x04\xca\x97\x81\x12\xca\x1b\xbd\xca\xfa\xc2\x31\xb3\x9a\x23\xdc\x4d\
    \0\0\0\0\0\0\0\0";

/// Tenant, its end, the beginning of the SHA-256 of `a`.
const KEY: &[u8] = b"acme\xff\xca\x97\x81\x12\xca\x1b\xbd\xca\xfa\xc2\x31\xb3\x9a\x23\xdc\x4d";

fn stamp() -> Stamp {
    Stamp::of(7, 1)
}

fn golden() -> Record<'static> {
    Record {
        stamp: None,
        topic: "a/b",
        payload: b"hello",
        properties: b"\x01\x01",
        qos: Qos::AtLeastOnce,
        publisher: PublisherId(0x0102_0304_0506_0708),
        accepted: Timestamp::from_millis(1_000),
        deadline: Some(Timestamp::from_millis(2_000)),
    }
}

/// RET-006: what was written once is read for ever.
#[test]
fn the_bytes_are_those_of_the_specification() {
    assert_eq!(key("acme", TopicHash::of("a")), KEY);
    assert_eq!(parse_key(KEY), Ok(("acme", TopicHash::of("a"))));
    assert_eq!(Record::decode(RECORD), Ok(golden()));
    let draft = Draft::of("acme").put(&golden()).removed(TopicHash::of("a"));
    assert_eq!(draft.finish(), COMMAND);
    let effects =
        vec![Effect::Put { record: golden(), value: RECORD }, Effect::Removed(TopicHash::of("a"))];
    assert_eq!(Command::decode(COMMAND), Ok(Command { tenant: "acme", effects }));
}

/// RET-006: what several nodes write.
#[test]
fn the_bytes_of_stamped_changes_are_those_of_the_specification() {
    let stamped = Record { stamp: Some(stamp()), ..golden() };
    let mut bytes = Vec::new();
    stamped.put(&mut bytes);
    assert_eq!(bytes[1..], *STAMPED, "{}", bytes[1..].escape_ascii());
    assert_eq!(Record::decode(STAMPED), Ok(stamped));
    let topic = TopicHash::of("a");
    let draft = Draft::of("acme").cleared("a/b", stamp()).ended(topic, Some(stamp()));
    assert_eq!(draft.ended(topic, None).finish(), OVER);
    let effects = vec![
        Effect::Cleared { topic: "a/b", stamp: stamp() },
        Effect::Ended { topic, stamp: Some(stamp()) },
        Effect::Ended { topic, stamp: None },
    ];
    assert_eq!(Command::decode(OVER), Ok(Command { tenant: "acme", effects }));
}

/// RET-004: no two changes of a process have the same stamp.
#[test]
fn stamps_differ() {
    let stamps: std::collections::HashSet<_> = (0..10_000)
        .flat_map(|number| [3, u64::MAX].map(|origin| Stamp::of(origin, number)))
        .collect();
    assert_eq!(stamps.len(), 20_000);
}

#[test]
fn what_has_another_form_is_refused() {
    let check = |command: &[u8]| {
        assert_eq!(Command::decode(command), Err(Malformed), "{}", command.escape_ascii());
    };
    check(b"");
    check(b"\x02\x01t\x02___hash of topic");
    check(b"\x01\x01t");
    check(b"\x01\x01\xff\x02___hash of topic");
    check(b"\x01\x01t\x05___hash of topic");
    check(b"\x01\x01t\x03\0\0\0\0\0\0\0\0\x01a");
    check(b"\x01\x01t\x03__stamp_\x01");
    check(b"\x01\x01t\x04___hash of topic_stamp_");
    check(b"\x01\x01t\x02___hash of topi");
    check(b"\x01\x01t\x01\xff\xff\xff\xff\x0f");
    assert!(Command::decode(b"\x01\x01t\x02___hash of topic").is_ok());
    for (at, byte) in [(0, 3), (1, 0x03), (1, 0x08), (14, 0x7f), (15, 0xff)] {
        let mut record = RECORD.to_vec();
        record[at] = byte;
        assert_eq!(Record::decode(&record), Err(Malformed), "byte {at} is {byte}");
    }
    let unstamped = [&STAMPED[..2], &[0; 8], &STAMPED[10..]].concat();
    assert_eq!(Record::decode(&unstamped), Err(Malformed));
    let without_payload = &RECORD[..RECORD.len() - 5];
    assert_eq!(Record::decode(without_payload), Err(Malformed));
}

/// DUR-002: a topic may be as long as a key, and a tenant nearly so.
#[test]
fn a_key_is_short_however_long_the_topic() {
    let longest = "t".repeat(TENANT_BYTES_MAX);
    let topic = TopicHash::of(&"x".repeat(65_535));
    assert_eq!(key(&longest, topic).len(), KEY_BYTES_MAX);
    assert_eq!(key("t", topic).len(), 18);
    let command = Draft::of(&longest).removed(topic).finish();
    assert!(Command::decode(&command).is_ok());
}

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..20).prop_map(String::from_iter)
}

type Parts = (String, Vec<u8>, Vec<u8>, u8, (u64, Option<u64>), u64, Option<u64>);

fn parts() -> impl Strategy<Value = Parts> {
    let (payload, properties) = (vec(any::<u8>(), 1..300), vec(any::<u8>(), 0..40));
    let publisher = (any::<u64>(), option::of(any::<u64>()));
    (text(), payload, properties, 0..3_u8, publisher, any::<u64>(), option::of(any::<u64>()))
}

fn record((topic, payload, properties, qos, publisher, accepted, deadline): &Parts) -> Record<'_> {
    let (publisher, number) = publisher;
    Record {
        stamp: number.map(|number| Stamp::of(1, number)),
        topic,
        payload,
        properties,
        qos: Qos::try_from(*qos).expect("below 3"),
        publisher: PublisherId(*publisher),
        accepted: Timestamp::from_millis(*accepted),
        deadline: deadline.map(Timestamp::from_millis),
    }
}

proptest! {
    #[test]
    fn a_command_is_read_as_it_was_written(
        tenant in text(),
        effects in vec(
            prop_oneof![parts().prop_map(Ok), (text(), 0..4_u64).prop_map(Err)],
            1..5,
        ),
    ) {
        let draft = effects.iter().fold(Draft::of(&tenant), |draft, effect| match effect {
            Ok(parts) => draft.put(&record(parts)),
            Err((topic, 0)) => draft.removed(TopicHash::of(topic)),
            Err((topic, 1)) => draft.ended(TopicHash::of(topic), None),
            Err((topic, 2)) => draft.ended(TopicHash::of(topic), Some(stamp())),
            Err((topic, _)) => draft.cleared(topic, stamp()),
        });
        let bytes = draft.finish();
        let command = Command::decode(&bytes).expect("it was written");
        prop_assert_eq!(command.tenant, &tenant);
        prop_assert_eq!(command.effects.len(), effects.len());
        let again = command.effects.iter().fold(Draft::of(&tenant), Draft::effect);
        prop_assert_eq!(again.finish(), &bytes);
        for (read, effect) in command.effects.iter().zip(&effects) {
            match (read, effect) {
                (Effect::Put { record: read, value }, Ok(parts)) => {
                    prop_assert_eq!(read, &record(parts));
                    prop_assert_eq!(Record::decode(value), Ok(record(parts)));
                }
                (Effect::Removed(read), Err((topic, 0))) => {
                    prop_assert_eq!(*read, TopicHash::of(topic));
                }
                (Effect::Ended { topic: read, stamp: held }, Err((topic, kind @ (1 | 2)))) => {
                    prop_assert_eq!(*read, TopicHash::of(topic));
                    prop_assert_eq!(*held, (*kind == 2).then(stamp));
                }
                (Effect::Cleared { topic: read, stamp: held }, Err((topic, 3))) => {
                    prop_assert_eq!((*read, *held), (&topic[..], stamp()));
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    /// A cut inside an effect is noticed; one between two leaves those before.
    #[test]
    fn what_was_cut_is_refused(parts in parts(), cut in any::<prop::sample::Index>()) {
        let bytes = Draft::of("acme").put(&record(&parts)).finish();
        prop_assert_eq!(Command::decode(&bytes[..cut.index(bytes.len())]), Err(Malformed));
    }

    /// RET-006: wherever a range is split, the keys of a tenant are neighbours.
    #[test]
    fn the_keys_of_a_tenant_are_neighbours(
        tenants in prop::collection::btree_set(text(), 1..6),
        topics in vec(text(), 1..6),
    ) {
        let mut keys = BTreeSet::new();
        for tenant in &tenants {
            keys.extend(topics.iter().map(|topic| key(tenant, TopicHash::of(topic))));
        }
        let mut seen = BTreeSet::new();
        let mut last = None;
        for key in &keys {
            let (tenant, _) = parse_key(key).expect("it was written");
            prop_assert!(last == Some(tenant) || seen.insert(tenant), "{:?} comes twice", tenant);
            last = Some(tenant);
        }
        for tenant in &tenants {
            let own = keys_of(tenant);
            let others = keys.iter().filter(|key| own.contains(key));
            let count = others.filter(|key| parse_key(key).unwrap().0 != tenant).count();
            prop_assert_eq!(count, 0);
        }
    }
}

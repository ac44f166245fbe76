//! The bytes of commands, records and keys, as `docs/formats/dist.md` has them.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};
use ratatosk_codec::{Qos, RetainHandling, SubscriptionOptions};
use ratatosk_contract::inbox::InboxId;
use ratatosk_engine::{KEY_BYTES_MAX, KeyRange, wire::Malformed};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{
    effect::{Command, Draft, Effect, Name},
    schema::{Kept, Stored, TENANT_BYTES_MAX, decode, key, member_inbox, record},
};

const PLAIN_KEY: &[u8] = b"acme\xffa\0+\0\xff\x01\0\0\0\0\0\0\0\xc1";
const MEMBER_KEY: &[u8] = b"acme\xffa\0\xff\x02g\xff\0\0\0\0\0\0\0\x07";

/// Version, options, subscription identifier; of a member, its inbox.
const PLAIN_RECORD: &[u8] = b"\x01\x05\xc8\x01";
const MEMBER_RECORD: &[u8] = b"\x01\x01\0\xc1\x01";

/// Version, tenant; added; removed.
const COMMAND: &[u8] = b"\x01\x04acme\
    \x01\x03a/+\0\0\0\0\0\0\0\xc1\x05\xc8\x01\
    \x02\x0a$share/g/a\0\0\0\0\0\0\0\x07\xc1\x01";

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::parse(text, &TopicLimits::PROTOCOL).expect("a filter")
}

fn plain() -> Kept {
    let options =
        SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(Qos::AtLeastOnce) };
    Kept { inbox: InboxId(193), options, subscription_id: Some(200) }
}

fn member() -> Kept {
    let options = SubscriptionOptions::new(Qos::AtLeastOnce);
    Kept { inbox: InboxId(193), options, subscription_id: None }
}

/// DIST-001: what was written once is read for ever.
#[test]
fn the_bytes_are_those_of_the_specification() {
    assert_eq!(key("acme", filter("a/+"), 193), PLAIN_KEY);
    assert_eq!(record(filter("a/+"), &plain()), PLAIN_RECORD);
    let stored = Stored { text: "a/+".into(), member: None, kept: plain() };
    assert_eq!(decode(PLAIN_KEY, PLAIN_RECORD), Ok(("acme", stored)));

    assert_eq!(key("acme", filter("$share/g/a"), 7), MEMBER_KEY);
    assert_eq!(record(filter("$share/g/a"), &member()), MEMBER_RECORD);
    let stored = Stored { text: "$share/g/a".into(), member: Some(7), kept: member() };
    assert_eq!(decode(MEMBER_KEY, MEMBER_RECORD), Ok(("acme", stored)));
    assert_eq!(member_inbox(MEMBER_RECORD), Ok(InboxId(193)));

    let added = Effect::Added { filter: filter("a/+"), member: None, kept: plain() };
    let name = Name { filter: filter("$share/g/a"), member: Some(7), inbox: InboxId(193) };
    let effects = vec![added, Effect::Removed(name)];
    let mut draft = Draft::of("acme");
    effects.iter().for_each(|effect| draft.push(effect));
    assert_eq!(draft.finish(), (PLAIN_KEY.to_vec(), COMMAND.into()));
    assert_eq!(Command::decode(COMMAND), Ok(Command { tenant: "acme", effects }));
}

/// A filter that does not fit into a key: its levels are cut, its text is in the record.
#[test]
fn a_long_filter_is_found_by_its_hash() {
    let level = "x".repeat(40_000);
    let (other, text) = (format!("{level}/a"), format!("{level}/b"));
    let long = key("t", filter(&text), 9);
    assert_eq!(long.len(), 2 + 32_768 + 1 + 16 + 1 + 8);
    assert_eq!(long[2 + 32_768..][..5], [0xfe, 0x11, 0x01, 0x8b, 0x37]);
    assert_ne!(long, key("t", filter(&other), 9));
    let bytes = record(filter(&text), &plain());
    assert_eq!(bytes, [PLAIN_RECORD, text.as_bytes()].concat());
    let kept = Kept { inbox: InboxId(9), ..plain() };
    let stored = Stored { text: text.clone(), member: None, kept };
    assert_eq!(decode(&long, &bytes), Ok(("t", stored)));
    assert_eq!(decode(&long, PLAIN_RECORD), Err(Malformed), "without its text");
    let others = record(filter(&other), &plain());
    assert_eq!(decode(&long, &others), Err(Malformed), "another text");
}

/// DUR-002: whatever a client may send and a tenant may be called that is taken, a key has room.
#[test]
fn the_longest_key_is_not_too_long() {
    let tenant = "t".repeat(TENANT_BYTES_MAX);
    let (group, level) = ("g".repeat(32_760), "x".repeat(65_535));
    for text in [
        level.clone(),
        format!("$oshare/{group}/xxxxxx"),
        format!("$oshare/{group}/xxxxxxx"),
        format!("$share/{group}/{}", "x".repeat(32_000)),
        format!("$share/g/{}", &level[9..]),
        format!("$share/{}/a", "g".repeat(65_000)),
    ] {
        let bytes = key(&tenant, filter(&text), u64::MAX);
        assert!(bytes.len() <= KEY_BYTES_MAX, "{} bytes", bytes.len());
        let record = record(filter(&text), &member());
        assert_eq!(decode(&bytes, &record).expect("it was written").1.text, text);
    }
}

#[test]
fn what_has_another_form_is_refused() {
    let check = |command: &[u8]| {
        assert_eq!(Command::decode(command), Err(Malformed), "{}", command.escape_ascii());
    };
    check(b"");
    check(b"\x02\x01t\x02\x01a________");
    check(b"\x01\x01t");
    check(b"\x01\x01\xff\x02\x01a________");
    check(b"\x01\x01t\x03\x01a________");
    check(b"\x01\x01t\x02\x01a_______");
    check(b"\x01\x01t\x02\x00________");
    check(b"\x01\x01t\x02\x02a+________");
    check(b"\x01\x01t\x02\x0a$share/g/a________");
    check(b"\x01\x01t\x01\x01a________\x03\x00");
    check(b"\x01\x01t\x01\x01a________\x41\x00");
    assert!(Command::decode(b"\x01\x01t\x02\x01a________").is_ok());

    let check = |key: &[u8], record: &[u8]| {
        assert_eq!(decode(key, record), Err(Malformed), "{}", key.escape_ascii());
    };
    check(b"acme\xffa\0+\xff\x01\0\0\0\0\0\0\0\xc1", PLAIN_RECORD);
    check(b"acme\xffa/+\0\xff\x01\0\0\0\0\0\0\0\xc1", PLAIN_RECORD);
    check(b"acme\xffa\0+\0\xfe\x01\0\0\0\0\0\0\0\xc1", PLAIN_RECORD);
    check(b"acme\xffa\0+\0\xff\x04\0\0\0\0\0\0\0\xc1", PLAIN_RECORD);
    check(b"acme\xff\xff\x01\0\0\0\0\0\0\0\xc1", PLAIN_RECORD);
    check(b"acme\xff$share\0g\0a\0\xff\x01\0\0\0\0\0\0\0\xc1", PLAIN_RECORD);
    check(b"acme\xffa\0\xff\x02\xff\0\0\0\0\0\0\0\x07", MEMBER_RECORD);
    check(b"acme\xffa\0\xff\x02g\0\0\0\0\0\0\0\x07", MEMBER_RECORD);
    check(PLAIN_KEY, MEMBER_RECORD);
    check(PLAIN_KEY, &PLAIN_RECORD[..3]);
    check(PLAIN_KEY, b"\x02\x05\xc8\x01");
    check(MEMBER_KEY, PLAIN_RECORD);
}

fn level() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => vec(prop_oneof!["[a-c]", "[\u{1}!/-9~\u{e9}\u{10ffff}]"], 0..3)
            .prop_map(|parts| parts.concat().replace('/', "")),
        1 => Just("+".to_owned()),
    ]
}

/// Filters with few different levels, some of them shared.
fn text() -> impl Strategy<Value = String> {
    let prefix = prop_oneof![Just(""), Just("$share/g/"), Just("$share/h/"), Just("$oshare/g/")];
    (prefix, vec(level(), 1..4), any::<bool>()).prop_map(|(prefix, levels, has_rest)| {
        let path = levels.join("/") + if has_rest { "/#" } else { "" };
        prefix.to_owned() + if path.is_empty() { "a" } else { &path }
    })
}

fn kept() -> impl Strategy<Value = Kept> {
    (any::<u64>(), any::<u32>(), 0..3_u8, any::<bool>()).prop_map(|(inbox, number, qos, flag)| {
        let options = SubscriptionOptions {
            qos: Qos::try_from(qos).expect("below 3"),
            no_local: flag,
            retain_as_published: !flag,
            retain_handling: RetainHandling::DoNotSend,
        };
        let subscription_id = Some(number).filter(|number| *number != 0);
        Kept { inbox: InboxId(inbox), options, subscription_id }
    })
}

/// Effects on routes; the number of a member is drawn as well.
fn effect<'a>(text: &'a str, kept: Kept, number: u64, is_added: bool) -> Effect<'a> {
    let filter = filter(text);
    let member = filter.share().map(|_| number);
    match is_added {
        true => Effect::Added { filter, member, kept },
        false => Effect::Removed(Name { filter, member, inbox: kept.inbox }),
    }
}

proptest! {
    #[test]
    fn a_command_is_read_as_it_was_written(
        tenant in "[a-c\u{e9}]{0,5}",
        parts in vec((text(), kept(), any::<u64>(), any::<bool>()), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let parts = parts.iter().map(|(text, kept, number, is)| effect(text, *kept, *number, *is));
        let effects: Vec<_> = parts.collect();
        let mut draft = Draft::of(&tenant);
        effects.iter().for_each(|effect| draft.push(effect));
        let (first, bytes) = draft.finish();
        prop_assert_eq!(first, effects[0].key(&tenant));
        let decoded = Command::decode(&bytes).expect("it was written");
        prop_assert_eq!((decoded.tenant, &decoded.effects), (&*tenant, &effects));
        // A cut inside an effect is noticed; one between two leaves those before.
        if let Ok(decoded) = Command::decode(&bytes[..cut.index(bytes.len())]) {
            prop_assert!(effects.starts_with(&decoded.effects));
        }
    }

    #[test]
    fn a_route_is_read_as_it_was_written(
        tenant in "[a-c\u{e9}]{0,5}",
        text in text(),
        kept in kept(),
        number: u64,
    ) {
        let filter = filter(&text);
        let number = if filter.share().is_some() { number } else { kept.inbox.0 };
        let member = filter.share().map(|_| number);
        let (key, bytes) = (key(&tenant, filter, number), record(filter, &kept));
        let stored = Stored { text: text.clone(), member, kept };
        prop_assert_eq!(decode(&key, &bytes), Ok((&*tenant, stored)));
    }

    /// Wherever ranges end, the routes under a prefix of levels are neighbours, whoever
    /// receives.
    #[test]
    fn routes_under_a_prefix_of_levels_are_neighbours(
        tenants in prop::collection::btree_set("[ab]{0,3}", 1..4),
        texts in prop::collection::btree_set(text(), 1..12),
    ) {
        let mut keys = BTreeSet::new();
        for tenant in &tenants {
            for text in &texts {
                keys.insert((key(tenant, filter(text), 7), tenant, text));
            }
        }
        prop_assert_eq!(keys.len(), tenants.len() * texts.len());
        for text in &texts {
            let levels: Vec<_> = filter(text).levels().collect();
            for count in 0..=levels.len() {
                let mut prefix = b"ab\xff".to_vec();
                levels[..count].iter().for_each(|level| {
                    prefix.extend_from_slice(level.as_bytes());
                    prefix.push(0);
                });
                let range = KeyRange::prefix(&prefix);
                for (key, tenant, text) in &keys {
                    let is_below = filter(text).levels().take(count).eq(levels[..count].iter().copied());
                    prop_assert_eq!(range.contains(key), *tenant == "ab" && is_below);
                }
            }
        }
        // They are in the order of tenants and levels; what goes on stands before what ends.
        let in_order: Vec<_> = keys.iter().map(|(_, tenant, _)| *tenant).collect();
        prop_assert!(in_order.chunk_by(|one, two| one == two).count() == tenants.len());
    }
}

//! The bytes of `docs/formats/inbox.md`, written out, and that everything decodes to what it was.

use std::path::Path;

use proptest::prelude::*;
use ratatosk_clock::Timestamp;
use ratatosk_codec::{PacketId, Qos, SubscriptionOptions};
use ratatosk_contract::{
    ClientId, PublisherId, SessionIdentity, TenantId,
    inbox::{InboxId, QueueLimits},
    serving::{Choice, GroupMark},
};
use smallvec::smallvec;

use crate::{
    effect::{self, Effect, End, Target, VERSION},
    fuzzing::effect_any,
    partition::PARTITION_COUNT,
    schema::{
        BegunRecord, EntryRecord, Head, Key, MessageRecord, NoteRecord, Place, Position,
        SessionRecord, SubscriptionRecord, TurnRecord, WillRecord,
    },
};

const INBOX: InboxId = InboxId(0x141);

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn identity() -> SessionIdentity {
    SessionIdentity {
        tenant: TenantId::new("t"),
        user: Some("u".into()),
        client: ClientId::new("c1"),
    }
}

fn head() -> Head<'static> {
    let origin = Some("$share/g/a");
    Head { is_qos2: true, retain: true, subscription_id: Some(200), origin }
}

const BEGUN: BegunRecord = BegunRecord { number: 300, mark: 7, choices: Vec::new() };

/// With a member that was chosen when the message was brought again.
fn begun_for() -> BegunRecord {
    let choice = Choice { group: GroupMark(9), inbox: INBOX, number: 302 };
    BegunRecord { choices: vec![choice], ..BEGUN }
}

const NOTE: NoteRecord = NoteRecord { low: 5, since_ms: 128 };

const PLAIN: Head<'static> =
    Head { is_qos2: false, retain: false, subscription_id: None, origin: None };

fn message() -> MessageRecord<'static> {
    MessageRecord {
        topic: "a/b",
        payload: b"pay",
        properties: b"\x03\x00\x01x",
        qos: Qos::ExactlyOnce,
        retain: true,
        deadline_ms: Some(300),
        publisher: Some(PublisherId(7)),
    }
}

fn session() -> SessionRecord {
    SessionRecord {
        identity: identity(),
        version: 2,
        expiry_s: Some(100),
        limits: QueueLimits {
            messages_max: 1_000,
            filters_max: 10,
            members_max: 5,
            qos0_drop_oldest: true,
            qos0_when_offline: false,
        },
        detached: Some(Timestamp::from_millis(128)),
    }
}

fn will() -> WillRecord<'static> {
    WillRecord {
        identity: identity(),
        session: Some(INBOX),
        delay_s: 5,
        due: Some(Timestamp::from_millis(128)),
        message: b"\x00\x01wx",
    }
}

/// Compares with the bytes of the document, and with the seed of that name, which is its decoder's
/// number and these bytes.
#[track_caller]
fn check(name: &str, selector: u8, bytes: &[u8], golden: &[u8]) {
    assert_eq!(bytes, golden, "{name}: {bytes:02x?}");
    let seed = [&[selector], golden].concat();
    effect_any(&seed);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus/inbox_effect");
    let stored = std::fs::read(corpus.join(name)).unwrap_or_default();
    assert_eq!(stored, seed, "the corpus holds {name}: {seed:02x?}");
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    bytes
}

#[test]
fn keys_are_as_documented() {
    let check = |name: &str, place, golden: &[u8]| {
        let golden = [&b"\x04\0\0\0\0\0\0\x05"[..], golden].concat();
        check(name, 1, &Key::new(INBOX, place).to_bytes(), &golden);
    };
    check("key_session", Place::Session, b"\x01");
    check("key_subscription", Place::Subscription(9), b"\x02\0\0\0\x09");
    check("key_inbound", Place::Inbound(id(0x102)), b"\x03\x01\x02");
    check("key_position", Place::Position, b"\x04");
    check("key_entry", Place::Entry(3), b"\x05\0\0\0\0\0\0\0\x03");
    check("key_body", Place::Body(3), b"\x06\0\0\0\0\0\0\0\x03");
    check("key_will", Place::Will, b"\x07");
    check("key_mark", Place::Mark, b"\x08");
    check("key_begun", Place::Begun(id(0x102)), b"\x09\x01\x02");
    check("key_turn", Place::Turn, b"\x0a");
    let note = Place::Note { publisher: INBOX, number: 3 };
    check("key_note", note, b"\x0b\0\0\0\0\0\0\x01\x41\0\0\0\0\0\0\0\x03");
}

#[test]
fn records_are_as_documented() {
    let bytes = encoded(|into| session().encode(into));
    let golden = b"\x0f\x01t\x01u\x02c1\x02\xe8\x07\x0a\x05\x64\x80\x01";
    check("session", 2, &bytes, golden);
    let options =
        SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(Qos::AtLeastOnce) };
    let subscription = SubscriptionRecord { filter: "a/+", options, subscription_id: Some(200) };
    check("subscription", 3, &encoded(|into| subscription.encode(into)), b"\x05\xc8\x01a/+");
    let bytes = encoded(|into| message().encode(into));
    let golden = b"\x3e\x03a/b\xac\x02\0\0\0\0\0\0\0\x07\x04\x03\0\x01xpay";
    check("message", 5, &bytes, golden);
    let here = EntryRecord::Here { head: head(), message: b"\x01\x01ap" };
    let golden = b"\x0f\xc8\x01\x0a$share/g/a\x01\x01ap";
    check("entry", 4, &encoded(|into| here.encode(into)), golden);
    let elsewhere = EntryRecord::Elsewhere { head: PLAIN, inbox: INBOX, sequence: 3 };
    check("entry_elsewhere", 4, &encoded(|into| elsewhere.encode(into)), b"\x10\xc1\x02\x03");
    check("entry_received", 4, &encoded(|into| EntryRecord::Received.encode(into)), b"\x20");
    let position = Position { begun: 5, sent: 7, last: 300 };
    check("position", 7, &encoded(|into| position.encode(into)), b"\xac\x02\xa5\x02\x02");
    let golden = b"\x07\x01t\x01u\x02c1\x05\xc1\x02\x80\x01\x00\x01wx";
    check("will", 6, &encoded(|into| will().encode(into)), golden);
    let golden = b"\xac\x02\0\0\0\0\0\0\0\x07";
    check("begun", 8, &encoded(|into| BEGUN.encode(into)), golden);
    let golden = b"\xac\x02\0\0\0\0\0\0\0\x07\x01\0\0\0\0\0\0\0\x09\xc1\x02\x02";
    check("begun_for", 8, &encoded(|into| begun_for().encode(into)), golden);
    check("turn", 9, &encoded(|into| TurnRecord(300).encode(into)), b"\xac\x02");
    check("note", 10, &encoded(|into| NOTE.encode(into)), b"\x05\x80\x01");
}

#[test]
fn effects_are_as_documented() {
    let check = |name: &str, effect: &Effect<'_>, golden: &[u8]| {
        let mut bytes = vec![VERSION];
        effect.encode(&mut bytes);
        assert_eq!(effect::decode(&bytes).as_deref(), Ok(std::slice::from_ref(effect)), "{name}");
        check(name, 0, &bytes, &[b"\x01", golden].concat());
    };
    let (inbox, position) = (INBOX, Position { begun: 8, sent: 9, last: 12 });
    check("effect_session", &Effect::Session { inbox, record: b"r" }, b"\x01\xc1\x02\x01r");
    let (ordinals, inbound) = (vec![0, 300], vec![id(7)]);
    let end = End { inbox, first: 5, count: 2, ordinals, inbound };
    check("effect_end", &Effect::End(end), b"\x02\xc1\x02\x05\x02\x02\0\xac\x02\x01\x07");
    let subscription = Effect::Subscription { inbox, ordinal: 3, record: b"r" };
    check("effect_subscription", &subscription, b"\x03\xc1\x02\x03\x01r");
    check("effect_unsubscribed", &Effect::Unsubscribed { inbox, ordinal: 3 }, b"\x04\xc1\x02\x03");
    let entry = Effect::Entry { inbox, sequence: 9, record: b"\0\x01\x01ap" };
    check("effect_entry", &entry, b"\x05\xc1\x02\x09\x05\0\x01\x01ap");
    let targets = vec![
        Target { inbox, sequence: 9, head: PLAIN },
        Target { inbox: InboxId(66), sequence: 1, head: Head { is_qos2: true, ..PLAIN } },
    ];
    let fan = Effect::Fan { targets, message: b"\x01\x01ap" };
    check("effect_fan", &fan, b"\x06\x02\xc1\x02\x09\0\x42\x01\x01\x04\x01\x01ap");
    let removed = Effect::Removed { inbox, sequences: smallvec![5, 8], position };
    check("effect_removed", &removed, b"\x07\xc1\x02\x02\x05\x03\x04\x03\x01");
    check("effect_position", &Effect::Position { inbox, position }, b"\x08\xc1\x02\x0c\x03\x01");
    check("effect_received", &Effect::Received { inbox, sequence: 9 }, b"\x09\xc1\x02\x09");
    let packet_id = id(300);
    check("effect_accepted", &Effect::Accepted { inbox, packet_id }, b"\x0a\xc1\x02\xac\x02");
    check("effect_released", &Effect::Released { inbox, packet_id }, b"\x0b\xc1\x02\xac\x02");
    check("effect_will", &Effect::Will { will: inbox, record: b"r" }, b"\x0c\xc1\x02\x01r");
    check("effect_will_end", &Effect::WillEnd { will: inbox }, b"\x0d\xc1\x02");
    check("effect_sweep", &Effect::Sweep { key: b"k" }, b"\x0e\x01k");
    let begun = Effect::Begun { inbox, packet_id, record: BEGUN, turn: 300 };
    check("effect_begun", &begun, b"\x0f\xc1\x02\xac\x02\xac\x02\0\0\0\0\0\0\0\x07");
    let begun = Effect::Begun { inbox, packet_id, record: begun_for(), turn: 303 };
    let golden =
        b"\x13\xc1\x02\xac\x02\xac\x02\0\0\0\0\0\0\0\x07\x01\x01\0\0\0\0\0\0\0\x09\xc1\x02\x02";
    check("effect_begun_for", &begun, golden);
    let ceased = Effect::Ceased { inbox, packet_ids: vec![packet_id], is_end: true };
    check("effect_ceased", &ceased, b"\x10\xc1\x02\x01\x01\xac\x02");
    let (inbox, publisher) = (InboxId(3), INBOX);
    let noted = Effect::Noted { inbox, publisher, number: 9, record: NOTE };
    check("effect_noted", &noted, b"\x11\x03\xc1\x02\x09\x05\x80\x01");
    let unnoted = Effect::Unnoted { inbox, publisher, numbers: vec![4, 8] };
    check("effect_unnoted", &unnoted, b"\x12\x03\xc1\x02\x02\x04\x08");
}

#[test]
fn what_is_cut_or_of_another_version_is_refused() {
    let record: &[u8] = b"12345";
    let mut bytes = vec![VERSION];
    Effect::Session { inbox: INBOX, record }.encode(&mut bytes);
    for len in 2..bytes.len() {
        assert!(effect::decode(&bytes[..len]).is_err(), "{len}");
    }
    bytes[0] = VERSION + 1;
    assert!(effect::decode(&bytes).is_err());
    assert!(effect::decode(b"").is_err());
    let many = b"\x01\x06\xff\xff\xff\xff\xff\xff\xff\xff\x7f";
    assert!(effect::decode(many).is_err(), "a count is not believed");
}

fn text() -> impl Strategy<Value = String> {
    "[a-z/+#é]{0,20}"
}

fn session_any() -> impl Strategy<Value = SessionRecord> {
    let names = (text(), prop::option::of(text()), text());
    let numbers = any::<(u64, Option<u32>, u32, u32, u32, bool, bool, Option<u64>)>();
    (names, numbers).prop_map(|((tenant, user, client), numbers)| SessionRecord {
        identity: SessionIdentity {
            tenant: TenantId::new(&tenant),
            user: user.map(Into::into),
            client: ClientId::new(&client),
        },
        version: numbers.0,
        expiry_s: numbers.1,
        limits: QueueLimits {
            messages_max: numbers.2,
            filters_max: numbers.3,
            members_max: numbers.4,
            qos0_drop_oldest: numbers.5,
            qos0_when_offline: numbers.6,
        },
        detached: numbers.7.map(Timestamp::from_millis),
    })
}

proptest! {
    #[test]
    fn sessions_and_wills_are_read_as_written(
        session in session_any(),
        delay_s: u32,
        numbers: (Option<u64>, Option<u64>),
        message: Vec<u8>,
    ) {
        let bytes = encoded(|into| session.encode(into));
        prop_assert_eq!(SessionRecord::decode(&bytes), Ok(session.clone()));
        let will = WillRecord {
            identity: session.identity,
            session: numbers.0.map(InboxId),
            delay_s,
            due: numbers.1.map(Timestamp::from_millis),
            message: &message,
        };
        let bytes = encoded(|into| will.encode(into));
        prop_assert_eq!(WillRecord::decode(&bytes), Ok(will));
    }

    #[test]
    fn messages_and_entries_are_read_as_written(
        texts in (text(), prop::option::of(text())),
        payload: Vec<u8>,
        properties: Vec<u8>,
        numbers: (Option<u64>, Option<u64>, Option<u32>, u64, u64),
        bits: (bool, bool, bool),
        qos in 0..3_u8,
    ) {
        let message = MessageRecord {
            topic: &texts.0,
            payload: &payload,
            properties: &properties,
            qos: Qos::try_from(qos).unwrap(),
            retain: bits.0,
            deadline_ms: numbers.0,
            publisher: numbers.1.map(PublisherId),
        };
        let bytes = encoded(|into| message.encode(into));
        prop_assert_eq!(MessageRecord::decode(&bytes), Ok(message));
        let head = Head {
            is_qos2: bits.1,
            retain: bits.2,
            subscription_id: numbers.2.filter(|number| *number != 0),
            origin: texts.1.as_deref(),
        };
        for entry in [
            EntryRecord::Here { head, message: &bytes },
            EntryRecord::Elsewhere { head, inbox: InboxId(numbers.3), sequence: numbers.4 },
        ] {
            let bytes = encoded(|into| entry.encode(into));
            prop_assert_eq!(EntryRecord::decode(&bytes), Ok(entry));
        }
    }

    #[test]
    fn keys_are_ordered_as_their_bytes(
        one: (u64, u8, u64, u16),
        other: (u64, u8, u64, u16),
    ) {
        let key = |(inbox, kind, number, packet_id): (u64, u8, u64, u16)| {
            let place = match kind % 11 {
                0 => Place::Session,
                1 => Place::Subscription(u32::from(packet_id)),
                2 => Place::Inbound(id(packet_id.max(1))),
                3 => Place::Position,
                4 => Place::Entry(number),
                5 => Place::Body(number),
                6 => Place::Will,
                7 => Place::Mark,
                8 => Place::Begun(id(packet_id.max(1))),
                9 => Place::Turn,
                _ => Place::Note { publisher: InboxId(packet_id.into()), number },
            };
            Key::new(InboxId(inbox % 200), place)
        };
        let (one, other) = (key(one), key(other));
        prop_assert_eq!(Key::parse(&one.to_bytes()), Ok(one));
        let order = |key: Key| (key.inbox.0 % PARTITION_COUNT as u64, key.inbox, key.place);
        let expected = order(one).cmp(&order(other));
        prop_assert_eq!(one.to_bytes().cmp(&other.to_bytes()), expected);
    }

    #[test]
    fn commands_are_read_as_written(
        numbers in prop::collection::vec(any::<u32>(), 1..20),
        behind: (u32, u32, u32),
        inbox: u64,
    ) {
        let inbox = InboxId(inbox);
        let mut sequences: Vec<u64> = numbers.iter().map(|number| u64::from(*number)).collect();
        sequences.sort_unstable();
        sequences.dedup();
        let last = sequences.last().unwrap() + u64::from(behind.0);
        let sent = last.saturating_sub(behind.1.into());
        let position = Position { begun: sent.saturating_sub(behind.2.into()), sent, last };
        let target = |sequence: &u64| Target { inbox, sequence: *sequence, head: head() };
        let noted = sequences.clone();
        let ids = numbers.iter().filter_map(|number| PacketId::new(number.to_le_bytes()[0].into()));
        let effects = vec![
            Effect::Fan { targets: sequences.iter().map(target).collect(), message: b"m" },
            Effect::Removed { inbox, sequences: sequences.into(), position },
            Effect::End(End {
                inbox,
                first: sent,
                count: behind.0,
                ordinals: numbers.clone(),
                inbound: ids.clone().collect(),
            }),
            Effect::Position { inbox, position },
            Effect::Ceased { inbox, packet_ids: ids.collect(), is_end: behind.0 % 2 == 0 },
            Effect::Unnoted { inbox, publisher: inbox, numbers: noted },
        ];
        let mut bytes = vec![VERSION];
        effects.iter().for_each(|effect| effect.encode(&mut bytes));
        prop_assert_eq!(effect::decode(&bytes), Ok(effects));
    }

    #[test]
    fn what_decodes_has_one_form(data: Vec<u8>) {
        effect_any(&data);
    }
}

//! Messages arrive with all that they had, and no bytes are worse than refused.

use proptest::prelude::*;
use ratatosk_contract::TenantId;

use super::*;

const NOW: Instant = Instant::from_millis(5_000);

/// A text, and a content type, in the bytes of MQTT 5.0.
const PROPERTIES: &[u8] = b"\x01\x01\x03\x00\x04text\x26\x00\x01a\x00\x01b";

#[derive(Clone, Debug)]
struct Sketch {
    tenant: String,
    member: Option<(usize, bool, u64, u64)>,
    topic: usize,
    has_properties: bool,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
    publisher: u64,
    remaining_ms: Option<u64>,
}

const TOPICS: [&str; 3] = ["a", "a/b/c", "/\u{e9}"];
const FILTERS: [&str; 3] = ["a/#", "+", "a/b/c"];

fn sketch() -> impl Strategy<Value = Sketch> {
    let member = prop::option::of((0..FILTERS.len(), any::<bool>(), any::<u64>(), any::<u64>()));
    let payload = prop::collection::vec(any::<u8>(), 0..300);
    let rest = (0..3_u8, any::<bool>(), any::<u64>(), prop::option::of(0..1_u64 << 40));
    (".{0,20}", member, 0..TOPICS.len(), any::<bool>(), payload, rest).prop_map(
        |(tenant, member, topic, has_properties, payload, rest)| {
            let (qos, retain, publisher, remaining_ms) = rest;
            Sketch {
                tenant,
                member,
                topic,
                has_properties,
                payload,
                qos,
                retain,
                publisher,
                remaining_ms,
            }
        },
    )
}

impl Sketch {
    fn to(&self) -> Addressee<'_> {
        self.member.map_or(Addressee::Sessions, |(filter, is_ordered, id, incarnation)| {
            Addressee::Member { filter: FILTERS[filter], group: "g", is_ordered, id, incarnation }
        })
    }

    fn message(&self) -> Message<'_> {
        Message {
            topic: TOPICS[self.topic],
            payload: &self.payload,
            shared: None,
            properties: if self.has_properties { PROPERTIES } else { &[] },
            qos: Qos::try_from(self.qos).unwrap(),
            retain: self.retain,
            publisher: PublisherId(self.publisher),
            accepted: NOW,
            deadline: self.remaining_ms.map(|left| NOW + Duration::from_millis(left)),
        }
    }
}

proptest! {
    /// What is left of a message's life counts on from when it came.
    #[test]
    fn messages_arrive_with_all_that_they_had(all in prop::collection::vec(sketch(), 0..8)) {
        let mut bytes = Vec::new();
        for sketch in &all {
            let tenant = TenantId::new(&sketch.tenant);
            let dispatch = Dispatch { tenant: &tenant, to: sketch.to(), message: sketch.message() };
            put(&mut bytes, &dispatch, NOW);
        }
        let data = Bytes::from(bytes);
        let letters = take_all(&data).unwrap();
        prop_assert_eq!(letters.len(), all.len());
        for (letter, sketch) in letters.iter().zip(&all) {
            prop_assert_eq!(letter.tenant, &sketch.tenant);
            prop_assert_eq!(letter.to, sketch.to());
            let (came, sent) = (letter.message(NOW), sketch.message());
            prop_assert_eq!(came.to_stored(), sent.to_stored());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(take_receipt(&bytes, 9));
        drop(take_all(&Bytes::from(bytes)));
    }

    #[test]
    fn receipts_say_which_messages_were_not_taken(
        kinds in prop::collection::vec(0..3_u8, 0..30),
    ) {
        let fates = [Fate::Taken, Fate::Gone, Fate::Full];
        let fates: Vec<Fate> = kinds.iter().map(|kind| fates[usize::from(*kind)]).collect();
        let mut bytes = Vec::new();
        put_receipt(&mut bytes, &fates);
        let expected: Vec<(usize, Fate)> =
            fates.iter().copied().enumerate().filter(|(_, fate)| *fate != Fate::Taken).collect();
        prop_assert_eq!(take_receipt(&bytes, fates.len()), Ok(expected));
        prop_assert_eq!(take_receipt(&bytes, fates.len() + 1), Err(Malformed));
    }
}

#[test]
fn what_no_publisher_could_have_sent_is_refused() {
    let tenant = TenantId::new("t");
    let check = |change: fn(&mut Dispatch<'_>)| {
        let sketch = Sketch {
            tenant: "t".to_owned(),
            member: Some((0, false, 1, 1)),
            topic: 0,
            has_properties: false,
            payload: vec![1],
            qos: 1,
            retain: false,
            publisher: 7,
            remaining_ms: None,
        };
        let mut dispatch = Dispatch { tenant: &tenant, to: sketch.to(), message: sketch.message() };
        change(&mut dispatch);
        let mut bytes = Vec::new();
        put(&mut bytes, &dispatch, NOW);
        take_all(&bytes.into()).is_ok()
    };
    assert!(check(|_| {}));
    assert!(!check(|dispatch| dispatch.message.topic = "a/+"));
    assert!(!check(|dispatch| dispatch.message.topic = ""));
    // A topic alias belongs to a connection.
    assert!(!check(|dispatch| dispatch.message.properties = &[0x23, 0, 1]));
    assert!(!check(|dispatch| dispatch.message.properties = &[0x03, 0, 9]));
    assert!(!check(|dispatch| {
        let Addressee::Member { filter, .. } = &mut dispatch.to else { unreachable!() };
        *filter = "a/#/b";
    }));
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let sketch = Sketch {
        tenant: "t".to_owned(),
        member: Some((0, true, 9, 300)),
        topic: 0,
        has_properties: true,
        payload: b"x".to_vec(),
        qos: 1,
        retain: true,
        publisher: 77,
        remaining_ms: Some(1_000),
    };
    let tenant = TenantId::new("t");
    let dispatch = Dispatch { tenant: &tenant, to: sketch.to(), message: sketch.message() };
    let mut bytes = Vec::new();
    put(&mut bytes, &dispatch, NOW);
    let parts: [&[u8]; 10] = [
        b"\x32",
        b"\x3d\x01t",
        b"\x03a/#\x01g",
        b"\0\0\0\0\0\0\0\x09\xac\x02",
        b"\xe8\x07",
        b"\0\0\0\0\0\0\0\x4d",
        b"\x01a",
        b"\x10",
        PROPERTIES,
        b"\x01x",
    ];
    assert_eq!(bytes, parts.concat());
    let mut receipt = Vec::new();
    put_receipt(&mut receipt, &[Fate::Taken, Fate::Gone, Fate::Taken, Fate::Full]);
    assert_eq!(receipt, [4, 1, 1, 2, 2]);
}

//! Bytes of packets: what they are, and what is made of others.

use proptest::prelude::*;
use raft::eraftpb::{ConfState, Entry, Snapshot, SnapshotMetadata};
use ratatosk_store::edition::{Edition, Editions, Supported};

use super::*;

fn message(kind: MessageType, entries: usize) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.to, message.from, message.term, message.log_term) = (1, 2, 3, 4);
    (message.index, message.commit) = (5, 6);
    let entry = |place: usize| Entry {
        term: 3,
        index: place as u64,
        data: vec![7; 3].into(),
        ..Entry::default()
    };
    message.entries = (0..entries).map(entry).collect::<Vec<_>>().into();
    message
}

fn announcement() -> Message {
    let mut message = message(MessageType::MsgSnapshot, 0);
    let (mut snapshot, mut metadata) = (Snapshot::default(), SnapshotMetadata::default());
    (metadata.index, metadata.term) = (9, 3);
    metadata.set_conf_state(ConfState { voters: vec![1, 2], ..ConfState::default() });
    snapshot.set_metadata(metadata);
    snapshot.data = vec![1, 2, 3].into();
    message.set_snapshot(snapshot);
    message
}

fn descriptor() -> Descriptor {
    Descriptor::whole(GroupId(5), "k".to_owned(), 7)
}

fn beat(life: u64) -> Packet {
    Packet::Beat(Beat { life, ..Beat::default() })
}

/// One of each kind and form.
fn all() -> Vec<Packet> {
    let group = GroupId(5);
    let envelope = |message| Envelope { group, message };
    let id = SnapshotId { store: 7, number: 300 };
    let position = Position {
        chunks: 1,
        last_key: Bytes::from_static(b"key"),
        pairs: 2,
        bytes: 3,
        sum: 0xDEAD_BEEF,
    };
    let said = [Said::Arrived, Said::Unknown, Said::Refused, Said::Has(position)];
    let receipt = |said| Packet::Receipt(Receipt { group, id, said });
    let tells = |verdict| Packet::Tells { group, replica: 3, verdict };
    let token = Token { life: 9, asked: Instant::from_nanos(1_000) };
    let loans = [
        Loan::Asks { group, replica: 1, applied: 2, token },
        Loan::Lends { group, replica: 1, index: 2, token },
        Loan::Reached { group, replica: 1, index: 2 },
    ];
    let begin = Parcel::Begin {
        envelope: Box::new(envelope(announcement())),
        head: Bytes::from_static(b"head"),
    };
    let mut all = vec![
        Packet::Raft(envelope(message(MessageType::MsgAppend, 3))),
        Packet::Raft(envelope(message(MessageType::MsgHeartbeat, 0))),
        Packet::Asks(Ask { group, replica: 3, descriptor: None }),
        Packet::Asks(Ask { group, replica: 3, descriptor: Some(Box::new(descriptor())) }),
        Packet::Urges { group, order: b"order".to_vec() },
        beat(u64::MAX),
        Packet::Inquires,
        Packet::Sleep(Sleep { group, replica: 1, term: 2, index: 3 }),
        Packet::Parcel(begin),
        Packet::Parcel(Parcel::Piece { group, id, data: Bytes::from_static(b"piece") }),
    ];
    all.extend([Verdict::Removed, Verdict::Merged, Verdict::Apart].map(tells));
    all.extend(said.map(receipt));
    all.extend(loans.map(Packet::Loan));
    all
}

fn encoded(packets: &[Packet]) -> Bytes {
    let mut bytes = Vec::new();
    packets.iter().for_each(|packet| encode(packet, &mut bytes));
    bytes.into()
}

fn shown(packets: &[Packet]) -> String {
    format!("{packets:?}")
}

#[test]
fn packets_are_read_as_they_were_written() {
    let all = all();
    let decoded = decode(&encoded(&all)).expect("well formed");
    assert_eq!((shown(&decoded.packets), decoded.unknown), (shown(&all), 0));
    for packet in all {
        let written = encoded(std::slice::from_ref(&packet));
        let decoded = decode(&written).expect("well formed");
        assert_eq!(shown(&decoded.packets), shown(&[packet]));
        for length in 1..written.len() {
            assert!(decode(&written.slice(..length)).is_err(), "{length} of {written:?}");
        }
    }
}

/// Bytes that a release has written stay readable.
#[test]
fn packets_have_the_bytes_that_the_format_says() {
    let group = GroupId(300);
    let id = SnapshotId { store: 7, number: 1 };
    let mut heartbeat = Message::default();
    heartbeat.set_msg_type(MessageType::MsgHeartbeat);
    (heartbeat.to, heartbeat.term) = (1, 2);
    let token = Token { life: 9, asked: Instant::from_nanos(128) };
    let editions = Editions::new(Edition(1), Edition(3));
    let supported = Supported::from([("k".to_owned(), editions)]);
    let supporting = Beat { life: 128, supported: supported.into() };
    let cases: [(Packet, &[u8]); 11] = [
        (
            Packet::Raft(Envelope { group, message: heartbeat }),
            b"\x01\0\0\0\x09\xAC\x02\x06\x08\x08\x10\x01\x20\x02",
        ),
        (
            Packet::Asks(Ask { group, replica: 3, descriptor: None }),
            b"\x02\0\0\0\x04\xAC\x02\x03\0",
        ),
        (
            Packet::Tells { group, replica: 3, verdict: Verdict::Apart },
            b"\x03\0\0\0\x04\xAC\x02\x03\x02",
        ),
        (Packet::Urges { group, order: vec![9, 8] }, b"\x04\0\0\0\x05\xAC\x02\x02\x09\x08"),
        (Packet::Beat(supporting), b"\x05\0\0\0\x07\x80\x01\x01\x01k\x01\x03"),
        (
            Packet::Parcel(Parcel::Piece { group, id, data: Bytes::from_static(b"x") }),
            b"\x08\0\0\0\x06\xAC\x02\x07\x01\x01x",
        ),
        (
            Packet::Receipt(Receipt { group, id, said: Said::Unknown }),
            b"\x09\0\0\0\x05\xAC\x02\x07\x01\x01",
        ),
        (
            Packet::Loan(Loan::Asks { group, replica: 1, applied: 2, token }),
            b"\x0A\0\0\0\x07\xAC\x02\x01\x02\x09\x80\x01",
        ),
        (
            Packet::Loan(Loan::Lends { group, replica: 1, index: 2, token }),
            b"\x0B\0\0\0\x07\xAC\x02\x01\x02\x09\x80\x01",
        ),
        (
            Packet::Loan(Loan::Reached { group, replica: 1, index: 2 }),
            b"\x0C\0\0\0\x04\xAC\x02\x01\x02",
        ),
        (Packet::Inquires, b"\x0D\0\0\0\0"),
    ];
    for (packet, expected) in cases {
        assert_eq!(&encoded(std::slice::from_ref(&packet))[..], expected, "{packet:?}");
    }
}

#[test]
fn what_a_later_version_adds_is_passed_over() {
    let beat = beat(9);
    let mut bytes = b"\x7F\0\0\0\x03new".to_vec();
    // A beat that says more, and a verdict that is not known.
    bytes.extend_from_slice(b"\x05\0\0\0\x05\x09\x00abc");
    bytes.extend_from_slice(b"\x03\0\0\0\x03\x05\x03\x63");
    encode(&beat, &mut bytes);
    let decoded = decode(&bytes.into()).expect("of a later version");
    assert_eq!((shown(&decoded.packets), decoded.unknown), (shown(&[beat.clone(), beat]), 2));
}

fn raft(message: &[u8]) -> Bytes {
    let mut body = vec![5];
    wire::put_bytes(&mut body, message);
    let mut bytes = vec![kind::RAFT];
    bytes.extend_from_slice(&u32::try_from(body.len()).expect("short").to_be_bytes());
    bytes.extend_from_slice(&body);
    bytes.into()
}

#[test]
fn a_message_that_would_become_much_is_refused() {
    // What the library says to itself, and what goes another way.
    let kinds = [MessageType::MsgHup, MessageType::MsgCheckQuorum, MessageType::MsgSnapshot];
    for kind in kinds {
        let bytes = message(kind, 0).write_to_bytes().expect("bytes");
        assert!(decode(&raft(&bytes)).is_err(), "{kind:?}");
    }
    let of_kind = message(MessageType::MsgAppend, 0).write_to_bytes().expect("bytes");
    let with =
        |more: &[u8], count: usize| raft(&[of_kind.as_slice(), &more.repeat(count)].concat());
    // Empty entries: two bytes each, and a hundred in memory.
    assert!(decode(&with(b"\x3A\0", ENTRIES_MAX)).is_ok());
    assert!(decode(&with(b"\x3A\0", ENTRIES_MAX + 1)).is_err());
    // Fields that are not known: a table each.
    assert!(decode(&with(b"\xA0\x06\x01", UNKNOWN_MAX)).is_ok());
    assert!(decode(&with(b"\xA0\x06\x01", UNKNOWN_MAX + 1)).is_err());
    assert!(decode(&with(b"\x3A\x03\xA0\x06\x01", UNKNOWN_MAX + 1)).is_err());
    // Groups, which the library follows by calling itself.
    let nested = |depth: usize| [[0xA3, 0x06].repeat(depth), [0xA4, 0x06].repeat(depth)].concat();
    assert!(decode(&with(&nested(1), 1)).is_err());
    assert!(decode(&with(&[&b"\x3A\x0C"[..], &nested(3)].concat(), 1)).is_err());
    assert!(decode(&with(&[&b"\x4A\x08\x12\x06\x0A\x04"[..], &nested(1)].concat(), 1)).is_err());
    assert!(decode(&with(&nested(100_000), 1)).is_err());
}

#[test]
fn a_packet_weighs_about_what_it_takes() {
    for packet in all() {
        let written = encoded(std::slice::from_ref(&packet)).len();
        let weight = weight(&packet);
        assert!(
            weight >= written / 2 && weight <= written + 200,
            "{weight} for {written}: {packet:?}"
        );
    }
}

proptest! {
    /// Whatever becomes of the bytes of packets, they are read or refused, and what is read is written
    /// to the same meaning.
    #[test]
    fn bytes_that_were_changed_are_read_or_refused(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        order in Just(all()).prop_shuffle(),
    ) {
        let mut bytes = encoded(&order).to_vec();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        crate::fuzzing::packets_any(&bytes);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        crate::fuzzing::packets_any(&bytes);
        crate::fuzzing::words_any(&bytes);
    }
}

//! The bodies of the fuzz targets `cluster_*`, so that their corpora are replayed by plain tests.
//!
//! Guarded: nothing panics, what decodes is encoded to the bytes that it came from, a host keeps its
//! invariants and its bounds, and one that heard anything can still be reasoned with.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use ratatosk_clock::{Epoch, Instant, Timestamp};

use crate::protocol::contact::Contact;
use crate::protocol::envelope::{
    BODY_MAX, HEADER, Header, Sealer, datagram_key, environment_tag, open,
};
use crate::protocol::frame::Frame;
use crate::protocol::identity::{Host, HostId};
use crate::protocol::key::KeyRing;
use crate::protocol::machine::{Effects, Input, Machine, Setup, Side, Sources};
use crate::protocol::message::Message;
use crate::protocol::record::{Labels, Record};
use crate::protocol::refusal::Counters;
use crate::protocol::rumours::Item;
use crate::protocol::shared_map::{decode_entry, encode_entry};
use crate::protocol::stream::{Credentials, Stream};
use crate::protocol::swim_codec::{Packet, Update};
use crate::protocol::tuning::Tuning;
use crate::protocol::wire::Reader;

const SECRET: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// A datagram as it comes, and one whose front is right: no fuzzer seals by chance. The first byte
/// says from whom.
pub fn datagram_any(data: &[u8]) {
    let Some((first, body)) = data.split_first() else { return };
    let body = &body[..body.len().min(BODY_MAX)];
    round_trips(body);
    for keys in [None, KeyRing::parse(SECRET).ok()] {
        let mut machine = machine(keys.as_ref());
        let mut effects = Effects::default();
        let from = address(2 + first % 2);
        for bytes in [data.to_vec(), sealed(2 + first % 2, keys.as_ref(), body)] {
            let _ = Header::decode(&bytes);
            for millis in [0, 1, 700, 20_000] {
                let input = Input::Datagram { from, bytes: &bytes };
                machine.step(Instant::from_millis(millis), input, &mut effects);
                machine.step(Instant::from_millis(millis), Input::Tick, &mut effects);
                machine.check_invariants();
            }
        }
    }
}

/// A frame, on both sides.
pub fn frame_any(data: &[u8]) {
    if let Ok(frame) = Frame::decode(data) {
        assert_eq!(frame.encode(), data, "one form");
    }
    let record = Bytes::copy_from_slice(data);
    if let Ok(record) = Record::decode(&record) {
        assert_eq!(record.encode(), data, "one form");
    }
    let mut reader = Reader::new(data);
    if let Ok((key, entry)) = decode_entry(&mut reader) {
        let mut again = Vec::new();
        encode_entry(&key, &entry, &mut again);
        assert_eq!(again, data[..data.len() - reader.rest().len()], "one form");
    }
    for side in [Side::Asker, Side::Answerer] {
        let mut machine = machine(None);
        let mut effects = Effects::default();
        let now = Instant::from_millis(1);
        machine.step(now, Input::Frame { side, bytes: data }, &mut effects);
        machine.check_invariants();
        if let Some(reply) = effects.reply.take() {
            assert!(Frame::decode(&reply).is_ok(), "what is said is a frame");
        }
    }
}

/// A connection: the first byte says how its bytes are cut.
pub fn stream_any(data: &[u8]) {
    let Some((first, bytes)) = data.split_first() else { return };
    let read = |keys: Option<KeyRing>, side, cut: usize| {
        let environment = environment_tag("fuzz");
        let credentials = Credentials { environment, cluster: None, keys };
        let mut stream = Stream::new(side, credentials, [1; 16]);
        let mut frames = Vec::new();
        for part in bytes.chunks(cut) {
            stream.receive(part);
            loop {
                match stream.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(refusal) => return (frames, Some(refusal)),
                }
            }
        }
        (frames, None)
    };
    for side in [Side::Asker, Side::Answerer] {
        for keys in [None, KeyRing::parse(SECRET).ok()] {
            let cut = read(keys.clone(), side, usize::from(*first).max(1));
            assert_eq!(cut, read(keys, side, usize::MAX), "cuts change nothing");
        }
    }
}

/// A key file.
pub fn key_file_any(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match KeyRing::parse(text) {
        Ok(ring) => {
            // Comments and spaces mean nothing.
            let spaced: String = text.lines().map(|line| format!(" {line} \n\n# more\n")).collect();
            let again = KeyRing::parse(&spaced).expect("as before");
            assert_eq!(again.first().id, ring.first().id);
        }
        Err(error) => {
            let message = error.to_string();
            let mut long = text.split_whitespace().filter(|word| word.len() >= 16);
            assert!(!long.any(|word| message.contains(word)), "no key in the log");
        }
    }
}

fn round_trips(body: &[u8]) {
    let _ = Packet::decode(body);
    if let Ok(contact) = Contact::decode(body) {
        let mut again = Vec::new();
        contact.encode(&mut again);
        assert_eq!(again, body, "one form");
    }
    if let Ok(items) = Item::decode_all(body) {
        let mut again = Vec::new();
        items.iter().for_each(|item| item.encode(&mut again));
        assert_eq!(again, body, "one form");
    }
    let mut reader = Reader::new(body);
    if let Ok(message) = Message::decode(&mut reader) {
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(again, body[..body.len() - reader.rest().len()], "one form");
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 7883))
}

fn host(last: u8) -> Host {
    Host { address: address(last), generation: 1, id: HostId::from_bytes([last; 16]) }
}

fn sealed(last: u8, keys: Option<&KeyRing>, body: &[u8]) -> Vec<u8> {
    let mut sealer = Sealer::new(environment_tag("fuzz"), host(last).id, keys);
    // Two were sent before, in the handshake.
    sealer.seal(None, body);
    sealer.seal(None, body);
    sealer.seal(None, body)
}

/// Host 1, which has host 2 for a member that has proved to be alive.
fn machine(keys: Option<&KeyRing>) -> Machine {
    let environment = environment_tag("fuzz");
    let setup = Setup {
        host: host(1),
        environment: "fuzz".into(),
        cluster: None,
        keys: keys.cloned(),
        sources: Sources::Exact,
        labels: Labels::default(),
        tuning: Tuning::default(),
        seed: [7; 32],
        epoch: Epoch::new(Instant::ZERO, Timestamp::from_millis(1_000_000)),
        counters: Arc::new(Counters::default()),
    };
    let mut machine = Machine::new(Instant::ZERO, setup).expect("short labels");
    let digest = Frame::Digest {
        members: vec![Update { member: foca::Member::alive(host(2)), has_left: false }],
        records: Vec::new(),
        buckets: Box::new([0; crate::protocol::shared_map::BUCKETS]),
    };
    let bytes = digest.encode();
    let mut effects = Effects::default();
    machine.step(Instant::ZERO, Input::Frame { side: Side::Answerer, bytes: &bytes }, &mut effects);
    effects.datagrams.clear();
    let mut sealer = Sealer::new(environment, host(2).id, keys);
    let mut say = |kind: u8, echo, effects: &mut Effects| {
        let mut body = vec![kind];
        Contact { host: host(2), nonce: [3; 16], echo }.encode(&mut body);
        let bytes = sealer.seal(None, &body);
        let input = Input::Datagram { from: address(2), bytes: &bytes };
        machine.step(Instant::ZERO, input, effects);
    };
    say(4, [0; 16], &mut effects);
    let (_, welcome) = effects.datagrams.pop().expect("an answer");
    let body = match keys {
        None => welcome[HEADER..].to_vec(),
        Some(keys) => {
            let key = datagram_key(keys.first(), environment, host(1).id);
            open(&key, Header::decode(&welcome).expect("ours").counter, &welcome).expect("ours")
        }
    };
    let welcome = Contact::decode(&body[1..]).expect("a welcome");
    say(6, welcome.nonce, &mut effects);
    machine
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(target: &str, body: fn(&[u8])) {
        let folder = format!("{}/../../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let seeds = std::fs::read_dir(folder).expect("the corpus");
        let count = seeds
            .map(|seed| body(&std::fs::read(seed.expect("a seed").path()).expect("a seed")))
            .count();
        assert!(count >= 3, "{target}: {count} seeds");
    }

    #[test]
    fn the_corpora_are_read_or_refused() {
        replay("cluster_datagram", datagram_any);
        replay("cluster_frame", frame_any);
        replay("cluster_stream", stream_any);
        replay("cluster_key_file", key_file_any);
    }
}

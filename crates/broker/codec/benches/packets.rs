//! What decoding and encoding cost a packet: `cargo bench -p ratatosk-codec [name]`.
//!
//! A round goes over a buffer of equal packets.

use std::hint::black_box;

use ratatosk_codec::{
    Ack, Connect, Decoded, Decoder, Outgoing, Packet, PacketId, ProtocolVersion, Publish,
    PublishPropertiesBuilder, Qos, ReasonCode, Subscribe, SubscribeFiltersBuilder,
    SubscriptionOptions, Template, encode,
};
use ratatosk_testkit::gauge::Gauge;

const COUNT: u32 = 1000;
const TOPIC: &str = "site/17/dev/4711/temperature";
const PAYLOAD: &[u8] = &[b'x'; 64];

fn main() {
    let gauge = Gauge::from_arguments();
    decoding(&gauge);
    encoding(&gauge);
}

fn decoding(gauge: &Gauge) {
    let id = PacketId::FIRST;
    let qos0 = Publish::new(TOPIC, PAYLOAD);
    let qos1 = Publish { qos: Qos::AtLeastOnce, packet_id: Some(id), ..qos0 };
    let mut builder = PublishPropertiesBuilder::new();
    builder
        .content_type("application/json")
        .and_then(|it| it.message_expiry_s(60))
        .and_then(|it| it.user_property("trace", "0af7651916cd43dd8448eb211c80319c"))
        .expect("each once");
    let full = Publish { properties: builder.view(), ..qos1 };
    let long = "site/".repeat(40);
    let long = Publish { topic: &long, ..qos0 };
    let mut filters = SubscribeFiltersBuilder::new();
    filters.push("site/+/dev/+/temperature", SubscriptionOptions::default()).expect("short");
    let ack = Ack::new(id, ReasonCode::Success);
    let (v311, v5) = (ProtocolVersion::V311, ProtocolVersion::V5);
    for (name, version, packet) in [
        ("decode publish qos0 v311", v311, Packet::Publish(qos0)),
        ("decode publish qos1 v311", v311, Packet::Publish(qos1)),
        ("decode publish qos0 v311, topic of 200 bytes", v311, Packet::Publish(long)),
        ("decode publish qos0 v5", v5, Packet::Publish(qos0)),
        ("decode publish qos1 v5, three properties", v5, Packet::Publish(full)),
        ("decode puback v311", v311, Packet::Puback(ack)),
        ("decode puback v5", v5, Packet::Puback(ack)),
        ("decode subscribe v5", v5, Packet::Subscribe(Subscribe::new(id, filters.view()))),
        ("decode connect v5", v5, Packet::Connect(Connect::new(v5, "client-4711", true))),
    ] {
        let mut decoder = Decoder::server(1 << 20);
        if !matches!(packet, Packet::Connect(_)) {
            decoder.set_version(version);
        }
        let mut bytes = Vec::new();
        (0..COUNT).for_each(|_| encode(&packet, version, &mut bytes));
        gauge.measure(name, COUNT, || decode_all(&decoder, black_box(&bytes)));
    }
}

fn decode_all(decoder: &Decoder, mut bytes: &[u8]) {
    let mut total = 0;
    while let Ok(Decoded::Packet { packet, length }) = decoder.decode(bytes) {
        // What a session looks at first.
        total += match packet {
            Packet::Publish(publish) => publish.topic.len() + publish.payload.len(),
            Packet::Puback(ack) => usize::from(ack.packet_id.value()),
            Packet::Subscribe(subscribe) => subscribe.filters.len(),
            Packet::Connect(connect) => connect.client_id.len(),
            _ => 0,
        };
        bytes = &bytes[length..];
    }
    assert!(bytes.is_empty(), "all is decoded");
    black_box(total);
}

fn encoding(gauge: &Gauge) {
    let mut out = Vec::with_capacity(1 << 20);
    let id = PacketId::FIRST;
    let qos0 = Outgoing::new(ProtocolVersion::V311, TOPIC, PAYLOAD);
    let qos1 = Outgoing { qos: Qos::AtLeastOnce, packet_id: Some(id), ..qos0 };
    let full = Outgoing {
        version: ProtocolVersion::V5,
        topic_alias: Some(3),
        topic_omitted: true,
        message_expiry_s: Some(60),
        subscription_ids: &[7],
        forwarded: b"\x03\x00\x10application/json",
        ..qos1
    };
    for (name, outgoing) in [
        ("encode publish qos0 v311", qos0),
        ("encode publish qos1 v311", qos1),
        ("encode publish qos0 v5", Outgoing { version: ProtocolVersion::V5, ..qos0 }),
        ("encode publish qos1 v5, four properties", full),
    ] {
        gauge.measure(name, COUNT, || {
            out.clear();
            (0..COUNT).for_each(|_| black_box(&outgoing).encode(&mut out));
            black_box(&out);
        });
    }
    let mut template = Template::new();
    for (name, outgoing) in [("append template qos0", qos0), ("append template qos1", qos1)] {
        template.fill(&outgoing);
        gauge.measure(name, COUNT, || {
            out.clear();
            (0..COUNT).for_each(|_| template.append(&mut out, black_box(outgoing.packet_id)));
            black_box(&out);
        });
    }
    let ack = Packet::Puback(Ack::new(id, ReasonCode::Success));
    gauge.measure("encode puback v5", COUNT, || {
        out.clear();
        (0..COUNT).for_each(|_| encode(black_box(&ack), ProtocolVersion::V5, &mut out));
        black_box(&out);
    });
}

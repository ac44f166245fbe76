//! Clients that end their writing half with their last packet, and read what they are owed.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
};

use ratatosk_codec::{
    Connect, Packet, PacketId, PacketType, ProtocolVersion, Publish, ReasonCode, Subscribe,
    SubscribeFiltersBuilder, SubscriptionOptions,
};
use ratatosk_conformance::{Broker, Client, Event, PATIENCE, Setup, plain};
use ratatosk_contract::TenantSettings;
use ratatosk_mqtt::{
    Config,
    transport::{self, WebSocketConfig},
};

use crate::cases::{QOS0, QOS1, VERSIONS, standstill};

/// How many messages are published in the end.
const COUNT: u16 = 200;

/// SUBSCRIBE and messages of QoS 1 with these many bytes, each packet by itself.
fn packets(version: ProtocolVersion, payload_bytes: usize) -> Vec<Vec<u8>> {
    let id = |number| PacketId::new(number).expect("not zero");
    let payload = vec![0; payload_bytes];
    let mut filters = SubscribeFiltersBuilder::new();
    filters.push("elsewhere", SubscriptionOptions::new(QOS1)).expect("it fits");
    let subscribe = Packet::Subscribe(Subscribe::new(id(1), filters.view()));
    let publish = |number| {
        let packet_id = Some(id(2 + number));
        Packet::Publish(Publish { qos: QOS1, packet_id, ..Publish::new("t", &payload) })
    };
    let packets = std::iter::once(subscribe).chain((0..COUNT).map(publish));
    packets
        .map(|packet| {
            let mut bytes = Vec::new();
            ratatosk_codec::encode(&packet, version, &mut bytes);
            bytes
        })
        .collect()
}

/// Sends the last bytes and the end of the stream behind them.
fn end(client: &mut Client, bytes: &[u8]) {
    client.send_raw(bytes);
    client.writer().shutdown(Shutdown::Write).expect("the writing half closes");
}

fn expect_answers(client: &mut Client) {
    assert_eq!(client.event(), Event::Suback(1, vec![ReasonCode::GrantedQos1]));
    for number in 0..COUNT {
        let Event::Ack(kind, id, _) = client.event() else { panic!("PUBACK {number} comes") };
        assert_eq!((kind, id), (PacketType::Puback, 2 + number));
    }
    client.expect_close();
}

/// Whoever ends his half behind his last packet is answered to the end: what the broker finds in
/// the socket is all there at once.
#[test]
fn a_client_that_ends_its_half_gets_all_answers() {
    for version in VERSIONS {
        let (hold, permission) = standstill();
        let config = Config { shards: 1, ..Config::default() };
        let broker = Broker::with(Setup { config, permission, ..Setup::default() });
        let hold = hold;
        let mut blocker = broker.v4("blocker").connect();
        let mut live = broker.client(version, "live").connect();
        let mut large = broker.client(version, "large").connect();
        blocker.publish("block", "", QOS0);
        let mut brief = broker.client(version, "brief").open();
        let mut shortest = broker.client(version, "shortest").open();
        end(&mut live, &packets(version, 1).concat());
        end(&mut large, &packets(version, 2000).concat());
        end(&mut brief, &packets(version, 1).concat());
        end(&mut shortest, &[]);
        drop(hold);
        expect_answers(&mut live);
        expect_answers(&mut large);
        for client in [&mut brief, &mut shortest] {
            assert_eq!(client.connack().reason, ReasonCode::Success);
        }
        expect_answers(&mut brief);
        shortest.expect_close();
        broker.stats_when(|stats| stats.connections == 1);
    }
}

/// MQTT-014: so is one whose bandwidth lets the answers out little by little.
#[test]
fn answers_within_the_bandwidth_outlast_the_end_of_the_other_half() {
    let settings = TenantSettings { out_bound_band_width: 600, ..TenantSettings::default() };
    let broker = Broker::with_settings(settings);
    let mut client = broker.v4("client").connect();
    end(&mut client, &packets(ProtocolVersion::V311, 1).concat());
    expect_answers(&mut client);
}

/// What did not fit the socket when the end came follows as it is read.
#[test]
fn output_that_is_held_up_outlasts_the_end_of_the_other_half() {
    const SENT: u64 = 3000;
    let config = Config { shards: 1, ..Config::default() };
    let broker = Broker::with(Setup { config, ..Setup::default() });
    let mut slow = broker.v5("slow").connect();
    let mut publisher = broker.v5("publisher").connect();
    slow.subscribe("flood", QOS0);
    for _ in 0..SENT {
        publisher.publish("flood", vec![0; 10_000], QOS0);
    }
    let stats = broker.stats_when(|stats| stats.received == SENT);
    assert!(stats.dropped_overflow > 0, "the socket takes no more");
    end(&mut slow, &[]);
    broker.stats_when(|stats| stats.disconnected == 1);
    let mut count = 0;
    loop {
        match slow.event() {
            Event::Publish(_) => count += 1,
            Event::Closed => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(count, stats.sent);
}

/// A frame of a WebSocket client, masked with zeros.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short frame");
    assert!(length < 126, "a short frame");
    [&[0x80 | opcode, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// What goes before the end of a layer is taken, though its session was not ready for it.
#[test]
fn what_comes_before_the_end_of_a_layer_is_taken() {
    let websocket = Some(WebSocketConfig { path: "/mqtt".to_owned(), frame_max: 1 << 20 });
    let listeners = vec![transport::Config { websocket, ..plain() }];
    let broker = Broker::with(Setup { listeners, ..Setup::default() });
    let open = || {
        let mut stream = TcpStream::connect(broker.address()).expect("the broker listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        let request = "GET /mqtt HTTP/1.1\r\nHost: b\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Protocol: mqtt\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it is sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            head.extend(byte);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        stream
    };
    let mut stream = open();
    let mut packets = Vec::new();
    let connect = Connect::new(ProtocolVersion::V5, "brief", true);
    let publish = Publish { retain: true, ..Publish::new("last/words", b"here") };
    for packet in [Packet::Connect(connect), Packet::Publish(publish)] {
        ratatosk_codec::encode(&packet, ProtocolVersion::V5, &mut packets);
    }
    let close = frame(8, &1000_u16.to_be_bytes());
    stream.write_all(&[frame(2, &packets), close].concat()).expect("it is sent");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the broker closes");
    assert_eq!(broker.stats_when(|stats| stats.disconnected == 1).retained, 1);
}

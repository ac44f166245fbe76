//! Connections that the broker does not read for a while: what their clients send lies in the
//! socket, and must not be taken for silence; and a client that said nothing gets no more time.

use std::time::{Duration, Instant};

use ratatosk_codec::{Packet, PacketType, ProtocolVersion, Publish, ReasonCode};
use ratatosk_conformance::{Broker, Client, PermissionBy, Setup};
use ratatosk_contract::TenantSettings;
use ratatosk_mqtt::Config;
use ratatosk_plugin::{
    answer::Answer,
    permission::{Action, Verdict},
};
use ratatosk_telemetry::{ByteCount, memory::Share};

use crate::cases::{QOS0, QOS1, standstill};

/// Lets pass what a client with a keep alive of one second may be silent, and as much again.
fn pass_the_keep_alive(broker: &Broker) {
    let mut silent = broker.v5("silent").keep_alive(2).connect();
    silent.expect_farewell(ReasonCode::KeepAliveTimeout);
}

/// All that a client of one second of keep alive sent is answered.
fn expect_answers(client: &mut Client, id: u16) {
    assert!(!client.find_ack(PacketType::Puback, id).is_error());
    client.ping();
}

/// MQTT-033 while a permission is being determined.
#[test]
fn a_client_whose_permission_is_awaited_is_not_silent() {
    let (hold, held) = tokio::sync::watch::channel(());
    let permission = PermissionBy::new(move |_, action| {
        let mut held = held.clone();
        match action {
            Action::Publish { topic: "later", .. } => Answer::later(async move {
                let _ = held.changed().await;
                Verdict::Allowed
            }),
            _ => Answer::Now(Verdict::Allowed),
        }
    });
    let broker = Broker::with(Setup { permission, ..Setup::default() });
    let mut client = broker.v5("client").keep_alive(1).connect();
    let id = client.publish("later", "x", QOS1);
    client.send(&Packet::Pingreq);
    pass_the_keep_alive(&broker);
    hold.send_replace(());
    expect_answers(&mut client, id);
}

/// MQTT-033 within MQTT-014.
#[test]
fn a_client_whose_bandwidth_is_used_up_is_not_silent() {
    let settings = TenantSettings { in_bound_band_width: 20_000, ..TenantSettings::default() };
    let broker = Broker::with_settings(settings);
    let mut client = broker.v5("client").keep_alive(1).connect();
    let started = Instant::now();
    let id = client.publish("t", vec![0; 80_000], QOS1);
    expect_answers(&mut client, id);
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(2), "read in {waited:?}");
}

/// MQTT-033 while another shard does not keep up.
#[test]
fn a_client_that_another_shard_holds_up_is_not_silent() {
    const COUNT: usize = 100;
    let (hold, permission) = standstill();
    let broker = Broker::with(Setup { permission, ..Setup::default() });
    // A shard that stands still does not stop.
    let hold = hold;
    let mut client = broker.v5("client").keep_alive(1).connect();
    let mut subscriber = broker.v5("subscriber").connect();
    // Nobody is read on the first shard as long as the second stands still.
    let mut silent = broker.v5("silent").keep_alive(3).connect();
    let mut blocker = broker.v5("blocker").connect();
    subscriber.subscribe("t", QOS1);
    blocker.publish("block", "", QOS0);
    let sending = std::thread::spawn(move || {
        let payload = vec![0; 100_000];
        for _ in 1..COUNT {
            client.publish("t", &payload, QOS1);
        }
        let id = client.publish("t", &payload, QOS1);
        client.send(&Packet::Pingreq);
        expect_answers(&mut client, id);
    });
    broker.stats_when(|stats| stats.received >= 40);
    silent.expect_farewell(ReasonCode::KeepAliveTimeout);
    drop(hold);
    for _ in 0..COUNT {
        assert_eq!(subscriber.message().payload.len(), 100_000);
    }
    sending.join().expect("all is answered");
}

/// The beginning of a packet that is large enough to be left unread while memory is short, in two
/// parts: the second is what is left unread.
fn large(packet: &Packet<'_>, version: ProtocolVersion) -> (Vec<u8>, Vec<u8>) {
    let mut bytes = Vec::new();
    ratatosk_codec::encode(packet, version, &mut bytes);
    let rest = bytes.split_off(400_000);
    (bytes, rest)
}

/// A broker whose memory is short as long as the account is charged with [`SHORT`].
fn scarce(config: Config) -> Broker {
    Broker::with(Setup { config, memory_max: ByteCount::mebibytes(256), ..Setup::default() })
}

const SHORT: usize = 235 << 20;

/// MQTT-033 within MQTT-103.
#[test]
fn a_client_that_is_not_read_because_memory_is_short_is_not_silent() {
    let broker = scarce(Config { shards: 2, ..Config::default() });
    let account = broker.memory.account("somebody");
    let mut client = broker.v5("client").keep_alive(1).connect();
    let payload = vec![0; 600_000];
    let packet_id = Some(client.next_id());
    let publish = Publish { qos: QOS1, packet_id, ..Publish::new("t", &payload) };
    let (first, rest) = large(&Packet::Publish(publish), client.version());
    client.send_raw(&first);
    broker.stats_when(|stats| stats.read_bytes >= 400_000);
    account.charge(Share::Retained, SHORT);
    client.send_raw(&rest);
    broker.stats_when(|stats| stats.shed_paused == 1);
    pass_the_keep_alive(&broker);
    account.release(Share::Retained, SHORT);
    expect_answers(&mut client, 1);
}

/// MQTT-012: memory that was short in between gives nobody more time for its CONNECT.
#[test]
fn a_connection_that_was_left_unread_has_no_more_time_for_its_connect() {
    let config = Config { shards: 2, connect_timeout: Duration::from_secs(2), ..Config::default() };
    let broker = scarce(config);
    let account = broker.memory.account("somebody");
    let mut silent = Client::silent(broker.address(), ProtocolVersion::V5);
    let password = vec![0; 60_000];
    let will = ratatosk_codec::Will {
        qos: QOS0,
        retain: false,
        topic: "t",
        payload: &password,
        properties: ratatosk_codec::WillProperties::default(),
    };
    let connect = ratatosk_codec::Connect {
        will: Some(will),
        username: Some("default/"),
        password: Some(&password),
        ..ratatosk_codec::Connect::new(ProtocolVersion::V5, "c", true)
    };
    let mut bytes = Vec::new();
    ratatosk_codec::encode(&Packet::Connect(connect), ProtocolVersion::V5, &mut bytes);
    account.charge(Share::Retained, SHORT);
    // More than is read of anybody while memory is short, and not the whole.
    silent.send_raw(&bytes[..bytes.len() - 1]);
    broker.stats_when(|stats| stats.shed_paused == 1);
    account.release(Share::Retained, SHORT);
    broker.stats_when(|stats| stats.read_bytes >= bytes.len() as u64 - 1);
    silent.expect_close();
    assert_eq!(broker.stats_when(|stats| stats.refused == 1).shed_ended_paused, 0);
}

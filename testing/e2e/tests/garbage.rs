//! Bytes that nobody should send, on every kind of listener, while others are served.

use std::time::{Duration, Instant};

use ratatosk_e2e::{Broker, Connect, Raw, Request, Transport};

const ALL: [Transport; 4] = [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];
const ROUNDS: u64 = 60;
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Bytes from a seed, the same in each run.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..count).map(|_| next()).collect()
}

fn connect(version: u8, client_id: &str) -> Vec<u8> {
    Connect { version, client_id, credentials: None }.encode()
}

/// What a client could say that is broken somewhere.
fn broken(seed: u64) -> Vec<u8> {
    let request = Request { version: 5 };
    let valid =
        [connect(5, "broken"), request.subscribe("a/#"), request.publish("a/b", "x", 1)].concat();
    let length = usize::try_from(seed).expect("small") * 7 % valid.len();
    match seed % 4 {
        0 => noise(seed, 200),
        // A beginning that is valid, then noise.
        1 => [&valid[..length], &noise(seed, 100)].concat(),
        // One bit is wrong.
        2 => {
            let mut bytes = valid;
            bytes[length] ^= 1 << (seed % 8);
            bytes
        }
        // The largest length that there is.
        _ => [connect(5, "broken"), vec![0x30, 0xff, 0xff, 0xff, 0x7f, 0, 3]].concat(),
    }
}

/// SEC-001: whatever comes on any listener, the process lives and serves others in time.
#[test]
fn no_bytes_hold_up_other_clients() {
    let broker = Broker::start(&ALL).unwrap_or_else(|error| panic!("{error:#}"));
    let (mut witness, _) = Raw::connect(
        broker.port(Transport::Tcp),
        &Connect { version: 5, client_id: "witness", credentials: None },
    )
    .expect("connects");
    let request = Request { version: 5 };
    witness.write(&request.subscribe("witness")).expect("sends");
    assert_eq!(witness.packet().expect("answers").head, 0x90);
    // They stay open and silent, some within a packet, some within a handshake.
    let mut open = Vec::new();
    for seed in 0..ROUNDS {
        for transport in ALL {
            let mut raw = Raw::open(broker.port(transport)).expect("opens");
            if transport == Transport::Ws && seed % 2 == 0 {
                assert!(raw.upgrade("/mqtt").expect("answers").contains(" 101 "));
                for piece in broken(seed).chunks(100) {
                    // It may be closed already.
                    let _ = raw.frame(0x82, piece);
                }
            } else {
                let _ = raw.write(&broken(seed));
            }
            open.push(raw);
        }
        let started = Instant::now();
        witness.write(&request.publish("witness", "alive", 1)).expect("sends");
        let heads = [witness.packet(), witness.packet()].map(|packet| packet.expect("comes").head);
        assert!(heads.contains(&0x40) && heads.contains(&0x32), "{heads:x?} after seed {seed}");
        assert!(started.elapsed() < ANSWER_MAX, "{:?} after seed {seed}", started.elapsed());
    }
    drop(open);
    witness.write(&request.publish("witness", "alive", 0)).expect("sends");
    assert_eq!(witness.packet().expect("comes").head, 0x30);
}

/// MQTT-012: whoever sends no CONNECT is closed in time, whatever he says below MQTT.
#[test]
fn a_silent_connection_is_closed_on_every_listener() {
    let settings = ["limits.connect_timeout_seconds=1"];
    let broker = Broker::start_with(&ALL, &settings).unwrap_or_else(|error| panic!("{error:#}"));
    let mut open = Vec::new();
    for transport in ALL {
        for beginning in [&b""[..], &[0x10], &[0x16, 3, 1], b"GET /mqtt HTTP/1.1\r\n"] {
            let mut raw = Raw::open(broker.port(transport)).expect("opens");
            raw.write(beginning).expect("sends");
            open.push(raw);
        }
    }
    let mut upgraded = Raw::open(broker.port(Transport::Ws)).expect("opens");
    assert!(upgraded.upgrade("/mqtt").expect("answers").contains(" 101 "));
    open.push(upgraded);
    for mut raw in open {
        raw.read_to_end().expect("closes");
    }
}

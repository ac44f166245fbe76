//! How a broker starts, refuses to start, and stops.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use ratatosk_e2e::{Broker, Connect, Place, Raw, Transport, until};

const PATIENCE: Duration = Duration::from_secs(30);

fn clients(broker: &Broker, version: u8, count: usize) -> Vec<Raw> {
    (0..count)
        .map(|number| {
            let client_id = format!("client-{version}-{number}");
            let connect = Connect { version, client_id: &client_id, credentials: None };
            let (raw, connack) =
                Raw::connect(broker.port(Transport::Tcp), &connect).expect("answers");
            assert_eq!(connack.body[1], 0);
            raw
        })
        .collect()
}

/// MQTT-015: clients are sent away at the configured rate, each told why if its version can.
#[test]
fn a_stop_sends_clients_away_at_a_bounded_rate() {
    let settings = ["limits.max_disconnects_per_second=20", "mqtt.shards=1"];
    let mut broker = Broker::start_with(&[Transport::Tcp], &settings)
        .unwrap_or_else(|error| panic!("{error:#}"));
    let newer = clients(&broker, 5, 40);
    let older = clients(&broker, 4, 20);
    let started = Instant::now();
    broker.signal("TERM").expect("is told");
    for mut client in newer {
        let farewell = client.packet().expect("is told");
        assert_eq!((farewell.head, farewell.body[0]), (0xe0, 0x8b));
        assert_eq!(client.read_to_end().expect("closes"), b"");
    }
    for mut client in older {
        assert_eq!(client.read_to_end().expect("closes"), b"");
    }
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(2), "60 clients at 20 a second took {took:?}");
    assert!(broker.wait(PATIENCE).expect("ends").success());
}

/// A stop is over at its deadline, whoever is still connected.
#[test]
fn a_stop_ends_at_its_deadline() {
    let settings = ["limits.max_disconnects_per_second=1", "limits.shutdown_timeout_seconds=1"];
    let mut broker = Broker::start_with(&[Transport::Tcp], &settings)
        .unwrap_or_else(|error| panic!("{error:#}"));
    let clients = clients(&broker, 5, 30);
    broker.signal("TERM").expect("is told");
    let started = Instant::now();
    assert!(broker.wait(PATIENCE).expect("ends").success());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    broker.wait_for_log("cut off", 1).expect("says so");
    for mut client in clients {
        client.read_to_end().expect("closes");
    }
}

/// CFG-003: there are as many shards as the machine has cores.
#[cfg(target_os = "linux")]
#[test]
fn shards_are_as_many_as_cores() {
    let broker = Broker::start(&[Transport::Tcp]).unwrap_or_else(|error| panic!("{error:#}"));
    let cores = std::thread::available_parallelism().expect("is known").get();
    let folder = format!("/proc/{}/task", broker.process_id());
    let shards = || -> anyhow::Result<usize> {
        let mut count = 0;
        for thread in std::fs::read_dir(&folder)? {
            let name = std::fs::read_to_string(thread?.path().join("comm")).unwrap_or_default();
            count += usize::from(name.starts_with("shard-"));
        }
        Ok(count)
    };
    // A thread takes its name when it first runs.
    let reached = until(PATIENCE, || Ok((shards()? >= cores).then_some(())));
    assert!(reached.expect("lists").is_some(), "fewer than {cores} shards");
    assert_eq!(shards().expect("lists"), cores);
}

#[test]
fn a_port_in_use_is_named_with_a_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("is bound");
    let place = Place::new().expect("makes");
    let listener = format!("listener=[{{ address = \"{address}\" }}]");
    let arguments = ["start", "--set", &listener, "--set", "admin.address=127.0.0.1:0"];
    let outcome = place.ratatosk(&arguments, "").expect("runs");
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let hint = format!("another program uses port {}", address.port());
    assert!(outcome.output.contains(&hint), "{}", outcome.output);
    assert!(outcome.output.contains(&address.to_string()), "{}", outcome.output);
    // Once in the log and once for people; the cause once in each.
    assert_eq!(outcome.output.matches("Address already in use").count(), 2, "{}", outcome.output);
}

/// CFG-010: certificates that cannot be used are a mistake of the configuration.
#[test]
fn an_unusable_certificate_is_a_wrong_configuration() {
    let place = Place::new().expect("makes");
    place.issue_client("other").expect("issues");
    place.write("garbage.pem", "no certificate\n").expect("writes");
    for (certificate, key, complaint) in [
        ("missing.pem", "server.key", "missing.pem"),
        ("garbage.pem", "server.key", "garbage.pem"),
        ("server.pem", "other.key", "other.key"),
        ("server.pem", "server.pem", "server.pem"),
    ] {
        let listener = format!(
            "listener=[{{ protocol = \"mqtts\", address = \"127.0.0.1:0\", \
             tls = {{ certificate = \"{certificate}\", key = \"{key}\" }} }}]"
        );
        for command in [&["start"][..], &["config", "check"]] {
            let outcome = place.ratatosk(&[command, &["--set", &listener]].concat(), "");
            let outcome = outcome.expect("runs");
            assert_eq!(outcome.code, Some(3), "{certificate} {key}: {}", outcome.output);
            assert!(outcome.output.contains(complaint), "{}", outcome.output);
        }
    }
}

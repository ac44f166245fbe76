//! What an operator does to a node's data: has it end early, and recovers it when it is damaged.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;

use ratatosk_e2e::{Broker, Exchange, Outcome, Place, Transport, retained, until};
use ratatosk_testkit::binary;

const PATIENCE: Duration = Duration::from_secs(30);

fn broker() -> Broker {
    Broker::start(&[Transport::Tcp]).unwrap_or_else(|error| panic!("{error:#}"))
}

fn exchange(broker: &Broker) -> Exchange<'_> {
    Exchange { broker, transport: Transport::Tcp, version: "mqttv5", qos: 1 }
}

/// The answer of the management API, with its head.
fn ask(broker: &Broker, method: &str, target: &str) -> String {
    let address = (Ipv4Addr::LOCALHOST, broker.admin_port());
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("is answered");
    answer
}

/// Waits until the page of metrics has these lines.
#[track_caller]
fn wait_for_metrics(broker: &Broker, expected: &[&str]) {
    let mut page = String::new();
    let found = until(PATIENCE, || {
        page = ask(broker, "GET", "/metrics");
        let has = |wanted: &&str| page.lines().any(|line| line == *wanted);
        Ok(expected.iter().all(has).then_some(()))
    });
    assert!(found.expect("asks").is_some(), "{expected:?} in\n{page}");
}

fn recover(place: &Place) -> Outcome {
    let data = place.path("data").display().to_string();
    place.ratatosk(&["recover", "--data-dir", &data], "").expect("runs")
}

/// INBOX-016, RET-009: ordered over HTTP, and for good.
#[test]
fn what_a_tenant_has_ends_when_the_operator_says_so() {
    let mut broker = broker();
    for id in ["sleeper", "other"] {
        exchange(&broker).fall_asleep(id, "kept/#").expect("sleeps");
    }
    retained(&exchange(&broker), "retained/1", "kept").expect("is retained");
    wait_for_metrics(&broker, &["ratatosk_inbox_sessions 2", "ratatosk_retain_topics 1"]);
    let away = ask(&broker, "DELETE", "/tenants/default/sessions/inactive?away=3600");
    assert!(away.ends_with("{\"sessions\":0,\"tenant\":\"default\"}\n"), "{away}");
    let sessions = ask(&broker, "DELETE", "/tenants/default/sessions/inactive");
    assert!(sessions.starts_with("HTTP/1.1 202 "), "{sessions}");
    assert!(sessions.ends_with("{\"sessions\":2,\"tenant\":\"default\"}\n"), "{sessions}");
    wait_for_metrics(&broker, &["ratatosk_inbox_sessions 0", "ratatosk_retain_topics 1"]);
    let messages = ask(&broker, "DELETE", "/tenants/default/retained");
    assert!(messages.ends_with("{\"messages\":1,\"tenant\":\"default\"}\n"), "{messages}");
    wait_for_metrics(&broker, &["ratatosk_retain_topics 0"]);
    // What is acknowledged now stands in the log behind it.
    exchange(&broker).fall_asleep("later", "kept/#").expect("sleeps");
    retained(&exchange(&broker), "retained/2", "kept").expect("is retained");
    broker.kill_and_restart().expect("starts again");
    wait_for_metrics(&broker, &["ratatosk_inbox_sessions 1", "ratatosk_retain_topics 1"]);
}

/// DUR-005: a plain start refuses and names the command; it says what it set aside and what is lost,
/// and the node starts with the rest.
#[test]
fn a_damaged_store_starts_once_it_was_recovered() {
    let mut broker = broker();
    exchange(&broker).fall_asleep("sleeper", "kept/#").expect("sleeps");
    retained(&exchange(&broker), "retained/1", "kept").expect("is retained");
    broker.signal("TERM").expect("is told");
    assert!(broker.wait(PATIENCE).expect("ends").success());
    let place = broker.place();
    let store = place.path("data").join("store");
    let whole = recover(place);
    assert_eq!(whole.code, Some(0), "{}", whole.output);
    assert!(whole.output.contains("is whole, and was left as it is"), "{}", whole.output);
    fs::remove_dir_all(store.join("log")).expect("was there");
    let configuration = place.path("ratatosk.toml").display().to_string();
    let data = place.path("data").display().to_string();
    let arguments = ["start", "--config", &configuration, "--data-dir", &data];
    let refused = place.ratatosk(&arguments, "").expect("runs");
    assert_eq!(refused.code, Some(4), "{}", refused.output);
    assert!(refused.output.contains("`ratatosk recover`"), "{}", refused.output);

    let recovered = recover(place);
    assert_eq!(recovered.code, Some(0), "{}", recovered.output);
    for part in ["damaged: ", "watermark.bad", "lost: ", "the node can be started"] {
        assert!(recovered.output.contains(part), "{part} in\n{}", recovered.output);
    }
    assert!(store.join("watermark.bad").exists());
    // A good stop makes a checkpoint, so the rest is all.
    broker.kill_and_restart().expect("starts");
    wait_for_metrics(&broker, &["ratatosk_inbox_sessions 1", "ratatosk_retain_topics 1"]);
}

/// OPS-006: also to whoever may do everything.
#[test]
fn a_data_directory_that_is_read_only_is_refused_with_4() {
    let place = Place::new().expect("a folder");
    fs::create_dir(place.path("mount")).expect("is made");
    let below = place.path("below");
    fs::write(&below, "a file").expect("is written");
    let binary = binary::path().expect("is built");
    let mut mounted = Command::new("unshare");
    let script = "mount -t tmpfs -o ro none mount && exec \"$0\" start --data-dir mount";
    mounted.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).arg(binary);
    let mut beneath = binary::ratatosk().expect("is built");
    beneath.args(["start", "--data-dir"]).arg(below.join("data"));
    for (command, reason) in [(mounted, "Read-only file system"), (beneath, "Not a directory")] {
        let ended = place.run(command, "").expect("runs");
        assert_eq!(ended.code, Some(4), "{}", ended.output);
        assert!(ended.output.contains("the data directory"), "{}", ended.output);
        assert!(ended.output.contains(reason), "{}", ended.output);
    }
}

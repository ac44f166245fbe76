//! Certificates: of the server while it runs, and of clients as their identity.

use std::path::Path;
use std::time::Duration;

use ratatosk_e2e::{Broker, Outcome, Place, Process, Transport, mosquitto, until};

const PATIENCE: Duration = Duration::from_secs(30);

fn publish(broker: &Broker, arguments: &[&str]) -> Outcome {
    let command = mosquitto("mosquitto_pub", broker.port(Transport::Tls), arguments);
    broker.place().run(command, "").expect("runs")
}

fn publish_trusting(broker: &Broker, authority: &str, payload: &str, more: &[&str]) -> Outcome {
    let arguments = ["--cafile", authority, "-t", "live", "-q", "1", "-m", payload];
    publish(broker, &[&arguments[..], more].concat())
}

/// A subscriber that has got the retained message, so that its subscription is there.
fn subscriber(broker: &Broker, count: &str) -> Process {
    assert_eq!(publish_trusting(broker, "authority.pem", "first", &["-r"]).code, Some(0));
    let authority = broker.authority();
    let authority = authority.to_str().expect("text");
    let arguments = ["--cafile", authority, "-t", "live", "-q", "1", "-C", count];
    let command = mosquitto("mosquitto_sub", broker.port(Transport::Tls), &arguments);
    let output = broker.place().path("subscriber.log");
    let process = Process::start(command, &output).expect("starts");
    process.wait_for_output("first\n", PATIENCE).expect("is subscribed");
    process
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("reads")
}

/// CFG-012: a new certificate serves new connections, and the live ones go on.
#[test]
fn a_certificate_is_replaced_under_live_connections() {
    let broker = Broker::start(&[Transport::Tls]).unwrap_or_else(|error| panic!("{error:#}"));
    let mut subscriber = subscriber(&broker, "3");
    broker.place().replace_server_certificate("renewed.pem").expect("replaces");
    let renewed = until(PATIENCE, || {
        let outcome = publish_trusting(&broker, "renewed.pem", "second", &[]);
        Ok((outcome.code == Some(0)).then_some(()))
    });
    assert!(renewed.expect("asks").is_some(), "the new certificate is not served");
    assert_ne!(publish_trusting(&broker, "authority.pem", "never", &[]).code, Some(0));

    // Half a replacement, a certificate without its key, changes nothing.
    let good = read(&broker.place().path("server.pem"));
    broker.place().write("server.pem", "no certificate\n").expect("writes");
    broker.signal("HUP").expect("is told");
    broker.wait_for_log("keeps its certificate", 1).expect("complains");
    let outcome = publish_trusting(&broker, "renewed.pem", "third", &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    broker.place().write("server.pem", &good).expect("writes");

    let status = subscriber.wait(PATIENCE).expect("ends");
    assert!(status.success(), "{}", subscriber.output().expect("reads"));
    assert_eq!(subscriber.output().expect("reads"), "first\nsecond\nthird\n");
}

/// SEC-002, CFG-010: the name in a client certificate is the user that access rules know.
#[test]
fn a_client_certificate_is_the_identity() {
    let place = Place::new().expect("makes");
    for name in ["alice", "bob"] {
        place.issue_client(name).expect("issues");
    }
    place.write("acl", "user alice\ntopic readwrite #\nuser bob\ntopic read #\n").expect("writes");
    let settings = [
        "listener.0.tls.client_ca=authority.pem",
        "listener.0.tls.client_auth=required",
        "auth.certificate_identity=true",
        "auth.acl_file=acl",
        "log.level=debug",
    ];
    let broker = Broker::start_in(place, &[Transport::Tls], &settings)
        .unwrap_or_else(|error| panic!("{error:#}"));
    let with = |certificate: &str, key: &str| {
        let (certificate, key) = (format!("{certificate}.pem"), format!("{key}.key"));
        let flags = ["--cert", &certificate, "--key", &key];
        publish_trusting(&broker, "authority.pem", "x", &flags)
    };
    assert_eq!(with("alice", "alice").code, Some(0));
    let refused = with("bob", "bob");
    assert!(refused.output.contains("Not authorized"), "{}", refused.output);
    // Nobody comes in without one, nor with one that another authority issued.
    assert_ne!(publish_trusting(&broker, "authority.pem", "x", &[]).code, Some(0));
    let stranger = Place::new().expect("makes");
    stranger.issue_client("alice").expect("issues");
    for file in ["alice.pem", "alice.key"] {
        let text = read(&stranger.path(file));
        broker.place().write(&format!("stranger.{}", &file[6..]), &text).expect("writes");
    }
    assert_ne!(with("stranger", "stranger").code, Some(0));
    let connected = broker.wait_for_log("\"message\":\"client connected\"", 2).expect("logs");
    assert_eq!(connected.len(), 2, "{connected:?}");
}

/// CFG-010: where a certificate is optional, a client without one is anonymous.
#[test]
fn an_optional_client_certificate_may_be_missing() {
    let place = Place::new().expect("makes");
    place.issue_client("alice").expect("issues");
    place.write("acl", "topic write public\nuser alice\ntopic write live\n").expect("writes");
    let settings = [
        "listener.0.tls.client_ca=authority.pem",
        "listener.0.tls.client_auth=optional",
        "auth.certificate_identity=true",
        "auth.anonymous=true",
        "auth.acl_file=acl",
    ];
    let broker = Broker::start_in(place, &[Transport::Tls], &settings)
        .unwrap_or_else(|error| panic!("{error:#}"));
    let flags = ["--cert", "alice.pem", "--key", "alice.key"];
    assert_eq!(publish_trusting(&broker, "authority.pem", "x", &flags).code, Some(0));
    let refused = publish_trusting(&broker, "authority.pem", "x", &[]);
    assert!(refused.output.contains("Not authorized"), "{}", refused.output);
    let public = ["--cafile", "authority.pem", "-t", "public", "-q", "1", "-m", "x"];
    assert_eq!(publish(&broker, &public).code, Some(0));
}

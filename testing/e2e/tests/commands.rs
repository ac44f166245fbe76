//! The binary's own client commands against its own broker.

use std::time::Duration;

use ratatosk_e2e::{Broker, Outcome, Process, Transport};
use ratatosk_testkit::binary::ratatosk;

const PATIENCE: Duration = Duration::from_secs(30);

fn client(broker: &Broker, transport: Transport, arguments: &[&str], input: &str) -> Outcome {
    let (command, rest) = arguments.split_first().expect("a command");
    let port = broker.port(transport).to_string();
    let mut all = vec![*command, "-h", "localhost", "-p", &port];
    if transport == Transport::Tls {
        all.extend(["--cafile", "authority.pem"]);
    }
    all.extend(rest);
    broker.place().ratatosk(&all, input).expect("runs")
}

#[test]
fn messages_go_from_pub_to_sub_over_tcp_and_tls() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let broker = Broker::start(&[transport]).unwrap_or_else(|error| panic!("{error:#}"));
        for version in ["3.1", "3.1.1", "5"] {
            let retained = ["pub", "-t", "a/b", "-r", "-m", "kept", "-q", "2", "-V", version];
            let sent = client(&broker, transport, &retained, "");
            assert_eq!(sent.code, Some(0), "{}", sent.output);
            let arguments = ["sub", "-t", "a/+", "-v", "-C", "1", "-W", "20", "-V", version];
            let received = client(&broker, transport, &arguments, "");
            assert_eq!((received.code, received.output.as_str()), (Some(0), "a/b kept\n"));
        }
    }
}

#[test]
fn lines_reach_a_waiting_subscriber_in_order() {
    let broker = Broker::start(&[Transport::Tcp]).unwrap_or_else(|error| panic!("{error:#}"));
    let ready = client(&broker, Transport::Tcp, &["pub", "-t", "t", "-r", "-m", "ready"], "");
    assert_eq!(ready.code, Some(0), "{}", ready.output);
    let mut command = ratatosk().expect("is built");
    let port = broker.port(Transport::Tcp).to_string();
    command.args(["sub", "-h", "localhost", "-p", &port, "-t", "t", "-q", "1", "-C", "301"]);
    let mut subscriber = Process::start(command, &broker.place().path("sub.log")).expect("starts");
    subscriber.wait_for_output("ready\n", PATIENCE).expect("is subscribed");
    let lines: String = (0..300).map(|number| format!("{number}\n")).collect();
    let sent = client(&broker, Transport::Tcp, &["pub", "-t", "t", "-q", "1", "-l"], &lines);
    assert_eq!(sent.code, Some(0), "{}", sent.output);
    assert!(subscriber.wait(PATIENCE).expect("ends").success());
    assert_eq!(subscriber.output().expect("reads"), format!("ready\n{lines}"));
}

#[test]
fn health_is_that_of_the_running_broker() {
    let mut broker = Broker::start(&[Transport::Tcp]).unwrap_or_else(|error| panic!("{error:#}"));
    let health = |broker: &Broker| {
        // The configuration file in this folder says where the node is.
        broker.place().ratatosk(&["health", "--timeout", "10"], "").expect("runs")
    };
    let answer = health(&broker);
    assert_eq!((answer.code, answer.output.as_str()), (Some(0), "ok\n"));
    broker.signal("TERM").expect("is told");
    assert!(broker.wait(PATIENCE).expect("ends").success());
    assert_eq!(health(&broker).code, Some(4));
}

//! What README.md and the guide to clusters tell a new user to type, typed.

use std::process::Command;
use std::time::Duration;

use ratatosk_e2e::{Broker, Outcome, Place, Process, Transport, until};
use ratatosk_testkit::binary::ratatosk;

const README: &str = include_str!("../../../README.md");
const CLUSTER: &str = include_str!("../../../docs/cluster.md");
const PATIENCE: Duration = Duration::from_secs(30);

/// The shell block that holds a text.
fn block(text: &str) -> &'static str {
    let blocks = README.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut found = blocks.filter(|block| block.contains(text));
    let block = found.next().unwrap_or_else(|| panic!("README.md has no block with {text:?}"));
    block.trim_end()
}

/// A shell in which `ratatosk` is the binary under test.
fn shell(line: &str) -> Command {
    let binary = ratatosk().expect("is built");
    let mut command = Command::new("sh");
    let script = format!("ratatosk() {{ \"$RATATOSK\" \"$@\"; }}\n{line}");
    command.args(["-c", &script]).env("RATATOSK", binary.get_program());
    for (name, _) in binary.get_envs().filter(|(_, value)| value.is_none()) {
        command.env_remove(name);
    }
    command
}

fn run(place: &Place, line: &str, input: &str) -> Outcome {
    place.run(shell(line), input).expect("runs")
}

/// The ports of the test are others than those of a first start.
fn with_port(block: &str, broker: &Broker) -> String {
    format!("{block} -p {}", broker.port(Transport::Tcp))
}

#[test]
fn the_first_message_arrives_as_the_readme_says() {
    let broker = Broker::start(&[Transport::Tcp]).unwrap_or_else(|error| panic!("{error:#}"));
    let subscribe = with_port(block("mosquitto_sub -t"), &broker);
    let publish = with_port(block("mosquitto_pub -t"), &broker);
    let output = broker.place().path("first.log");
    let subscriber = Process::start(shell(&subscribe), &output).expect("starts");
    let arrived = until(PATIENCE, || {
        let outcome = run(broker.place(), &publish, "");
        assert_eq!(outcome.code, Some(0), "{publish}: {}", outcome.output);
        let found = subscriber.output()?.contains("hello/world first message\n");
        Ok(found.then_some(()))
    });
    assert!(arrived.expect("reads").is_some(), "{}", subscriber.output().expect("reads"));
}

#[test]
fn a_broker_with_users_is_configured_as_the_readme_says() {
    let place = Place::new().expect("makes");
    let lines: Vec<&str> = block("ratatosk passwd").lines().collect();
    let [passwd, start] = lines[..] else { panic!("two lines are expected: {lines:?}") };
    let added = run(&place, passwd, "wonder\n");
    assert_eq!(added.code, Some(0), "{}", added.output);
    let checked = run(&place, &start.replace("ratatosk ", "ratatosk config check "), "");
    assert_eq!(checked.code, Some(0), "{start}: {}", checked.output);
}

#[test]
fn a_local_cluster_is_started_as_the_readme_says() {
    let place = Place::new().expect("makes");
    // Its usual ports may be somebody else's.
    let line = block("dev --nodes").replace("cargo run --release --", "ratatosk");
    let line = format!("{line} --free-ports");
    let mut command = shell(&line);
    command.current_dir(place.path(""));
    let dev = Process::start(command, &place.path("dev.log")).expect("starts");
    dev.wait_for_output("3 nodes are ready after ", PATIENCE).expect("they are");
}

#[test]
fn a_node_of_a_cluster_is_configured_as_the_guide_says() {
    let place = Place::new().expect("makes");
    let example = CLUSTER.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    place.write("ratatosk.toml", example.expect("the guide has an example")).expect("writes");
    place.write("cluster.key", &"0123456789abcdef".repeat(4)).expect("writes");
    let added = run(&place, "ratatosk passwd users.txt alice", "wonder\n");
    assert_eq!(added.code, Some(0), "{}", added.output);
    for (from, to) in
        [("server.pem", "node.pem"), ("server.key", "node.key"), ("authority.pem", "ca.pem")]
    {
        std::fs::copy(place.path(from), place.path(to)).expect("copies");
    }
    let checked = run(&place, "ratatosk config check", "");
    assert_eq!(checked.code, Some(0), "{}", checked.output);
}

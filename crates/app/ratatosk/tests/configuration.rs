//! Exit codes and messages about the command line and the configuration.

use std::io::Write as _;
use std::process::Stdio;

use crate::process::{Ended, Place};

#[test]
fn a_wrong_command_line_exits_with_2() {
    for arguments in [&["--no-such-flag"][..], &["config"], &["dance"], &["--set", "novalue"]] {
        let ended = Place::new().run(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.err);
    }
}

/// CFG-007: a wrong configuration exits with 3 and says where and what, before anything starts.
#[test]
fn a_wrong_configuration_exits_with_3() {
    for command in [&["config", "check"][..], &["config", "show"], &["start"], &[]] {
        let place = Place::new().with_file("ratatosk.toml", "[log]\nlevle = \"info\"\n");
        let ended = place.run(command);
        assert_eq!(ended.code, Some(3), "{command:?}: {}", ended.err);
        let message = "ratatosk.toml:2:1: log.levle: unknown key; did you mean log.level?";
        assert!(ended.err.contains(message), "{}", ended.err);
        assert!(!place.directory.join("ratatosk-data").exists());
    }
}

/// MQTT-002, SEC-003: a start that would open the node to everybody is refused with both ways out.
#[test]
fn an_open_listener_is_refused_unless_asked_for() {
    let open = "[[listener]]\naddress = \"0.0.0.0:0\"\n";
    let place = Place::new().with_file("ratatosk.toml", open);
    let ended = place.run(&["start"]);
    assert_eq!(ended.code, Some(3));
    assert!(ended.err.contains("auth.password_file") && ended.err.contains("--allow-anonymous"));
    assert_eq!(place.run(&["config", "check", "--allow-anonymous"]).code, Some(0));
    assert_eq!(place.run(&["--allow-anonymous", "config", "check"]).code, Some(0));
}

#[test]
fn a_valid_configuration_exits_with_0() {
    let ended = Place::new().run(&["config", "check"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "the configuration is valid\n"));
}

#[test]
fn show_says_where_each_value_came_from() {
    let place = Place::new().with_file("ratatosk.toml", "data_dir = \"d\"\n");
    let mut command = place.command(&["config", "show", "--origin", "--set", "mqtt.shards=3"]);
    command
        .env("RATATOSK_LOG__FORMAT", "json")
        .env("RATATOSK_ADMIN__TOKEN", "hunter2hunter2hunter2");
    let shown = String::from_utf8(command.output().unwrap().stdout).unwrap();
    for line in [
        "data_dir = \"d\"  # ratatosk.toml:1",
        "shards = 3  # flag --set mqtt.shards",
        "format = \"json\"  # env RATATOSK_LOG__FORMAT",
        "token = \"<secret>\"  # env RATATOSK_ADMIN__TOKEN",
        "connect_timeout_seconds = 20  # default",
        "#   mqtt 127.0.0.1:1883",
    ] {
        assert!(shown.lines().any(|found| found == line), "{line} in\n{shown}");
    }
}

#[test]
fn the_environment_names_the_file() {
    let place = Place::new().with_file("other.toml", "mqtt.shards = \"x\"\n");
    let ended = place.command(&["config", "check"]).env("RATATOSK_CONFIG", "other.toml").output();
    assert_eq!(ended.unwrap().status.code(), Some(3));
    assert_eq!(place.run(&["config", "check", "--config", "missing.toml"]).code, Some(3));
    assert_eq!(place.run(&["config", "check"]).code, Some(0));
}

#[test]
fn completions_and_version_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let ended = Place::new().run(&["completions", shell]);
        assert_eq!(ended.code, Some(0));
        assert!(ended.out.contains("ratatosk") && ended.out.contains("health"), "{shell}");
    }
    let version = Place::new().run(&["--version"]).out;
    assert_eq!(version, format!("ratatosk {}\n", env!("CARGO_PKG_VERSION")));
}

/// SEC-007: a password comes from standard input, and only its hash is stored.
#[test]
fn passwd_makes_a_file_that_the_configuration_takes() {
    let place = Place::new();
    let passwd = |arguments: &[&str], input: &str| {
        let mut all = vec!["passwd", "users"];
        all.extend(arguments);
        let mut child = place.command(&all).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ended::from(child.wait_with_output().unwrap())
    };
    assert_eq!(passwd(&["bob"], "hunter2\n").out, "user bob added\n");
    assert_eq!(passwd(&["bob", "--scheme", "both"], "hunter3").out, "password of bob changed\n");
    let stored = std::fs::read_to_string(place.directory.join("users")).unwrap();
    assert!(stored.contains("bob:") && !stored.contains("hunter"), "{stored}");
    assert_eq!(passwd(&["--list"], "").out, "bob\targon2 scram\n");
    let open = ["config", "check", "--set", "auth.password_file=users"];
    let listener = ["--set", "listener.0.address=0.0.0.0:1883"];
    assert_eq!(place.run(&[&open[..], &listener].concat()).code, Some(0));
    assert_eq!(passwd(&["bob", "-D"], "").out, "user bob removed\n");
    let ended = passwd(&["bob", "-D"], "");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("there is no user bob"), "{}", ended.err);
    assert_eq!(passwd(&["eve"], "").code, Some(1));
    assert_eq!(passwd(&[], "").code, Some(2));
}

//! A node that starts, is asked, is told and stops.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::process::{Place, Running};

/// Arguments for a node that uses no well-known port.
pub(crate) const QUIET: [&str; 6] = [
    "start",
    "--set",
    "admin.address=127.0.0.1:0",
    "--set",
    "listener=[{ address = \"127.0.0.1:0\" }]",
    "--data-dir=d",
];

pub(crate) fn start(place: &Place) -> (Running, String) {
    let mut running = Running::start(place.command(&QUIET));
    let log = running.read_until("\"message\":\"ready\"");
    (running, log)
}

/// The address in the log.
fn admin_address(log: &str) -> String {
    let line = log.lines().find(|line| line.contains("management api listening")).unwrap();
    let address = line.split("\"address\":\"").nth(1).unwrap();
    address.split('"').next().unwrap().to_owned()
}

#[test]
fn a_node_answers_health_and_stops_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        let (running, log) = start(&place);
        let address = admin_address(&log);
        let healthy = place.run(&["health", "--address", &address]);
        assert_eq!((healthy.code, healthy.out.as_str()), (Some(0), "ok\n"), "{}", healthy.err);
        running.signal(signal);
        let ended = running.end();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(ended.out.contains("\"message\":\"stopped\""), "{}", ended.out);
        let gone = place.run(&["health", "--address", &address]);
        assert_eq!(gone.code, Some(4));
        assert!(gone.err.contains(&format!("nobody answers at {address}")), "{}", gone.err);
    }
}

/// CFG-008, SEC-007: the effective configuration is in the log, its secrets are not.
#[test]
fn the_effective_configuration_is_logged_without_secrets() {
    let place = Place::new().with_file("secret", "hunter2hunter2hunter2\n");
    let mut command = place.command(&QUIET);
    command.env("RATATOSK_ADMIN__TOKEN_FILE", "secret");
    let mut running = Running::start(command);
    let log = running.read_until("\"message\":\"ready\"");
    for part in [
        "only this machine can connect",
        "connect_timeout_seconds = 20",
        "<secret>",
        "(env RATATOSK_ADMIN__TOKEN_FILE)",
    ] {
        assert!(log.contains(part), "{part} in\n{log}");
    }
    running.signal(Signal::TERM);
    let ended = running.end();
    assert!(!format!("{log}{}{}", ended.out, ended.err).contains("hunter2"));
}

/// MET-014, MEM-002: a node's page has the memory of the process.
#[test]
fn the_metrics_of_a_node_are_served() {
    let place = Place::new();
    let (running, log) = start(&place);
    let mut stream = TcpStream::connect(admin_address(&log)).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    for line in ["ratatosk_memory_pressure_level 0", "ratatosk_log_dropped_lines_total 0"] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
    let limit = page.lines().find_map(|line| line.strip_prefix("ratatosk_memory_limit_bytes "));
    assert!(limit.unwrap().parse::<f64>().unwrap() > 1e7, "{page}");
    running.signal(Signal::TERM);
    assert_eq!(running.end().code, Some(0));
}

#[test]
fn a_hangup_takes_the_log_level_over_and_keeps_it_when_the_file_is_wrong() {
    let place = Place::new().with_file("ratatosk.toml", "log.level = \"info\"\n");
    let (mut running, _) = start(&place);
    let change = |text: &str| std::fs::write(place.directory.join("ratatosk.toml"), text).unwrap();
    change("log.level = \"loud\"\n");
    running.signal(Signal::HUP);
    let refused = running.read_until("configuration not reloaded");
    assert!(refused.contains("ratatosk.toml:1:5: log.level"), "{refused}");
    change("log.level = \"info,x=debug\"\nmqtt.shards = 9\n");
    running.signal(Signal::HUP);
    let log = running.read_until("configuration reloaded");
    assert!(log.contains("\"message\":\"configuration changed\",\"key\":\"log.level\""), "{log}");
    assert!(
        log.contains("\"message\":\"change needs a restart\",\"key\":\"mqtt.shards\""),
        "{log}"
    );
    change("log.level = \"off\"\n");
    running.signal(Signal::HUP);
    running.signal(Signal::TERM);
    assert_eq!(running.end().code, Some(0));
}

#[test]
fn a_taken_port_stops_the_start_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let place = Place::new();
    let ended = place.run(&["start", "--set", &format!("admin.address={address}")]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains(&format!("{address} is in use")), "{}", ended.err);
}

/// OPS-006: a data directory that cannot be used stops the start and says what to do.
#[test]
fn a_data_directory_that_cannot_be_used_exits_with_4() {
    let place = Place::new().with_file("file", "");
    let ended = place.run(&["start", "--data-dir", "file/data"]);
    assert_eq!(ended.code, Some(4), "{}", ended.err);
    assert!(ended.err.contains("cannot make the data directory file/data"), "{}", ended.err);
    assert!(ended.err.contains("--data-dir"), "{}", ended.err);
}

#[test]
fn the_service_manager_is_told() {
    let place = Place::new();
    let path = place.directory.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut command = place.command(&QUIET);
    command.env("NOTIFY_SOCKET", &path);
    let running = Running::start(command);
    let told = || {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!(told(), "READY=1\nSTATUS=serving");
    running.signal(Signal::HUP);
    let reloading = told();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert!(!reloading.ends_with("=0"), "{reloading}");
    assert_eq!(told(), "READY=1\nSTATUS=serving");
    running.signal(Signal::TERM);
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(running.end().code, Some(0));
}

#[test]
fn health_says_why_a_node_is_not_ready() {
    let place = Place::new();
    let mut command = place.command(&["health", "--timeout", "1"]);
    // A listener that never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    command.env("RATATOSK_ADMIN__ADDRESS", silent.local_addr().unwrap().to_string());
    let ended = command.output().unwrap();
    assert_eq!(ended.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("no answer from"));
}

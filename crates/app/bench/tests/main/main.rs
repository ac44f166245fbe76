//! The generator against the ideal forwarder: nothing may be lost, repeated or reordered.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use ratatosk_bench::Forwarder;
use serde_json::Value;

mod faulty;
mod storage;

/// Runs the generator; the words are those of the command line.
fn bench(port: u16, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ratatosk-bench"))
        .args(line.split_whitespace())
        .args(["--port", &port.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What it printed as JSON.
fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"))
}

/// A forwarder on a free port, stopped when dropped.
struct Floor {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Floor {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let address = ([127, 0, 0, 1], 0).into();
        let mut forwarder = Forwarder::bind(address, Arc::clone(&stop)).unwrap();
        let port = forwarder.address().port();
        let thread = thread::spawn(move || {
            let ended = forwarder.run();
            assert_eq!(ended.unwrap_err().to_string(), "interrupted");
            assert_eq!(forwarder.dropped(), 0);
        });
        Self { port, stop, thread: Some(thread) }
    }

    fn bench(&self, line: &str) -> Output {
        bench(self.port, line)
    }

    /// Runs a short scenario and returns its figures.
    fn figures(&self, line: &str) -> Value {
        let output = self.bench(&format!("{line} --warmup 0.1 --duration 0.3 --format json"));
        let report = report(&output);
        assert_eq!(output.status.code(), Some(0), "{line}: {report}");
        assert_eq!(report["failure"], Value::Null, "{line}: {report}");
        assert_eq!(report["notes"], Value::Array(Vec::new()), "{line}: {report}");
        report["figures"].clone()
    }

    fn check_sound(&self, line: &str) -> Value {
        let figures = self.figures(line);
        for name in ["loss", "dup", "out_of_order"] {
            assert_eq!(figures[name], 0, "{line}: {figures}");
        }
        assert!(figures["received"].as_u64().unwrap() > 0, "{line}: {figures}");
        assert_eq!(figures["received"], figures["expected"], "{line}: {figures}");
        assert!(figures["p50_ns"].as_u64().unwrap() > 0, "{line}: {figures}");
        figures
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the forwarder failed");
    }
}

#[test]
fn pairs_get_everything_once_and_in_order_at_each_quality_of_service() {
    let floor = Floor::start();
    floor.check_sound("--scenario S1");
    for scenario in ["S2", "S2b", "S2v5"] {
        let figures = floor.check_sound(&format!("--scenario {scenario}"));
        assert_eq!(figures["acked"], figures["sent"], "{scenario}: {figures}");
    }
}

#[test]
fn window_of_one_has_one_message_under_way_for_each_pair() {
    let floor = Floor::start();
    let figures = floor.check_sound("--scenario k1");
    assert!(figures["sent"].as_u64().unwrap() > 50, "{figures}");
}

#[test]
fn fan_out_reaches_every_subscriber() {
    let floor = Floor::start();
    for scenario in ["S3", "S3b"] {
        let figures = floor.check_sound(&format!("--scenario {scenario}"));
        let sent = figures["sent"].as_u64().unwrap();
        assert_eq!(figures["received"], sent * 1000, "{scenario}: {figures}");
    }
}

#[test]
fn shared_group_gets_each_message_once() {
    let floor = Floor::start();
    let figures = floor.check_sound("--scenario S4");
    assert_eq!(figures["received"], figures["sent"], "{figures}");
}

#[test]
fn open_loop_keeps_its_rate() {
    let floor = Floor::start();
    let figures = floor.check_sound("--scenario S7");
    // 5,000 a second for 0.4 s; a busy machine may stretch the run, never compress it.
    assert!(figures["sent"].as_u64().unwrap() >= 1990, "{figures}");
}

#[test]
fn free_form_takes_any_numbers() {
    let floor = Floor::start();
    floor.check_sound("--publishers 3 --subscribers 7 --qos 1 --size 300 --window 8");
    floor.check_sound("--publishers 4 --subscribers 2 --qos 2 --share g --topic x/{i}/y");
    floor.check_sound("--publishers 2 --subscribers 2 --size 300000 --window 4");
    let figures = floor.figures("--publishers 2 --subscribers 0 --qos 1 --rate 1000");
    assert_eq!(figures["acked"], figures["sent"]);
}

#[test]
fn assertions_decide_the_exit_code() {
    let floor = Floor::start();
    let line = "--scenario S2 --warmup 0 --duration 0.2 --assert";
    let good = floor.bench(&format!("{line} loss=0,dup=0,rate>1"));
    assert_eq!(good.status.code(), Some(0));
    let bad = floor.bench(&format!("{line} loss=0,rate>100G"));
    assert_eq!(bad.status.code(), Some(1));
    let text = String::from_utf8(bad.stdout).unwrap();
    assert!(text.contains("assert loss=0"), "{text}");
    assert!(text.contains("VIOLATED"), "{text}");
    let unknown = floor.bench(&format!("{line} speed>1"));
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("unknown figure \"speed\""));
}

#[test]
fn requests_without_sense_are_usage_errors() {
    let floor = Floor::start();
    for (line, message) in [
        ("--scenario S99", "there is no scenario"),
        ("--scenario S1 --phase fill", "--phase is for S5b, S5k and R1"),
        ("--scenario S5k", "S5k kills the broker"),
        ("--scenario R1", "R1 kills the broker"),
        ("--scenario F1 -V 3.1.1", "protocol-version is 3.1.1"),
        ("--scenario C1 --sessions 3", "sessions is 3"),
        ("--size 8", "a payload of 8 bytes is too small"),
        ("--publishers 2 --subscribers 3 --topic a/{i}", "2 publishers and 3 subscribers"),
    ] {
        let output = floor.bench(line);
        assert_eq!(output.status.code(), Some(2), "{line}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(message), "{line}: {text}");
    }
}

#[test]
fn refused_connection_is_named_with_its_target() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let output = bench(port, "--scenario S1");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("Connection refused"), "{text}");
    assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
}

#[test]
fn comparison_runs_targets_in_turn_and_gives_ratios() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    drop(free);
    let output = Command::new(env!("CARGO_BIN_EXE_ratatosk-bench"))
        .args(["compare", "--target", "one=forwarder", "--target", "two=forwarder"])
        .args(["--scenario", "S2", "--runs", "2", "--port", &port])
        .args(["--warmup", "0.1", "--duration", "0.2", "--format", "json"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&text).unwrap();
    let targets = report["scenarios"][0]["targets"].as_array().unwrap().clone();
    assert_eq!(targets.len(), 2);
    for target in targets {
        assert_eq!(target["runs"], 2, "{target}");
        assert_eq!(target["figures"]["loss"]["highest"], 0, "{target}");
        assert!(target["figures"]["rate_per_s"]["ratio_to_first"].as_f64().unwrap() > 0.0);
        assert!(target["figures"]["deliveries_per_cpu_s"]["median"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn broker_that_cannot_be_started_fails_the_comparison() {
    let output = Command::new(env!("CARGO_BIN_EXE_ratatosk-bench"))
        .args(["compare", "--target", "none=/no/such/program", "--scenario", "S1", "--runs", "1"])
        .args(["--port", "1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("FAILED none: starting none"), "{text}");
}

#[test]
fn interrupted_comparison_leaves_no_broker_behind() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut comparison = Command::new(env!("CARGO_BIN_EXE_ratatosk-bench"))
        .args(["compare", "--target", "floor=forwarder", "--scenario", "S2", "--duration", "60"])
        .args(["--port", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let answers = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    while !answers() {
        // Bounded by the comparison's own patience with a broker that does not answer.
        assert!(comparison.try_wait().unwrap().is_none(), "the broker was never started");
        thread::yield_now();
    }
    let id = comparison.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let status = comparison.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(!answers(), "the broker still answers on port {port}");
}

//! What is written, and that a stuck reader stops nobody.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Config, Filter, Format, Handle, build};

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(format: Format, filter: &str, terminal: bool, act: impl FnOnce(&Handle)) -> String {
    let memory = Memory::default();
    let config = Config { format, filter: Filter::parse(filter).unwrap() };
    let (dispatch, handle) = build(&config, terminal, Box::new(memory.clone())).unwrap();
    tracing::dispatcher::with_default(&dispatch, || act(&handle));
    handle.flush(PATIENCE);
    let bytes = memory.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn text_on_a_terminal_and_json_otherwise() {
    let act = |_: &Handle| tracing::info!(address = "127.0.0.1:1883", "listening");
    let text = logged(Format::Auto, "info", true, act);
    assert!(text.contains("INFO") && text.contains("listening"), "{text}");
    assert!(!text.starts_with('{'), "{text}");
    let json = logged(Format::Auto, "info", false, act);
    assert!(json.starts_with('{') && json.ends_with("}\n"), "{json}");
    for part in [r#""level":"INFO""#, r#""message":"listening""#, r#""address":"127.0.0.1:1883""#] {
        assert!(json.contains(part), "{part} in {json}");
    }
    assert!(logged(Format::Text, "info", false, act).contains("INFO"));
    assert!(logged(Format::Json, "info", true, act).starts_with('{'));
}

#[test]
fn modules_have_levels_of_their_own() {
    let text = logged(Format::Text, "warn,noisy=off,chatty=debug", false, |_| {
        tracing::info!("quiet");
        tracing::warn!("loud");
        tracing::error!(target: "noisy", "never");
        tracing::debug!(target: "chatty", "always");
    });
    assert!(text.contains("loud") && text.contains("always"), "{text}");
    assert!(!text.contains("quiet") && !text.contains("never"), "{text}");
}

#[test]
fn the_filter_is_replaced_while_running() {
    let text = logged(Format::Text, "warn", false, |handle| {
        tracing::info!("before");
        handle.refilter(&Filter::parse("info").unwrap());
        tracing::info!("after");
    });
    assert!(!text.contains("before") && text.contains("after"), "{text}");
}

#[test]
fn a_filter_that_is_not_understood_is_refused_with_the_levels() {
    for filter in ["", "loud", "info,ratatosk_mqtt=verbose", "info,", "5"] {
        let error = Filter::parse(filter).unwrap_err().to_string();
        assert!(error.contains("is no log level"), "{error}");
    }
    for filter in ["off", "DEBUG", "info,ratatosk_mqtt=trace", " warn,ratatosk_dist::front=debug "]
    {
        assert!(Filter::parse(filter).is_ok(), "{filter}");
    }
}

/// An output that takes nothing until it is released.
struct Stuck(Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.recv();
        Ok(())
    }
}

#[test]
fn a_stuck_output_drops_and_counts_lines_and_blocks_nobody() {
    let (release, released) = sync_channel::<()>(0);
    let config = Config { format: Format::Text, filter: Filter::default() };
    let (dispatch, handle) = build(&config, false, Box::new(Stuck(released))).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        for _ in 0..20_000 {
            tracing::info!("a line that nobody reads");
        }
    });
    assert!(handle.dropped() > 1_000, "{} dropped", handle.dropped());
    drop(release);
}

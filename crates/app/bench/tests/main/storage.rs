//! A broker that stores: queues for sessions that are away, and retained messages. Told to, it loses
//! some of what it acknowledged, which is what the queueing scenarios exist to find out.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use crate::{bench, report};

/// Sessions with a shorter expiry end with their connection.
const EXPIRY_SECONDS_MIN: u8 = 10;

#[derive(Debug, Default)]
struct Session {
    filter: Vec<u8>,
    queue: Vec<Vec<u8>>,
    /// Present while the client is online.
    stream: Option<TcpStream>,
}

#[derive(Debug, Default)]
struct Store {
    sessions: HashMap<Vec<u8>, Session>,
    retained: BTreeMap<Vec<u8>, Vec<u8>>,
    stored: u64,
    /// Of so many messages one is acknowledged and forgotten.
    lose_every: Option<u64>,
}

/// Who is at the other end.
#[derive(Debug, Default)]
struct Client {
    id: Vec<u8>,
    /// Bytes of an empty list of properties: one in MQTT 5, none before.
    property_size: usize,
    is_brief: bool,
}

fn start(lose_every: Option<u64>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let store = Arc::new(Mutex::new(Store { lose_every, ..Store::default() }));
    // The threads end with their connections, and the listener's with the test process.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let mut client = Client::default();
                serve(stream, &store, &mut client);
                let mut store = store.lock().unwrap();
                if client.is_brief {
                    store.sessions.remove(&client.id);
                } else if let Some(session) = store.sessions.get_mut(&client.id) {
                    session.stream = None;
                }
            });
        }
    });
    port
}

/// One packet of at most two bytes of length: its body and the whole.
fn packet(stream: &mut TcpStream) -> Option<(usize, Vec<u8>)> {
    let mut bytes = vec![0; 2];
    stream.read_exact(&mut bytes).ok()?;
    let mut size = usize::from(bytes[1] & 0x7f);
    if bytes[1] & 0x80 != 0 {
        bytes.push(0);
        stream.read_exact(&mut bytes[2..]).ok()?;
        size |= usize::from(bytes[2]) << 7;
    }
    let head = bytes.len();
    bytes.resize(head + size, 0);
    stream.read_exact(&mut bytes[head..]).ok()?;
    Some((head, bytes))
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let size = usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
    bytes[2..2 + size].to_vec()
}

fn serve(mut stream: TcpStream, store: &Mutex<Store>, client: &mut Client) -> Option<()> {
    loop {
        let (head, bytes) = packet(&mut stream)?;
        let body = &bytes[head..];
        let mut store = store.lock().unwrap();
        let mut out = Vec::new();
        match bytes[0] >> 4 {
            1 => {
                let is_present = store.greet(client, body, &stream);
                out.extend_from_slice(&[0x20, 2, u8::from(is_present), 0]);
                if client.property_size == 1 {
                    out[1] += 1;
                    out.push(0);
                }
                if let Some(session) = store.sessions.get_mut(&client.id) {
                    out.extend(session.queue.drain(..).flatten());
                }
            }
            3 => {
                let topic = string(body);
                out.extend_from_slice(&[0x40, 2, body[2 + topic.len()], body[3 + topic.len()]]);
                let is_empty = body.len() == topic.len() + 4 + client.property_size;
                store.keep(&bytes, topic, is_empty);
            }
            8 => {
                let filter = string(&body[2 + client.property_size..]);
                out.extend_from_slice(&[0x90, 3, body[0], body[1], 1]);
                if client.property_size == 1 {
                    out[1] += 1;
                    out.insert(4, 0);
                }
                if filter == b"r/#" {
                    out.extend(store.retained.values().flatten());
                }
                let stream = stream.try_clone().ok();
                let session = Session { filter, queue: Vec::new(), stream };
                store.sessions.insert(client.id.clone(), session);
            }
            4 => {}
            _ => return None,
        }
        // Under the lock, so that no other message comes before the answer.
        stream.write_all(&out).ok()?;
    }
}

impl Store {
    /// Reads a CONNECT and takes the session up; true if there was one.
    fn greet(&mut self, client: &mut Client, body: &[u8], stream: &TcpStream) -> bool {
        let is_clean = body[7] & 2 != 0;
        client.property_size = usize::from(body[6] == 5);
        if client.property_size == 1 {
            let size = usize::from(body[10]);
            client.id = string(&body[11 + size..]);
            // The only property is the expiry, of which the low byte is enough.
            client.is_brief =
                size == 0 || (body[12..15] == [0; 3] && body[15] < EXPIRY_SECONDS_MIN);
        } else {
            client.id = string(&body[10..]);
            client.is_brief = is_clean;
        }
        if is_clean {
            self.sessions.remove(&client.id);
        }
        let Some(session) = self.sessions.get_mut(&client.id) else { return false };
        session.stream = stream.try_clone().ok();
        true
    }

    fn keep(&mut self, bytes: &[u8], topic: Vec<u8>, is_empty: bool) {
        self.stored += 1;
        if self.lose_every.is_some_and(|every| self.stored.is_multiple_of(every)) {
            return;
        }
        if bytes[0] & 1 == 1 {
            if is_empty {
                self.retained.remove(&topic);
            } else {
                self.retained.insert(topic, bytes.to_vec());
            }
            return;
        }
        for session in self.sessions.values_mut().filter(|session| session.filter == topic) {
            match &mut session.stream {
                Some(stream) => drop(stream.write_all(bytes)),
                None => session.queue.push(bytes.to_vec()),
            }
        }
    }
}

/// Runs the generator and takes its reports, of which there may be several.
fn reports(port: u16, line: &str) -> Vec<Value> {
    let output = bench(port, &format!("{line} --format json"));
    let text = String::from_utf8_lossy(&output.stdout);
    let reports = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let reports: Vec<Value> = reports.map(Result::unwrap).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{line}: {text}{errors}");
    reports
}

fn check_figures(report: &Value, scenario: &str, expected: &[(&str, u64)]) {
    assert_eq!(report["scenario"], scenario);
    assert_eq!(report["failure"], Value::Null, "{report}");
    for &(name, value) in expected {
        assert_eq!(report["figures"][name], value, "{name}: {report}");
    }
}

#[test]
fn queued_messages_are_drained_in_a_process_of_their_own() {
    let port = start(None);
    let fill = bench(port, "--scenario S5b --phase fill --messages 1000 --format json");
    let filled = report(&fill);
    assert_eq!(filled["scenario"], "S5b-fill");
    assert_eq!(filled["figures"]["acked"], 1000, "{filled}");
    let drain = bench(port, "--scenario S5b --phase drain --messages 1000 --format json");
    let drained = report(&drain);
    let figures = &drained["figures"];
    for (name, value) in
        [("received", 1000), ("loss", 0), ("dup", 0), ("out_of_order", 0), ("sessions_present", 50)]
    {
        assert_eq!(figures[name], value, "{name}: {drained}");
    }
    assert!(figures["read_rate_per_s"].as_f64().unwrap() > 0.0, "{drained}");
}

#[test]
fn acknowledged_but_forgotten_messages_are_the_loss_of_the_drain() {
    let port = start(Some(100));
    let output = bench(port, "--scenario S5b --messages 1000 --assert acked=1000,loss=0");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("holds: 1 000\n"), "{text}");
    assert!(text.contains("VIOLATED: 10\n"), "{text}");
    // Each assertion belongs to the phase that measures its figure.
    assert!(!text.contains("not measured"), "{text}");
    assert_eq!(text.matches("assert ").count(), 2, "{text}");
}

#[test]
fn assertion_that_no_phase_measures_is_violated_once() {
    let port = start(None);
    let output = bench(port, "--scenario S5b --messages 100 --assert rss<1GiB");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.matches("VIOLATED: not measured").count(), 1, "{text}");
}

#[test]
fn retained_messages_are_stored_and_all_read_back() {
    let output = bench(start(None), "--scenario S9 --messages 2000 --format json");
    let all = report(&output);
    assert_eq!(all["figures"]["acked"], 2000, "{all}");
    assert_eq!(all["figures"]["received"], 2000, "{all}");
    assert_eq!(all["figures"]["loss"], 0, "{all}");
    assert_eq!(all["figures"]["dup"], 0, "{all}");

    let output = bench(start(Some(500)), "--scenario S9 --messages 2000 --format json");
    let some = report(&output);
    assert_eq!(some["figures"]["loss"], 4, "{some}");
}

#[test]
fn sessions_that_were_away_get_what_those_online_got() {
    let line = "--scenario F1 --sessions 40 --messages 20";
    let all = reports(start(None), line);
    assert_eq!(all.len(), 2, "{all:?}");
    let online = [("acked", 20), ("received", 80), ("loss", 0), ("dup", 0), ("out_of_order", 0)];
    check_figures(&all[0], "F1-publish", &online);
    let away = [("received", 720), ("loss", 0), ("dup", 0), ("sessions_present", 36)];
    check_figures(&all[1], "F1-drain", &away);
    assert!(all[0]["figures"]["publish_time_ns"].as_u64().unwrap() > 0, "{all:?}");
}

#[test]
fn stored_sessions_and_retained_messages_are_all_found_after_the_start() {
    let port = start(None);
    let line = "--scenario R1 --sessions 60 --retained 100 --phase";
    let filled = reports(port, &format!("{line} fill"));
    check_figures(&filled[0], "R1-fill", &[("acked", 600), ("subscribed", 60)]);
    check_figures(&filled[1], "R1-retain", &[("acked", 100)]);
    let drained = reports(port, &format!("{line} drain"));
    let returned = [("received", 30), ("loss", 0), ("dup", 0), ("sessions_present", 3)];
    check_figures(&drained[0], "R1-return", &returned);
    check_figures(&drained[1], "R1-read", &[("received", 100), ("loss", 0)]);
}

#[test]
fn churn_ends_with_nothing_left() {
    let line = "--scenario C1 --sessions 20 --retained 10 --warmup 0.1 --duration 1.2";
    let all = reports(start(None), line);
    check_figures(&all[0], "C1-steady", &[("loss", 0), ("dup", 0), ("out_of_order", 0)]);
    assert!(all[0]["figures"]["p99_last_ns"].as_u64().unwrap() > 0, "{all:?}");
    let left =
        [("loss", 0), ("dup", 0), ("foreign", 0), ("sessions_left", 0), ("retained_left", 0)];
    check_figures(&all[1], "C1-churn", &left);
    assert!(all[1]["figures"]["rounds"].as_u64().unwrap() >= 1, "{all:?}");
}

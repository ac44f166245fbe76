//! A broker that stores: queues for sessions that are away, and retained messages. Told to, it loses
//! some of what it acknowledged, which is what the queueing scenarios exist to find out.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::{bench, report};

#[derive(Debug, Default)]
struct Session {
    filter: Vec<u8>,
    queue: Vec<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Store {
    sessions: HashMap<Vec<u8>, Session>,
    retained: Vec<Vec<u8>>,
    stored: u64,
    /// Of so many messages one is acknowledged and forgotten.
    lose_every: Option<u64>,
}

fn start(lose_every: Option<u64>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let store = Arc::new(Mutex::new(Store { lose_every, ..Store::default() }));
    // The threads end with their connections, and the listener's with the test process.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let store = Arc::clone(&store);
            thread::spawn(move || serve(stream, &store));
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

fn serve(mut stream: TcpStream, store: &Mutex<Store>) -> Option<()> {
    let mut client = Vec::new();
    loop {
        let (head, bytes) = packet(&mut stream)?;
        let body = &bytes[head..];
        let mut store = store.lock().unwrap();
        let mut out = Vec::new();
        match bytes[0] >> 4 {
            1 => {
                client = string(&body[10..]);
                let clean = body[7] & 2 != 0;
                if clean {
                    store.sessions.remove(&client);
                }
                let present = u8::from(store.sessions.contains_key(&client));
                out.extend_from_slice(&[0x20, 2, present, 0]);
                if let Some(session) = store.sessions.get_mut(&client) {
                    out.extend(session.queue.drain(..).flatten());
                }
            }
            3 => {
                let topic = string(body);
                out.extend_from_slice(&[0x40, 2, body[2 + topic.len()], body[3 + topic.len()]]);
                store.keep(bytes, &topic);
            }
            8 => {
                let filter = string(&body[2..]);
                out.extend_from_slice(&[0x90, 3, body[0], body[1], 1]);
                if filter == b"r/#" {
                    out.extend(store.retained.iter().flatten());
                }
                store.sessions.insert(client.clone(), Session { filter, queue: Vec::new() });
            }
            4 => {}
            _ => return None,
        }
        drop(store);
        stream.write_all(&out).ok()?;
    }
}

impl Store {
    fn keep(&mut self, bytes: Vec<u8>, topic: &[u8]) {
        self.stored += 1;
        if self.lose_every.is_some_and(|every| self.stored.is_multiple_of(every)) {
            return;
        }
        if bytes[0] & 1 == 1 {
            self.retained.push(bytes);
        } else if let Some(session) =
            self.sessions.values_mut().find(|session| session.filter == topic)
        {
            session.queue.push(bytes);
        }
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

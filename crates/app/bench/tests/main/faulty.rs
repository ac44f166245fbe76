//! Brokers that misbehave on purpose: the generator must notice, count and name it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use crate::{bench, report};

/// What the broker does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// CONNACK 5.
    Unauthorized,
    /// The connection of the publisher ends after some messages.
    Close,
    /// Some messages are dropped, repeated, exchanged with their successor.
    Shuffle,
    /// CONNECT is answered with something that is not MQTT.
    Noise,
}

/// What was done wrong so far.
#[derive(Debug, Default)]
struct Planted {
    dropped: AtomicU64,
    repeated: AtomicU64,
    exchanged: AtomicU64,
}

struct Faulty {
    port: u16,
    planted: Arc<Planted>,
}

impl Faulty {
    fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let planted = Arc::new(Planted::default());
        let subscriber = Arc::new(Mutex::new(None));
        let counts = Arc::clone(&planted);
        // The threads end with their connections, and the listener's with the test process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counts, subscriber) = (Arc::clone(&counts), Arc::clone(&subscriber));
                thread::spawn(move || serve(stream, fault, &counts, &subscriber));
            }
        });
        Self { port, planted }
    }
}

/// One packet: first byte and the whole, for packets shorter than 128 bytes.
fn packet(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 2];
    stream.read_exact(&mut bytes).ok()?;
    assert!(bytes[1] < 128, "the test sends only small packets");
    let size = usize::from(bytes[1]);
    bytes.resize(2 + size, 0);
    stream.read_exact(&mut bytes[2..]).ok()?;
    Some(bytes)
}

fn serve(
    mut stream: TcpStream,
    fault: Fault,
    planted: &Planted,
    subscriber: &Mutex<Option<TcpStream>>,
) -> Option<()> {
    let mut count = 0_u64;
    let mut held = None;
    loop {
        let bytes = packet(&mut stream)?;
        match bytes[0] >> 4 {
            1 if fault == Fault::Noise => stream.write_all(&[0x20, 0xff, 0xff, 0xff, 0xff]).ok()?,
            1 if fault == Fault::Unauthorized => stream.write_all(&[0x20, 2, 0, 5]).ok()?,
            1 => stream.write_all(&[0x20, 2, 0, 0]).ok()?,
            8 => {
                stream.write_all(&[0x90, 3, bytes[2], bytes[3], 0]).ok()?;
                *subscriber.lock().unwrap() = stream.try_clone().ok();
            }
            3 => {
                count += 1;
                if fault == Fault::Close && count > 100 {
                    return None;
                }
                let out = shuffle(bytes, count, &mut held, fault, planted);
                subscriber.lock().unwrap().as_mut()?.write_all(&out).ok()?;
            }
            _ => return None,
        }
    }
}

/// What goes to the subscriber in place of message `count`.
fn shuffle(
    bytes: Vec<u8>,
    count: u64,
    held: &mut Option<Vec<u8>>,
    fault: Fault,
    planted: &Planted,
) -> Vec<u8> {
    if fault != Fault::Shuffle {
        return bytes;
    }
    if let Some(earlier) = held.take() {
        planted.exchanged.fetch_add(1, Ordering::SeqCst);
        return [bytes, earlier].concat();
    }
    match count % 50 {
        10 => {
            planted.dropped.fetch_add(1, Ordering::SeqCst);
            Vec::new()
        }
        20 => {
            planted.repeated.fetch_add(1, Ordering::SeqCst);
            bytes.repeat(2)
        }
        30 => {
            *held = Some(bytes);
            Vec::new()
        }
        _ => bytes,
    }
}

const PAIR: &str = "--publishers 1 --subscribers 1 --size 32 --warmup 0 --duration 0.3";

#[test]
fn planted_loss_duplicates_and_disorder_are_counted_exactly() {
    let faulty = Faulty::start(Fault::Shuffle);
    let output = bench(faulty.port, &format!("{PAIR} --rate 2000 --format json"));
    let figures = report(&output)["figures"].clone();
    let planted = |count: &AtomicU64| Value::from(count.load(Ordering::SeqCst));
    assert!(faulty.planted.dropped.load(Ordering::SeqCst) >= 5, "{figures}");
    assert_eq!(figures["dup"], planted(&faulty.planted.repeated), "{figures}");
    assert_eq!(figures["out_of_order"], planted(&faulty.planted.exchanged), "{figures}");
    let loss = figures["loss"].as_u64().unwrap();
    let dropped = faulty.planted.dropped.load(Ordering::SeqCst);
    // The last message of all may be one that waits for its successor.
    assert!(loss == dropped || loss == dropped + 1, "{dropped} dropped: {figures}");
    let verdict = bench(faulty.port, &format!("{PAIR} --rate 2000 --assert loss=0,dup=0"));
    assert_eq!(verdict.status.code(), Some(1));
}

#[test]
fn connack_code_is_named() {
    let faulty = Faulty::start(Fault::Unauthorized);
    let output = bench(faulty.port, PAIR);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("connection refused by connack: not authorized (0x05)"), "{text}");
    assert!(text.contains("1 of 1 connections"), "{text}");
}

#[test]
fn connection_closed_in_mid_run_fails_the_run_with_its_count() {
    let faulty = Faulty::start(Fault::Close);
    let output = bench(faulty.port, &format!("{PAIR} --format json"));
    assert_eq!(output.status.code(), Some(1));
    let report = report(&output);
    assert_eq!(report["failure"], "1 of 2 connections were closed by the broker");
    assert_eq!(report["figures"]["received"], 100, "{report}");
    assert!(report["figures"]["loss"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn bytes_that_are_not_mqtt_are_reported_as_such() {
    let faulty = Faulty::start(Fault::Noise);
    let output = bench(faulty.port, PAIR);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("malformed packet: remaining length"), "{text}");
}

//! The attack on decoders: packets of the fuzzer's corpus, mutated, sent to the running broker.
//!
//! The seed decides everything that is sent. A mutated packet goes behind a valid CONNECT, or takes
//! its place; a connection is used until the broker ends it or a handful of packets are sent.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::packet;

/// A generator of numbers: splitmix64.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Begins with a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % bound.max(1) as u64).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or(0)
    }
}

/// Packets to begin with: the corpus of the decoder's fuzz target, without the byte that chooses
/// the version there.
///
/// # Errors
/// If there is no corpus.
pub fn corpus() -> Result<Vec<Vec<u8>>> {
    let folder =
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/codec_decode"));
    let mut packets = Vec::new();
    let entries = fs::read_dir(&folder).with_context(|| format!("reading {folder:?}"))?;
    let mut names: Vec<_> =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    names.sort();
    for name in names {
        packets.push(fs::read(name)?.split_off(1));
    }
    ensure!(packets.len() > 20, "the corpus has {} packets only", packets.len());
    Ok(packets)
}

/// Changes a packet in one to four places.
pub fn mutate(dice: &mut Dice, packet: &mut Vec<u8>) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(packet.len());
        match dice.below(9) {
            0 if !packet.is_empty() => packet[at] ^= 1 << dice.below(8),
            1 if !packet.is_empty() => packet[at] = dice.byte(),
            2 if !packet.is_empty() => packet[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
            3 => packet.insert(at, dice.byte()),
            4 if packet.len() > 1 => {
                packet.remove(at);
            }
            5 => packet.truncate(at.max(1)),
            6 => {
                let piece = packet[at..].to_vec();
                packet.extend(piece);
            }
            7 => packet.extend((0..dice.below(300)).map(|_| b'z')),
            // The length fits again: what is behind it is looked at.
            _ if packet.len() > 2 && packet[1] & 0x80 == 0 => {
                packet[1] = u8::try_from((packet.len() - 2).min(127)).unwrap_or(0);
            }
            _ => {}
        }
        if packet.is_empty() {
            packet.push(dice.byte());
        }
    }
}

/// Sends `count` mutated packets on connections one after the other.
///
/// # Errors
/// If a connection is not accepted: the broker is gone.
pub fn run(address: SocketAddr, seed: u64, count: u64) -> Result<u64> {
    let corpus = corpus()?;
    let mut dice = Dice::new(seed);
    let mut sent = 0;
    let mut connections = 0;
    while sent < count {
        let mut stream = TcpStream::connect(address)
            .with_context(|| format!("connecting after {sent} packets of seed {seed}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        connections += 1;
        let mut bytes = Vec::new();
        if dice.below(8) > 0 {
            let version = 3 + dice.below(3);
            bytes.extend(connect(version, &format!("mutant-{}", dice.below(40))));
        }
        for _ in 0..=dice.below(6) {
            let mut packet = corpus[dice.below(corpus.len())].clone();
            mutate(&mut dice, &mut packet);
            bytes.extend(packet);
            sent += 1;
        }
        // That the broker ends it in between is the usual case.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = [0; 4096];
        while stream.read(&mut answer).is_ok_and(|count| count > 0) {}
    }
    Ok(connections)
}

fn connect(version: usize, client: &str) -> Vec<u8> {
    if version == 5 {
        return packet::connect(client);
    }
    let mut body = match version {
        3 => b"\x00\x06MQIsdp\x03\x02\x00\x3c\x00".to_vec(),
        _ => b"\x00\x04MQTT\x04\x02\x00\x3c\x00".to_vec(),
    };
    body.push(u8::try_from(client.len()).unwrap_or(0));
    body.extend_from_slice(client.as_bytes());
    packet::packet(0x10, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_what_is_sent() {
        let mutants = |seed| {
            let mut dice = Dice::new(seed);
            let mutant = |packet: Vec<u8>| {
                let mut packet = packet;
                mutate(&mut dice, &mut packet);
                packet
            };
            corpus().expect("a corpus").into_iter().map(mutant).collect::<Vec<_>>()
        };
        assert_eq!(mutants(7), mutants(7));
        assert_ne!(mutants(7), mutants(8));
    }
}

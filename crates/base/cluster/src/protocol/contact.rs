//! The handshake of two processes that have not heard of each other.
//!
//! *Hello* asks who is there and carries a nonce; *welcome* says who, echoes the nonce and carries one of
//! its own; *confirm* echoes that one. An echo of a nonce that was handed out a moment ago proves that
//! its sender is alive now and reached at the address that it writes from: so windows against replays
//! are opened (`replay.rs`), and a host without a cluster learns in which one it is.
//!
//! A process has one nonce at a time, for everybody, and takes echoes of it and of the one before. So a
//! flood of hellos costs no memory; and an answer is no longer than its question.

use std::time::Duration;

use ratatosk_clock::Instant;

use super::identity::Host;
use super::wire::{Malformed, Reader};

/// Unpredictable, and never zero.
pub(crate) type Nonce = [u8; 16];

const NONCE_LIFE: Duration = Duration::from_secs(10);

/// One message of the three.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contact {
    pub(crate) host: Host,
    pub(crate) nonce: Nonce,
    /// Zero in a hello.
    pub(crate) echo: Nonce,
}

impl Contact {
    /// The bytes of a message of this host.
    pub(crate) fn length(host: &Host) -> usize {
        let address = if host.address.is_ipv6() { 16 } else { 4 };
        1 + address + 2 + 8 + 16 + 32
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.host.encode(out);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.echo);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Contact, Malformed> {
        let mut reader = Reader::new(bytes);
        let host = Host::decode(&mut reader)?;
        let contact = Contact { host, nonce: reader.array()?, echo: reader.array()? };
        reader.end()?;
        Ok(contact)
    }
}

/// The nonces that a process hands out.
#[derive(Debug)]
pub(crate) struct Nonces {
    current: Nonce,
    previous: Option<Nonce>,
    since: Instant,
}

impl Nonces {
    pub(crate) fn new(now: Instant, first: Nonce) -> Self {
        Nonces { current: first, previous: None, since: now }
    }

    /// The nonce to hand out; `draw` makes one.
    pub(crate) fn current(&mut self, now: Instant, draw: impl FnOnce() -> Nonce) -> Nonce {
        self.age(now);
        if now.since(self.since) >= NONCE_LIFE {
            self.previous = Some(self.current);
            self.current = draw();
            self.since = now;
        }
        self.current
    }

    /// Whether an echo is of a nonce that was handed out within the last 20 s.
    pub(crate) fn is_fresh(&mut self, now: Instant, echo: &Nonce) -> bool {
        self.age(now);
        let is_current = *echo == self.current && now.since(self.since) < NONCE_LIFE * 2;
        is_current || Some(*echo) == self.previous
    }

    fn age(&mut self, now: Instant) {
        if now.since(self.since) >= NONCE_LIFE {
            self.previous = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::identity::HostId;

    #[test]
    fn a_message_is_as_long_as_it_says() {
        for address in ["10.0.0.1:1", "[2001:db8::1]:1"] {
            let address = address.parse().expect("an address");
            let host = Host { address, generation: 1, id: HostId::from_bytes([1; 16]) };
            let contact = Contact { host, nonce: [1; 16], echo: [2; 16] };
            let mut bytes = Vec::new();
            contact.encode(&mut bytes);
            assert_eq!(bytes.len(), Contact::length(&host));
            assert_eq!(Contact::decode(&bytes), Ok(contact));
        }
    }

    #[test]
    fn an_echo_is_fresh_for_twenty_seconds_at_most() {
        let at = Instant::from_millis;
        let mut nonces = Nonces::new(at(0), [1; 16]);
        assert!(nonces.is_fresh(at(9_999), &[1; 16]));
        assert!(nonces.is_fresh(at(15_000), &[1; 16]));
        assert_eq!(nonces.current(at(15_000), || [2; 16]), [2; 16]);
        assert!(nonces.is_fresh(at(16_000), &[1; 16]));
        assert!(!nonces.is_fresh(at(25_000), &[1; 16]));
        assert!(nonces.is_fresh(at(25_000), &[2; 16]));
        assert!(!nonces.is_fresh(at(35_000), &[2; 16]));
        assert!(!nonces.is_fresh(at(16_000), &[0; 16]));
    }
}

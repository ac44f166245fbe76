//! The ideal forwarder: the floor that no broker can beat, since it does nothing that a broker must.
//!
//! One thread, batched reads and writes, no topic table, no sessions, no queues, no checks. A publisher's
//! frames go to the subscriber whose number ends the topic; without such a subscriber to one member of
//! the group in turn; without a group to all. Acknowledgements are answered at once and those of
//! subscribers are swallowed. Good for comparison and for nothing else.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::machine::scan::{self, Frame, Malformed};
use crate::machine::wire::{
    self, CONNECT, DISCONNECT, PINGREQ, PINGRESP_BYTES, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL,
    SUBSCRIBE,
};
use crate::net::{Closed, Handler, LinkIndex, Links, Net};

/// Packets up to this size are forwarded.
const PACKET_MAX: usize = 16 * 1024 * 1024;
/// Bytes that may wait for one subscriber; what exceeds is dropped and counted.
const PENDING_MAX: usize = 256 * 1024 * 1024;
/// Numbers at the end of topics that are routed; larger ones go to all.
const NUMBER_MAX: usize = 1_000_000;
/// How long a turn waits, so that a request to stop is noticed.
const TURN: Duration = Duration::from_millis(100);

/// A running forwarder.
#[derive(Debug)]
pub struct Forwarder {
    net: Net,
    switch: Switch,
    address: SocketAddr,
}

impl Forwarder {
    /// Listens on `address`; port 0 takes a free one. It runs until `stop` is set.
    pub fn bind(address: SocketAddr, stop: Arc<AtomicBool>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let mut net = Net::new(PACKET_MAX, stop)?;
        net.listen(listener)?;
        Ok(Self { net, switch: Switch::default(), address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards until it is told to stop, which is reported as an error.
    pub fn run(&mut self) -> anyhow::Result<()> {
        loop {
            self.net.turn(&mut self.switch, TURN)?;
            self.net.flush(&mut self.switch);
        }
    }

    /// Messages that were dropped because a subscriber did not read.
    pub fn dropped(&self) -> u64 {
        self.switch.dropped
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Peer {
    version_five: bool,
    /// Of the last message sent to this subscriber.
    packet_id: u16,
}

/// The whole state: who takes what.
#[derive(Debug, Default)]
struct Switch {
    peers: Vec<Peer>,
    /// Subscribers by the number that ends their filter.
    numbered: Vec<Option<LinkIndex>>,
    /// Members of shared groups.
    group: Vec<LinkIndex>,
    turn: usize,
    /// Subscribers of everything else.
    all: Vec<LinkIndex>,
    dropped: u64,
}

/// Frames of QoS 0 that lie side by side and go to the same subscriber.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    target: LinkIndex,
    from: usize,
    to: usize,
}

impl Switch {
    /// Forwards one publication; frames of QoS 0 to a numbered subscriber only extend `stretch`.
    #[inline]
    fn publish(
        &mut self,
        links: &mut Links,
        link: LinkIndex,
        frame: Frame<'_>,
        at: usize,
        stretch: &mut Option<Stretch>,
        bytes: &[u8],
    ) -> Result<(), Malformed> {
        let publish = scan::publish(frame, false)?;
        let numbered = number_at_end(publish.topic)
            .and_then(|number| self.numbered.get(number).copied().flatten());
        if publish.qos == 0
            && let Some(target) = numbered
        {
            match stretch {
                Some(open) if open.target == target && open.to == at => {
                    open.to = at + frame.size;
                }
                _ => {
                    self.copy(links, stretch.take(), bytes);
                    *stretch = Some(Stretch { target, from: at, to: at + frame.size });
                }
            }
            return Ok(());
        }
        match publish.qos {
            0 => {}
            1 => links
                .buffer(link)
                .extend_from_slice(&wire::acknowledgement(PUBACK, publish.packet_id)),
            _ => links
                .buffer(link)
                .extend_from_slice(&wire::acknowledgement(PUBREC, publish.packet_id)),
        }
        let whole = &bytes[at..at + frame.size];
        let id_at =
            (publish.qos > 0).then_some(frame.size - frame.body.len() + 2 + publish.topic.len());
        if let Some(target) = numbered {
            self.send(links, target, whole, id_at);
        } else if !self.group.is_empty() {
            self.turn = (self.turn + 1) % self.group.len();
            self.send(links, self.group[self.turn], whole, id_at);
        } else {
            for index in 0..self.all.len() {
                self.send(links, self.all[index], whole, id_at);
            }
        }
        Ok(())
    }

    #[inline]
    fn send(&mut self, links: &mut Links, target: LinkIndex, frame: &[u8], id_at: Option<usize>) {
        if links.pending(target) > PENDING_MAX {
            self.dropped += 1;
            return;
        }
        let out = links.buffer(target);
        let start = out.len();
        out.extend_from_slice(frame);
        if let Some(id_at) = id_at {
            let peer = &mut self.peers[target];
            peer.packet_id = peer.packet_id.checked_add(1).unwrap_or(1);
            out[start + id_at..start + id_at + 2].copy_from_slice(&peer.packet_id.to_be_bytes());
        }
    }

    fn copy(&mut self, links: &mut Links, stretch: Option<Stretch>, bytes: &[u8]) {
        let Some(stretch) = stretch else { return };
        if links.pending(stretch.target) > PENDING_MAX {
            self.dropped += 1;
            return;
        }
        links.buffer(stretch.target).extend_from_slice(&bytes[stretch.from..stretch.to]);
    }

    fn control(
        &mut self,
        links: &mut Links,
        link: LinkIndex,
        frame: Frame<'_>,
    ) -> Result<(), Malformed> {
        let answer = match frame.packet_type() {
            CONNECT => {
                let five = frame.body.get(6) == Some(&5);
                self.peers[link].version_five = five;
                let connack: &[u8] = if five { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] };
                links.buffer(link).extend_from_slice(connack);
                return Ok(());
            }
            SUBSCRIBE => return self.subscribe(links, link, frame),
            PUBREC => wire::acknowledgement(PUBREL, wire::read_acknowledgement(frame)?.0),
            PUBREL => wire::acknowledgement(PUBCOMP, wire::read_acknowledgement(frame)?.0),
            PINGREQ => {
                links.buffer(link).extend_from_slice(&PINGRESP_BYTES);
                return Ok(());
            }
            DISCONNECT => {
                self.forget(link);
                links.close(link);
                return Ok(());
            }
            _ => return Ok(()),
        };
        links.buffer(link).extend_from_slice(&answer);
        Ok(())
    }

    fn subscribe(
        &mut self,
        links: &mut Links,
        link: LinkIndex,
        frame: Frame<'_>,
    ) -> Result<(), Malformed> {
        let truncated = Malformed::Truncated { packet_type: SUBSCRIBE };
        let (id, mut rest) = frame.body.split_first_chunk::<2>().ok_or(truncated)?;
        let five = self.peers[link].version_five;
        if five {
            let (length, width) = scan::variable_integer(rest)?.ok_or(truncated)?;
            rest = rest.get(width + length..).ok_or(truncated)?;
        }
        let mut codes = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            let (filter, tail) = tail.split_at_checked(length).ok_or(truncated)?;
            let (options, tail) = tail.split_first().ok_or(truncated)?;
            self.add(link, filter);
            codes.push(options & 3);
            rest = tail;
        }
        let out = links.buffer(link);
        let mut body = id.to_vec();
        if five {
            body.push(0);
        }
        body.extend_from_slice(&codes);
        out.push(0x90);
        wire::put_variable_integer(out, body.len()).ok_or(truncated)?;
        out.extend_from_slice(&body);
        Ok(())
    }

    fn add(&mut self, link: LinkIndex, filter: &[u8]) {
        if filter.starts_with(b"$share/") {
            self.group.push(link);
        } else if let Some(number) = number_at_end(filter) {
            if self.numbered.len() <= number {
                self.numbered.resize(number + 1, None);
            }
            self.numbered[number] = Some(link);
        } else if !self.all.contains(&link) {
            self.all.push(link);
        }
    }

    fn forget(&mut self, link: LinkIndex) {
        self.group.retain(|&member| member != link);
        self.all.retain(|&member| member != link);
        for slot in &mut self.numbered {
            if *slot == Some(link) {
                *slot = None;
            }
        }
    }
}

/// The number behind the last slash.
#[inline]
fn number_at_end(topic: &[u8]) -> Option<usize> {
    let mut number = 0;
    let mut scale = 1;
    for &byte in topic.iter().rev() {
        match byte {
            b'0'..=b'9' if scale <= NUMBER_MAX => {
                number += usize::from(byte - b'0') * scale;
                scale *= 10;
            }
            b'/' if scale > 1 => return Some(number),
            _ => return None,
        }
    }
    None
}

impl Handler for Switch {
    fn opened(&mut self, _links: &mut Links, link: LinkIndex) {
        if self.peers.len() <= link {
            self.peers.resize(link + 1, Peer::default());
        }
        self.peers[link] = Peer::default();
    }

    fn chunk(
        &mut self,
        links: &mut Links,
        link: LinkIndex,
        bytes: &[u8],
    ) -> Result<usize, Malformed> {
        let mut at = 0;
        let mut stretch = None;
        while let Some(frame) = scan::frame(&bytes[at..])? {
            if frame.packet_type() == PUBLISH {
                self.publish(links, link, frame, at, &mut stretch, bytes)?;
            } else {
                self.control(links, link, frame)?;
            }
            at += frame.size;
        }
        self.copy(links, stretch, bytes);
        Ok(at)
    }

    fn drained(&mut self, _link: LinkIndex) {}

    fn closed(&mut self, _links: &mut Links, link: LinkIndex, _why: Closed) {
        self.forget(link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_ends_the_topic() {
        let check = |topic: &str, expected| assert_eq!(number_at_end(topic.as_bytes()), expected);
        check("bench/017", Some(17));
        check("bench/0", Some(0));
        check("a/b/42", Some(42));
        check("bench/all", None);
        check("bench/", None);
        check("17", None);
        check("a/b2", None);
        check("a/99999999999", None);
        check("", None);
    }
}

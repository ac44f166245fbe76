//! What a datagram has to prove before anything in it is looked at.
//!
//! In this order: its length and form, its environment, that it is from another process, its seal, its
//! cluster, that it is new. A process of which nothing is known has to prove first that it is alive: its
//! last datagram waits for that, if it can do no harm should it turn out to be old.

use std::net::SocketAddr;

use rand::RngExt;
use ratatosk_clock::Instant;

use super::{Effects, Event, Machine, Sources, kind};
use crate::protocol::contact::Contact;
use crate::protocol::envelope::{HEADER, Header, PACKET_MAX, datagram_key, open};
use crate::protocol::identity::Host;
use crate::protocol::refusal::Refusal;
use crate::protocol::replay::{Peer, Window};

impl Machine {
    pub(super) fn on_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        if bytes.len() > PACKET_MAX {
            return Err(Refusal::Oversized);
        }
        let header = Header::decode(bytes)?;
        if header.environment != self.environment {
            return Err(Refusal::Environment);
        }
        if header.host == self.host().id {
            return Err(Refusal::Own);
        }
        let whole = self.open(now, &header, bytes)?;
        let is_foreign = |(mine, theirs)| mine != theirs;
        if self.cluster.zip(header.cluster).is_some_and(is_foreign) {
            return Err(Refusal::Cluster);
        }
        if self.departure.is_some() {
            return Ok(());
        }
        let (kind, body) = whole.split_first().ok_or(Refusal::Malformed)?;
        if matches!(*kind, kind::HELLO | kind::WELCOME | kind::CONFIRM) {
            return self.on_contact(now, from, &header, *kind, body, effects);
        }
        if !self.is_new(now, from, &header, &whole, effects)? {
            return Ok(());
        }
        if self.cluster.is_none() && header.cluster.is_some() && now >= self.due.hello {
            self.due.hello = now + self.tuning.gossip_interval;
            self.hello(now, from, effects);
        }
        self.on_body(now, from, header.host, *kind, body, effects)
    }

    /// The body, if the datagram is sealed as those of this host are. Its sender is remembered then.
    fn open(&mut self, now: Instant, header: &Header, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (seal, body) = match (&self.keys, header.key) {
            (Some(_), None) => return Err(Refusal::Unsealed),
            (None, Some(_)) => return Err(Refusal::Sealed),
            (None, None) => (None, bytes[HEADER..].to_vec()),
            (Some(keys), Some(id)) => {
                let known = self.peers.find(header.host).and_then(|peer| peer.seal.as_ref());
                if let Some((known, key)) = known
                    && *known == id
                {
                    (None, open(key, header.counter, bytes)?)
                } else {
                    let key = keys.find(id).ok_or(Refusal::UnknownKey)?;
                    let key = datagram_key(key, self.environment, header.host);
                    let body = open(&key, header.counter, bytes)?;
                    (Some((id, key)), body)
                }
            }
        };
        match self.peers.find(header.host) {
            Some(peer) if seal.is_none() => peer.heard_at = now,
            _ => {
                let peer = Peer { seal, window: None, heard_at: now, asked_at: None, held: None };
                self.peers.insert(header.host, peer);
            }
        }
        Ok(body)
    }

    /// Whether a datagram was not taken before. If that cannot be told, its sender is asked to prove that
    /// it is alive.
    fn is_new(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: &Header,
        whole: &[u8],
        effects: &mut Effects,
    ) -> Result<bool, Refusal> {
        let interval = self.tuning.gossip_interval;
        let hello = 1 + Contact::length(&self.swim.host());
        let peer = self.peers.find(header.host).ok_or(Refusal::Stranger)?;
        if let Some(window) = &mut peer.window {
            let is_new = peer.seal.is_none() || window.accept(header.counter);
            return if is_new { Ok(true) } else { Err(Refusal::Replayed) };
        }
        if matches!(whole.first(), Some(&(kind::SWIM | kind::GOSSIP))) {
            peer.held = Some(whole.to_vec());
        }
        // Whoever lies about his address gets nobody more bytes than he has sent himself.
        let is_long = whole.len() >= hello;
        if is_long && peer.asked_at.is_none_or(|asked| now.since(asked) >= interval) {
            peer.asked_at = Some(now);
            self.hello(now, from, effects);
        }
        Ok(false)
    }

    /// Asks who is there.
    pub(super) fn hello(&mut self, now: Instant, to: SocketAddr, effects: &mut Effects) {
        self.contact(now, to, kind::HELLO, [0; 16], effects);
    }

    fn contact(
        &mut self,
        now: Instant,
        to: SocketAddr,
        kind: u8,
        echo: [u8; 16],
        effects: &mut Effects,
    ) {
        let rng = &mut self.rng;
        let nonce = self.nonces.current(now, || rng.random());
        let mut body = Vec::with_capacity(64);
        Contact { host: self.swim.host(), nonce, echo }.encode(&mut body);
        self.send(to, kind, &body, effects);
    }

    fn on_contact(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: &Header,
        kind: u8,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let contact = Contact::decode(body).map_err(|_| Refusal::Malformed)?;
        if contact.host.id != header.host {
            return Err(Refusal::Malformed);
        }
        self.check_source(contact.host.address, from)?;
        if kind == kind::HELLO {
            self.contact(now, from, kind::WELCOME, contact.nonce, effects);
            return Ok(());
        }
        if !self.nonces.is_fresh(now, &contact.echo) {
            return Err(Refusal::Unasked);
        }
        let peer = self.peers.find(header.host).ok_or(Refusal::Stranger)?;
        match &mut peer.window {
            Some(window) => {
                if peer.seal.is_some() && !window.accept(header.counter) {
                    return Err(Refusal::Replayed);
                }
            }
            None => peer.window = Some(Window::new(header.counter)),
        }
        let held = peer.held.take();
        if kind == kind::WELCOME {
            self.contact(now, from, kind::CONFIRM, contact.nonce, effects);
        }
        self.meet(now, &contact.host, header, effects);
        match held.as_deref().and_then(<[u8]>::split_first) {
            Some((kind, body)) => self.on_body(now, from, header.host, *kind, body, effects),
            None => Ok(()),
        }
    }

    /// A process has proved that it is alive.
    fn meet(&mut self, now: Instant, host: &Host, header: &Header, effects: &mut Effects) {
        if self.cluster.is_none()
            && let Some(cluster) = header.cluster
        {
            self.cluster = Some(cluster);
            effects.events.push(Event::Adopted(cluster));
        }
        if !self.known.contains_key(&host.id) {
            self.swim.announce(now, host.address);
        }
    }

    /// Whether a sender is where it says.
    pub(super) fn check_source(
        &self,
        claimed: SocketAddr,
        from: SocketAddr,
    ) -> Result<(), Refusal> {
        let is_right = self.sources == Sources::Any || claimed == from;
        if is_right { Ok(()) } else { Err(Refusal::Source) }
    }
}

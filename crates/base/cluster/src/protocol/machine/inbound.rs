//! What is in a datagram that has passed the gate.

use std::net::SocketAddr;

use foca::Message as Swimming;
use ratatosk_clock::Instant;

use super::{Effects, Event, Machine, kind};
use crate::protocol::identity::{Host, HostId};
use crate::protocol::message::Message;
use crate::protocol::record::{AgentAddress, AgentName, Standing};
use crate::protocol::records::Offered;
use crate::protocol::refusal::Refusal;
use crate::protocol::rumours::{Item, Topic};
use crate::protocol::shared_map::decode_entry;
use crate::protocol::swim_codec::Packet;
use crate::protocol::wire::Reader;

/// How often a host takes its address from another one.
const CONTESTS_MAX: u32 = 4;

/// How news came.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From mouth to mouth: it is passed on.
    Gossip,
    /// By a comparison: the others have it, or will compare too.
    Sync,
}

impl Machine {
    pub(super) fn on_body(
        &mut self,
        now: Instant,
        from: SocketAddr,
        sender: HostId,
        kind: u8,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        match kind {
            kind::SWIM => return self.on_swim(now, from, sender, body, effects),
            kind::OUTRANKED => return self.on_outranked(now, body, effects),
            _ => {}
        }
        let sender = *self.known.get(&sender).ok_or(Refusal::Stranger)?;
        self.check_source(sender.address, from)?;
        match kind {
            kind::GOSSIP => self.on_gossip(now, &sender, body, effects),
            kind::MESSAGE => {
                let mut reader = Reader::new(body);
                let message = Message::decode(&mut reader).map_err(|_| Refusal::Malformed)?;
                reader.end().map_err(|_| Refusal::Malformed)?;
                if message.from.host != sender.id {
                    return Err(Refusal::Malformed);
                }
                self.on_message(&message, effects)
            }
            kind::HEARD => {
                let [number] = body else { return Err(Refusal::Malformed) };
                self.swim.receive_heard(*number);
                Ok(())
            }
            _ => Err(Refusal::Malformed),
        }
    }

    fn on_swim(
        &mut self,
        now: Instant,
        from: SocketAddr,
        sender: HostId,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let packet = Packet::decode(body).map_err(|_| Refusal::Malformed)?;
        let source = packet.header.src;
        if source.id != sender {
            return Err(Refusal::Malformed);
        }
        self.check_source(source.address, from)?;
        // A later host at this address keeps it, unless this one is later still and its clock is wrong:
        // then it has to know what to beat.
        if let Some(there) = self.swim.host_at(source.address).copied()
            && there.id != source.id
            && there.outranks(&source)
        {
            let mut body = there.generation.to_be_bytes().to_vec();
            body.extend_from_slice(source.id.as_bytes());
            self.send(from, kind::OUTRANKED, &body, effects);
            return Err(Refusal::Outranked);
        }
        if let Swimming::PingReq { probe_number, .. } = packet.header.message
            && packet.header.dst == self.swim.host()
        {
            self.send(source.address, kind::HEARD, &[probe_number], effects);
        }
        self.swim.receive(now, &packet, body)
    }

    fn on_outranked(
        &mut self,
        now: Instant,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let mut reader = Reader::new(body);
        let generation = reader.u64().map_err(|_| Refusal::Malformed)?;
        let whom = HostId::from_bytes(reader.array().map_err(|_| Refusal::Malformed)?);
        reader.end().map_err(|_| Refusal::Malformed)?;
        let host = self.swim.host();
        if whom != host.id || generation < host.generation {
            return Err(Refusal::Unasked);
        }
        // One that is gone is beaten once. One that runs would beat this one in turn, for ever.
        if self.contests >= CONTESTS_MAX {
            return Err(Refusal::Outranked);
        }
        self.contests += 1;
        if self.contests == CONTESTS_MAX {
            effects.events.push(Event::Contested { address: host.address });
        }
        self.swim.outrank(now, generation);
        self.due.announce = now;
        Ok(())
    }

    fn on_gossip(
        &mut self,
        now: Instant,
        sender: &Host,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let items = Item::decode_all(body).map_err(|_| Refusal::Malformed)?;
        for item in items {
            // What cannot be taken keeps nothing else from being taken.
            let taken = self.on_item(now, sender, &item, effects);
            self.count(taken);
        }
        Ok(())
    }

    fn on_item(
        &mut self,
        now: Instant,
        sender: &Host,
        item: &Item<'_>,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        match item {
            Item::Record(bytes) => self.offer_record(now, bytes, Way::Gossip, effects),
            Item::Entry(bytes) => self.offer_entry(now, bytes, Way::Gossip, effects),
            Item::Notice { host, version } => {
                if *version > self.records.version(*host) {
                    self.fetch(now, sender.address, *host, *version, effects);
                }
                Ok(())
            }
            Item::Entries => {
                self.sync_with = Some(sender.id);
                let soon = now + self.tuning.gossip_interval;
                self.due.sync = self.due.sync.min(soon);
                Ok(())
            }
        }
    }

    /// Takes a record that somebody told.
    pub(super) fn offer_record(
        &mut self,
        now: Instant,
        bytes: &[u8],
        way: Way,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let known = &self.known;
        match self.records.offer(now, bytes, |host| known.contains_key(&host))? {
            Offered::Old => {}
            Offered::Mine => self.tell(now, Topic::Record(self.records.own().host)),
            Offered::New { host, standing } => {
                effects.is_landscape_changed = true;
                let was_asked_for = self.fetching.remove(&host).is_some();
                if way == Way::Gossip || was_asked_for {
                    self.tell(now, Topic::Record(host));
                }
                if standing == Standing::Left
                    && let Some(host) = self.swim.member(host)
                {
                    self.swim.apply_left(now, host);
                }
            }
        }
        Ok(())
    }

    /// Takes an entry of the map that somebody told.
    pub(super) fn offer_entry(
        &mut self,
        now: Instant,
        bytes: &[u8],
        way: Way,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let mut reader = Reader::new(bytes);
        let (key, entry) = decode_entry(&mut reader).map_err(|_| Refusal::Malformed)?;
        reader.end().map_err(|_| Refusal::Malformed)?;
        let wall = self.wall(now);
        if self.map.offer(wall, self.tuning.tombstone_memory, &key, entry)? {
            effects.is_map_changed = true;
            if way == Way::Gossip {
                self.tell(now, Topic::Entry(key));
            }
        }
        Ok(())
    }

    /// Gives a message to those agents of this host that it is for. Nobody hears itself.
    pub(super) fn on_message(
        &mut self,
        message: &Message,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let own = self.records.own();
        let is_sender =
            |name: &AgentName| own.host == message.from.host && *name == message.from.name;
        let names = own.agents.keys().filter(|name| message.is_for(name) && !is_sender(name));
        let count = effects.events.len();
        effects.events.extend(names.map(|name| Event::Message {
            to: AgentAddress { host: own.host, name: name.clone() },
            from: message.from.clone(),
            body: message.body.clone(),
        }));
        if effects.events.len() == count { Err(Refusal::Undelivered) } else { Ok(()) }
    }
}

//! What the process itself wants of its host.

use std::collections::BTreeSet;

use bytes::Bytes;
use ratatosk_clock::Instant;

use super::{Departure, Effects, Machine, kind};
use crate::protocol::envelope::BODY_MAX;
use crate::protocol::frame::Frame;
use crate::protocol::identity::{ClusterId, HostId};
use crate::protocol::message::{Audience, Carriage, MESSAGE_MAX, Message};
use crate::protocol::record::{AgentAddress, AgentName, RecordError, Standing};
use crate::protocol::rumours::{Rumours, Topic};
use crate::protocol::shared_map::{MapError, MapKey};

/// A message was not sent, or not to this receiver.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// More than [`MESSAGE_MAX`] bytes.
    #[error("a message has at most {MESSAGE_MAX} bytes, this one has {length}")]
    Length {
        /// Its bytes.
        length: usize,
    },
    /// No agent that counts as alive is meant.
    #[error("no agent that counts as alive is meant")]
    Nobody,
}

impl Machine {
    /// Puts an agent into the host's record.
    ///
    /// # Errors
    /// If there is one of this name, or the record would be too large.
    pub fn register(
        &mut self,
        now: Instant,
        name: &AgentName,
        metadata: Bytes,
        effects: &mut Effects,
    ) -> Result<(), RecordError> {
        self.records.put_agent(name, metadata, true)?;
        self.tell_record(now, effects);
        Ok(())
    }

    /// Changes what an agent tells of itself.
    ///
    /// # Errors
    /// If there is none of this name, or the record would be too large.
    pub fn update(
        &mut self,
        now: Instant,
        name: &AgentName,
        metadata: Bytes,
        effects: &mut Effects,
    ) -> Result<(), RecordError> {
        self.records.put_agent(name, metadata, false)?;
        self.tell_record(now, effects);
        Ok(())
    }

    /// Takes an agent out of the host's record.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn deregister(
        &mut self,
        now: Instant,
        name: &AgentName,
        effects: &mut Effects,
    ) -> Result<(), RecordError> {
        self.records
            .change(|record| record.agents.remove(name).map(|_| ()).ok_or(RecordError::Unknown))?;
        self.tell_record(now, effects);
        Ok(())
    }

    fn tell_record(&mut self, now: Instant, effects: &mut Effects) {
        effects.is_landscape_changed = true;
        self.tell(now, Topic::Record(self.records.own().host));
    }

    /// Writes an entry of the shared map, or removes it.
    ///
    /// # Errors
    /// If the value is too long or the map is full.
    pub fn write(
        &mut self,
        now: Instant,
        key: &MapKey,
        value: Option<Bytes>,
        effects: &mut Effects,
    ) -> Result<(), MapError> {
        let wall = self.wall(now);
        self.map.write(wall, self.host().id, key, value)?;
        effects.is_map_changed = true;
        self.tell(now, Topic::Entry(key.clone()));
        Ok(())
    }

    /// Sends a message of an agent of this host to others; to itself it sends nothing. CLU-010
    ///
    /// # Errors
    /// If it is too long, or nobody is meant. Otherwise it is on its way, which says nothing of its
    /// arrival.
    pub fn send_message(
        &mut self,
        from: &AgentName,
        audience: &Audience,
        body: &Bytes,
        carriage: Carriage,
        effects: &mut Effects,
    ) -> Result<(), SendError> {
        if body.len() > MESSAGE_MAX {
            return Err(SendError::Length { length: body.len() });
        }
        let me = self.host().id;
        let from = AgentAddress { host: me, name: from.clone() };
        let (service, instance) = match audience {
            Audience::One(AgentAddress { name, .. }) | Audience::Named(name) => {
                (name.service().to_owned(), Some(name.instance().to_owned()))
            }
            Audience::Service(service) => (service.clone(), None),
        };
        let message = Message { from, service, instance, body: body.clone() };
        let landscape = self.landscape(&message.service);
        let is_meant = |agent: &&AgentAddress| {
            let is_there = !matches!(audience, Audience::One(one) if one.host != agent.host);
            is_there && message.is_for(&agent.name) && **agent != message.from
        };
        let hosts: BTreeSet<HostId> =
            landscape.keys().filter(is_meant).map(|agent| agent.host).collect();
        if hosts.is_empty() {
            return Err(SendError::Nobody);
        }
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        for host in hosts {
            if host == me {
                // That it reaches nobody here was ruled out above.
                let _ = self.on_message(&message, effects);
            } else if let Some(address) = self.known.get(&host).map(|host| host.address) {
                if carriage == Carriage::Datagram && bytes.len() < BODY_MAX {
                    self.send(address, kind::MESSAGE, &bytes, effects);
                } else {
                    self.open_stream(address, &Frame::Message(bytes.clone()), effects);
                }
            }
        }
        Ok(())
    }

    /// Somebody found that a member is no more: it counts as dead at once, without being suspected first. One
    /// that lives refutes that as any false news of its death.
    pub fn report_dead(&mut self, now: Instant, id: HostId, effects: &mut Effects) {
        if let Some(host) = self.swim.member(id) {
            self.swim.bury(now, host);
            self.settle(now, effects);
        }
    }

    /// Says in which cluster this host is, if it did not know. Whoever makes a cluster calls this.
    ///
    /// # Errors
    /// The cluster that it is in, if that is another one.
    pub fn set_cluster(&mut self, cluster: ClusterId) -> Result<(), ClusterId> {
        match self.cluster {
            Some(other) if other != cluster => Err(other),
            _ => {
                self.cluster = Some(cluster);
                Ok(())
            }
        }
    }

    /// Tells all members that this host goes, so that nobody takes it for dead. [`Departed`](super::Event::Departed)
    /// follows. CLU-007
    pub fn leave(&mut self, now: Instant, effects: &mut Effects) {
        if self.departure.is_some() {
            return;
        }
        let left = self.records.change(|record| {
            record.standing = Standing::Left;
            record.agents.clear();
            Ok(())
        });
        debug_assert_eq!(left, Ok(()), "a record becomes smaller");
        self.departure = Some(Departure {
            members: self.known.values().map(|host| host.address).collect(),
            again_at: now + self.tuning.gossip_interval,
            times: 0,
        });
        self.rumours = Rumours::default();
        self.due.gossip = None;
        self.say_farewell(effects);
        self.swim.leave(now);
        self.settle(now, effects);
    }
}

//! The outbound half of a session: window, queue, kept bodies, and what the client confirms.
//!
//! Made when the first QoS 1 or 2 message or alias needs it. Bodies are kept only where they may
//! be needed again: for shared subscriptions, whose messages go to another member when this one
//! goes, and for the timed re-send where the tenant asks for it.

use std::num::NonZeroU32;

use ratatosk_clock::Instant;
use ratatosk_codec::{Ack, PacketId, Qos, ReasonCode};
use ratatosk_contract::{
    Message,
    inbox::{Entry, Sequence},
    record::RecordQueue,
};

use crate::{
    Farewell, Late, Session,
    alias::OutboundAliases,
    broker::{Broker, Report},
    delivery::{Frame, OUTPUT_BYTES_MAX, Origin},
    pace::Pace,
    window::{Awaits, Window},
};

/// Outbound state; see the module.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) window: Window,
    /// Messages of a transient session that the window has no room for.
    pub(crate) queue: RecordQueue,
    /// Messages in the window that may be needed again, oldest first.
    pub(crate) bodies: RecordQueue,
    pub(crate) aliases: OutboundAliases,
    /// The last entry taken from the inbox.
    pub(crate) fetched: Sequence,
    /// The inbox may have more.
    pub(crate) may_fetch: bool,
    /// The next entry of the inbox waits for a confirmation, not for the inbox.
    pub(crate) is_held: bool,
    /// Where the tenant asks for it: how much of the client's maximum is used.
    pub(crate) pace: Option<Box<Pace>>,
    /// A buffer for fetches.
    pub(crate) entries: Vec<Entry>,
    pub(crate) resend: Option<Resend>,
    /// What became of what waited, since somebody asked.
    pub(crate) late: Late,
}

/// The timed re-send. MQTT-091
#[derive(Copy, Clone, Debug)]
pub(crate) struct Resend {
    pub(crate) at: Instant,
    times: u16,
}

impl Outbound {
    pub(crate) fn new(next: Sequence, pace: Option<Box<Pace>>) -> Self {
        Outbound {
            window: Window::new(next),
            queue: RecordQueue::default(),
            bodies: RecordQueue::default(),
            aliases: OutboundAliases::default(),
            fetched: Sequence(next.0 - 1),
            may_fetch: false,
            is_held: false,
            pace,
            entries: Vec::new(),
            resend: None,
            late: Late::default(),
        }
    }

    /// Adds a message that was sent, or whose place is to be passed over.
    pub(crate) fn push(&mut self, now: Instant, awaits: Awaits, has_body: bool) {
        let sequence = self.window.push(awaits, has_body);
        if let Some(pace) = &mut self.pace
            && awaits != Awaits::Nothing
        {
            pace.sent(now, sequence, self.window.open());
        }
    }

    /// Takes a confirmed message out of the window and drops what was kept for it.
    fn confirm(&mut self, now: Instant, packet_id: PacketId) -> Sequence {
        let confirmed = self.window.confirm(packet_id);
        for _ in 0..confirmed.bodies {
            self.bodies.pop();
        }
        if let Some(pace) = &mut self.pace {
            pace.confirmed(now, confirmed.sequence);
        }
        self.may_fetch |= std::mem::take(&mut self.is_held);
        confirmed.sequence
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.window.memory_bytes()
            + self.queue.own_bytes()
            + self.bodies.own_bytes()
            + self.aliases.memory_bytes()
    }

    pub(crate) fn shared_bytes(&self) -> usize {
        self.queue.shared_bytes() + self.bodies.shared_bytes()
    }
}

/// What a queued message remembers of its delivery, in eight bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) subscription_id: Option<u32>,
    pub(crate) origin: Option<Origin>,
}

impl Tag {
    pub(crate) fn pack(self) -> u64 {
        let origin = self.origin.map_or(0, |origin| origin.0.get());
        // A subscription identifier has at most 28 bits and is never zero.
        u64::from(origin) << 32
            | u64::from(self.subscription_id.unwrap_or(0)) << 3
            | u64::from(self.retain) << 2
            | self.qos as u64
    }

    pub(crate) fn unpack(packed: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the fields of pack")]
        let (origin, low) = ((packed >> 32) as u32, packed as u32);
        let subscription_id = low >> 3;
        Tag {
            qos: match low & 3 {
                0 => Qos::AtMostOnce,
                1 => Qos::AtLeastOnce,
                _ => Qos::ExactlyOnce,
            },
            retain: low & 4 != 0,
            subscription_id: (subscription_id != 0).then_some(subscription_id),
            origin: NonZeroU32::new(origin).map(Origin),
        }
    }
}

impl Session {
    /// PUBACK: the QoS 1 message is the client's now. A code of 0x80 or above ends it all the
    /// same. [MQTT-4.4.0-2] [MQTT-4.8.2-6]
    pub(crate) fn on_puback<B: Broker>(
        &mut self,
        now: Instant,
        ack: &Ack<'_>,
        broker: &mut B,
    ) -> Result<(), Farewell> {
        let awaited = self.outbound.as_ref().and_then(|out| out.window.awaits(ack.packet_id));
        match awaited {
            Some(Awaits::Puback) => self.confirm(now, ack, broker),
            // An answer to nothing: a client that resumed may have confirmed twice.
            None => Ok(()),
            Some(_) => Err(Farewell::ProtocolError("PUBACK for a message of QoS 2")),
        }
    }

    /// PUBREC: the client owns the QoS 2 message; release it. [MQTT-4.3.3-4]
    pub(crate) fn on_pubrec<B: Broker>(
        &mut self,
        now: Instant,
        ack: &Ack<'_>,
        broker: &mut B,
    ) -> Result<(), Farewell> {
        let awaited = self.outbound.as_ref().and_then(|out| out.window.awaits(ack.packet_id));
        match awaited {
            Some(Awaits::Pubrec) if ack.reason.is_error() => self.confirm(now, ack, broker),
            Some(Awaits::Pubrec) => {
                let outbound = self.outbound_mut();
                let sequence = outbound.window.sequence(ack.packet_id);
                outbound.window.received(ack.packet_id);
                if self.is_persistent {
                    broker.received(sequence).map_err(|_| Farewell::StaleClaim)?;
                }
                self.write_pubrel(ack.packet_id, None);
                Ok(())
            }
            // MQTT-092: after PUBREC only PUBREL is sent, as often as PUBREC comes.
            Some(Awaits::Pubcomp) => {
                self.write_pubrel(ack.packet_id, None);
                Ok(())
            }
            Some(_) => Err(Farewell::ProtocolError("PUBREC for a message of QoS 1")),
            None => {
                self.write_pubrel(ack.packet_id, Some(ReasonCode::PacketIdNotFound));
                Ok(())
            }
        }
    }

    /// PUBCOMP: the QoS 2 exchange is over. [MQTT-4.3.3-5]
    pub(crate) fn on_pubcomp<B: Broker>(
        &mut self,
        now: Instant,
        ack: &Ack<'_>,
        broker: &mut B,
    ) -> Result<(), Farewell> {
        let awaited = self.outbound.as_ref().and_then(|out| out.window.awaits(ack.packet_id));
        match awaited {
            Some(Awaits::Pubcomp) => self.confirm(now, ack, broker),
            None => Ok(()),
            Some(_) => Err(Farewell::ProtocolError("PUBCOMP before PUBREC")),
        }
    }

    fn confirm<B: Broker>(
        &mut self,
        now: Instant,
        ack: &Ack<'_>,
        broker: &mut B,
    ) -> Result<(), Farewell> {
        let is_persistent = self.is_persistent;
        let outbound = self.outbound_mut();
        let sequence = outbound.confirm(now, ack.packet_id);
        outbound.resend = None;
        if is_persistent {
            broker.commit(sequence).map_err(|_| Farewell::StaleClaim)?;
        }
        self.arm_resend(now);
        Ok(())
    }

    /// Whether unconfirmed messages are re-sent after a while: only where the tenant asks for it,
    /// and never in MQTT 5.0. [MQTT-4.4.0-1]
    pub(crate) fn resends(&self) -> bool {
        self.settings.resend_timeout_seconds > 0
            && self.version != ratatosk_codec::ProtocolVersion::V5
    }

    pub(crate) fn arm_resend(&mut self, now: Instant) {
        if !self.resends() {
            return;
        }
        let wait = std::time::Duration::from_secs(self.settings.resend_timeout_seconds.into());
        let outbound = self.outbound_mut();
        if outbound.resend.is_none() && outbound.window.open() > 0 {
            outbound.resend = Some(Resend { at: now + wait, times: 0 });
        }
    }

    /// Re-sends what is unconfirmed, with DUP, or PUBREL where PUBREC came; gives up after the
    /// tenant's number of times.
    pub(crate) fn resend_due<B: Broker>(&mut self, now: Instant, broker: &mut B) {
        let times_max = self.settings.max_resend_times;
        let wait = std::time::Duration::from_secs(self.settings.resend_timeout_seconds.into());
        let Some(outbound) = &mut self.outbound else { return };
        let Some(resend) = outbound.resend.filter(|resend| resend.at <= now) else { return };
        if resend.times >= times_max {
            self.give_up(now, broker);
            return;
        }
        if self.output.len() > OUTPUT_BYTES_MAX {
            // What was sent has not even left.
            outbound.resend = Some(Resend { at: now + wait, ..resend });
            return;
        }
        outbound.resend = Some(Resend { at: now + wait, times: resend.times + 1 });
        let bodies = std::mem::take(&mut outbound.bodies);
        let states: Vec<_> = outbound.window.bodies().collect();
        let mut states = states.into_iter();
        bodies.for_each(|tag, message| {
            if let Some((sequence, awaited)) = states.next() {
                self.resend_one(now, sequence, awaited, Tag::unpack(tag), message);
            }
        });
        self.outbound_mut().bodies = bodies;
    }

    fn resend_one(
        &mut self,
        now: Instant,
        sequence: Sequence,
        awaited: Awaits,
        tag: Tag,
        message: &Message<'_>,
    ) {
        let packet_id = sequence.packet_id();
        match awaited {
            Awaits::Nothing => {}
            Awaits::Pubcomp => self.write_pubrel(packet_id, None),
            Awaits::Puback | Awaits::Pubrec => {
                let frame = Frame {
                    qos: tag.qos,
                    retain: tag.retain,
                    dup: true,
                    packet_id: Some(packet_id),
                    subscription_id: tag.subscription_id,
                };
                self.write_publish(now, message, frame);
            }
        }
    }

    fn give_up<B: Broker>(&mut self, now: Instant, broker: &mut B) {
        let is_persistent = self.is_persistent;
        let Some(outbound) = &mut self.outbound else { return };
        let open: Vec<_> = outbound
            .window
            .bodies()
            .filter(|(_, awaited)| matches!(awaited, Awaits::Puback | Awaits::Pubrec))
            .map(|(sequence, _)| sequence)
            .collect();
        outbound.resend = None;
        for sequence in &open {
            outbound.confirm(now, sequence.packet_id());
            if is_persistent && broker.commit(*sequence).is_err() {
                self.farewell = Some(Box::new(Farewell::StaleClaim));
                return;
            }
        }
        if !open.is_empty() {
            broker.report(Report::ResendsExhausted { count: open.len() });
        }
        // Those past PUBREC are not given up: their PUBREL is owed. [MQTT-4.3.3-5]
        self.arm_resend(now);
    }

    /// Shows the messages of shared subscriptions that this client has not taken over: those in
    /// the queue, and those of QoS 1 in flight. They are for another member of their group; QoS 2
    /// in flight is not. MQTT-087 [MQTT-4.8.2-5]
    pub fn unfinished_shared(&self, mut show: impl FnMut(Origin, &Message<'_>)) {
        let Some(outbound) = &self.outbound else { return };
        let mut states = outbound.window.bodies();
        outbound.bodies.for_each(|tag, message| {
            let awaited = states.next().map(|(_, awaited)| awaited);
            if let (Some(origin), Some(Awaits::Puback)) = (Tag::unpack(tag).origin, awaited) {
                show(origin, message);
            }
        });
        outbound.queue.for_each(|tag, message| {
            if let Some(origin) = Tag::unpack(tag).origin {
                show(origin, message);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_keeps_all_it_was_given() {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            for retain in [false, true] {
                for subscription_id in [None, Some(1), Some(268_435_455)] {
                    for origin in [None, NonZeroU32::new(1), NonZeroU32::new(u32::MAX)] {
                        let tag = Tag { qos, retain, subscription_id, origin: origin.map(Origin) };
                        assert_eq!(Tag::unpack(tag.pack()), tag);
                    }
                }
            }
        }
    }
}

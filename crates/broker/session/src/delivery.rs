//! Messages on their way to the client.
//!
//! A transient session is handed its messages one by one ([`Session::deliver`]): QoS 0 goes out or
//! is dropped, QoS 1 and 2 go out while the window and the output have room and wait in the
//! session's queue otherwise. A persistent session fetches from its inbox whatever its window
//! takes ([`Session::pump`]). Either way the window never exceeds the client's Receive Maximum.
//! [MQTT-3.3.4-9] [MQTT-4.9.0-2]

use std::num::NonZeroU32;

use ratatosk_clock::Instant;
use ratatosk_codec::{Outgoing, PacketId, ProtocolVersion, Qos, SubscriptionOptions};
use ratatosk_contract::{
    Message,
    inbox::{Entry, FetchBudget, Sequence},
};

use crate::{
    Farewell, Session,
    alias::AliasUse,
    broker::Broker,
    outbound::{Outbound, Tag},
    pace::Pace,
    window::Awaits,
};

/// From how many unwritten bytes on nothing more is pushed to a connection: QoS 0 is dropped,
/// QoS 1 and 2 wait.
pub(crate) const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// How much of an inbox is fetched at once.
const FETCH_BYTES_MAX: usize = 64 * 1024;

/// One message for one subscription.
#[derive(Copy, Clone, Debug)]
pub struct Delivery<'a> {
    /// The message.
    pub message: &'a Message<'a>,
    /// Granted options of the subscription.
    pub options: SubscriptionOptions,
    /// Its identifier.
    pub subscription_id: Option<u32>,
    /// It is sent because of a new subscription, not because it was just published.
    pub is_retained: bool,
    /// The shared subscription through which it came.
    pub origin: Option<Origin>,
}

/// Names a shared subscription of a session, in the owner's terms.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Origin(pub NonZeroU32);

/// What became of a delivery.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Appended to the output.
    Sent,
    /// Waits in the session's queue.
    Queued,
    /// Not delivered.
    Dropped(DropReason),
}

/// Why a message was not delivered. EVT-011
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// The session is not live.
    SessionClosed,
    /// The connection does not keep up, or the queue is full. MQTT-097
    Overflow,
    /// The client published it itself and asked not to get it back. MQTT-082
    NoLocal,
    /// Its time was over. MQTT-095
    Expired,
    /// The client does not take packets of its size. MQTT-099
    Oversize,
    /// The client may no longer read the topic. MQTT-080
    NoSubPermission,
    /// Memory is short.
    ResourceExhausted,
}

impl Session {
    /// Delivers one message of a transient session, or a QoS 0 message of a persistent one, whose
    /// QoS 1 and 2 messages come from its inbox only.
    pub fn deliver(&mut self, now: Instant, delivery: &Delivery<'_>) -> Delivered {
        if !self.is_live() || self.farewell.is_some() {
            return Delivered::Dropped(DropReason::SessionClosed);
        }
        let message = delivery.message;
        // [MQTT-3.8.3-3]
        if delivery.options.no_local && message.publisher == self.publisher {
            return Delivered::Dropped(DropReason::NoLocal);
        }
        if message.is_expired(now) {
            return Delivered::Dropped(DropReason::Expired);
        }
        // [MQTT-3.8.4-8] [MQTT-3.3.1-12] [MQTT-3.3.1-13]
        let qos = message.qos.min(delivery.options.qos);
        // RET-005 [MQTT3-3.3.1-8] [MQTT3-3.3.1-9]
        let retain =
            delivery.is_retained || (delivery.options.retain_as_published && message.retain);
        // Each subscription has its own copy and its own QoS. [MQTT-3.3.4-2] [MQTT-3.3.5-1]
        // [MQTT-4.8.2-3]
        if qos == Qos::AtMostOnce {
            return self.deliver_at_most_once(now, delivery, retain);
        }
        debug_assert!(!self.is_persistent, "packet identifiers follow from the inbox");
        let tag =
            Tag { qos, retain, subscription_id: delivery.subscription_id, origin: delivery.origin };
        // [MQTT-4.6.0-5] What waits goes first; [MQTT-3.3.4-10] [MQTT-4.9.0-3] nothing else waits.
        let waits = self.outbound.as_ref().is_some_and(|outbound| !outbound.queue.is_empty());
        if !waits && self.has_room() {
            return self.send_tagged(now, message, tag);
        }
        let queue_max = self.settings.session_inbox_size as usize;
        let outbound = self.outbound_mut();
        if outbound.queue.len() >= queue_max {
            return Delivered::Dropped(DropReason::Overflow);
        }
        outbound.queue.push(tag.pack(), message);
        Delivered::Queued
    }

    fn deliver_at_most_once(
        &mut self,
        now: Instant,
        delivery: &Delivery<'_>,
        retain: bool,
    ) -> Delivered {
        if self.output.len() > OUTPUT_BYTES_MAX {
            return Delivered::Dropped(DropReason::Overflow);
        }
        let frame = Frame {
            qos: Qos::AtMostOnce,
            retain,
            dup: false,
            packet_id: None,
            subscription_id: delivery.subscription_id,
        };
        self.write_publish(now, delivery.message, frame)
    }

    /// Sends a QoS 1 or 2 message of a transient session under the next packet identifier.
    fn send_tagged(&mut self, now: Instant, message: &Message<'_>, tag: Tag) -> Delivered {
        let keeps_body = tag.origin.is_some() || self.resends();
        let outbound = self.outbound_mut();
        let sequence = outbound.window.next();
        // [MQTT-3.3.1-3] [MQTT-4.3.2-2] [MQTT-4.3.3-2] It is sent for the first time, however it
        // came.
        let frame = Frame {
            qos: tag.qos,
            retain: tag.retain,
            dup: false,
            packet_id: Some(sequence.packet_id()),
            subscription_id: tag.subscription_id,
        };
        let delivered = self.write_publish(now, message, frame);
        if delivered == Delivered::Sent {
            let outbound = self.outbound_mut();
            outbound.push(now, awaits(tag.qos), keeps_body);
            if keeps_body {
                outbound.bodies.push(tag.pack(), message);
            }
            self.arm_resend(now);
        }
        delivered
    }

    /// Sends what the window and the output have room for: from the session's own queue, or from
    /// the inbox of a persistent session. To be called when the client confirmed something, when
    /// the output was written, and when the inbox says that it has more.
    pub fn pump<B: Broker>(&mut self, now: Instant, broker: &mut B) {
        if !self.is_live() || self.farewell.is_some() {
            return;
        }
        if self.is_persistent {
            self.pump_inbox(now, broker);
        } else {
            self.pump_queue(now);
        }
    }

    /// Whether messages wait that [`Session::pump`] could send now.
    pub fn wants_pump(&self) -> bool {
        let waits = match &self.outbound {
            Some(outbound) => !outbound.queue.is_empty() || outbound.may_fetch,
            None => false,
        };
        waits && self.has_room()
    }

    fn pump_queue(&mut self, now: Instant) {
        let Some(outbound) = &mut self.outbound else { return };
        // The queue is lent to the loop so that the session can write while it is read.
        let mut queue = std::mem::take(&mut outbound.queue);
        while self.has_room() {
            let Some((tag, message)) = queue.front() else { break };
            if message.is_expired(now) {
                self.outbound_mut().late.expired += 1;
            } else {
                let delivered = self.send_tagged(now, &message, Tag::unpack(tag));
                self.note_late(delivered, &message);
            }
            queue.pop();
        }
        self.outbound_mut().queue = queue;
    }

    fn note_late(&mut self, delivered: Delivered, message: &Message<'_>) {
        let late = &mut self.outbound_mut().late;
        match delivered {
            Delivered::Sent => {
                late.sent += 1;
                let bytes = u32::try_from(message.payload.len()).unwrap_or(u32::MAX);
                late.sent_bytes = late.sent_bytes.saturating_add(bytes);
            }
            Delivered::Dropped(DropReason::Expired) => late.expired += 1,
            Delivered::Dropped(DropReason::Oversize) => late.oversize += 1,
            // Nothing that is written here waits again, or is given up for another reason.
            Delivered::Queued | Delivered::Dropped(_) => {}
        }
    }

    fn pump_inbox<B: Broker>(&mut self, now: Instant, broker: &mut B) {
        let mut entries = std::mem::take(&mut self.outbound_mut().entries);
        while self.has_room() {
            let window_max = self.window_max();
            let outbound = self.outbound_mut();
            if !outbound.may_fetch {
                break;
            }
            let budget = FetchBudget {
                messages_max: outbound.window.room(window_max),
                bytes_max: FETCH_BYTES_MAX,
                now,
            };
            entries.clear();
            if broker.fetch(outbound.fetched, budget, &mut entries).is_err() {
                self.farewell = Some(Box::new(Farewell::StaleClaim));
                break;
            }
            if entries.is_empty() {
                // The inbox says when there is more.
                outbound.may_fetch = false;
                break;
            }
            for entry in &entries {
                self.send_entry(now, entry, broker);
                if self.farewell.is_some() {
                    break;
                }
            }
        }
        entries.clear();
        self.outbound_mut().entries = entries;
    }

    fn send_entry<B: Broker>(&mut self, now: Instant, entry: &Entry, broker: &mut B) {
        let message = entry.message.as_message();
        if entry.qos == Qos::AtMostOnce {
            self.send_entry_at_most_once(now, entry);
            return;
        }
        let sent_before = self.sent_before;
        let outbound = self.outbound_mut();
        if outbound.is_held || !outbound.window.reaches(entry.sequence) {
            // It is fetched again when the message that has its identifier is confirmed.
            outbound.is_held = true;
            outbound.may_fetch = false;
            return;
        }
        outbound.fetched = entry.sequence;
        outbound.window.skip_to(entry.sequence);
        let packet_id = entry.sequence.packet_id();
        if entry.is_received {
            // MQTT-045: the PUBREL is owed, not the PUBLISH. [MQTT-4.3.3-6]
            outbound.push(now, Awaits::Pubcomp, false);
            self.write_pubrel(packet_id, None);
            return;
        }
        // [MQTT-3.3.1-1] [MQTT-4.4.0-1]; [MQTT-4.3.3-7] [MQTT-4.3.3-13]: what was sent does not
        // expire.
        let dup = entry.sequence <= sent_before;
        let is_over = !dup && message.is_expired(now);
        let frame = Frame {
            qos: entry.qos,
            retain: entry.retain,
            dup,
            packet_id: Some(packet_id),
            subscription_id: entry.subscription_id,
        };
        let delivered = if is_over {
            Delivered::Dropped(DropReason::Expired)
        } else {
            self.write_publish(now, &message, frame)
        };
        self.note_late(delivered, &message);
        let is_sent = delivered == Delivered::Sent;
        let keeps_body = is_sent && self.resends();
        let awaited = if is_sent { awaits(entry.qos) } else { Awaits::Nothing };
        let outbound = self.outbound_mut();
        outbound.push(now, awaited, keeps_body);
        if keeps_body {
            let tag = Tag {
                qos: entry.qos,
                retain: entry.retain,
                subscription_id: entry.subscription_id,
                origin: None,
            };
            outbound.bodies.push(tag.pack(), &message);
        }
        if is_sent {
            self.arm_resend(now);
        } else if broker.commit(entry.sequence).is_err() {
            self.farewell = Some(Box::new(Farewell::StaleClaim));
        }
    }

    fn send_entry_at_most_once(&mut self, now: Instant, entry: &Entry) {
        let message = entry.message.as_message();
        let frame = Frame {
            qos: Qos::AtMostOnce,
            retain: entry.retain,
            dup: false,
            packet_id: None,
            subscription_id: entry.subscription_id,
        };
        let delivered = if message.is_expired(now) {
            Delivered::Dropped(DropReason::Expired)
        } else {
            self.write_publish(now, &message, frame)
        };
        self.note_late(delivered, &message);
    }

    /// Whether one more QoS 1 or 2 message may go out now.
    pub(crate) fn has_room(&self) -> bool {
        let window_max = self.window_max();
        let is_open =
            self.outbound.as_ref().is_none_or(|outbound| outbound.window.has_room(window_max));
        is_open && self.output.len() <= OUTPUT_BYTES_MAX
    }

    #[inline]
    pub(crate) fn outbound_mut(&mut self) -> &mut Outbound {
        if self.outbound.is_none() {
            self.outbound = Some(self.new_outbound());
        }
        self.outbound.as_mut().expect("one was just made")
    }

    #[cold]
    fn new_outbound(&self) -> Box<Outbound> {
        let (settings, ceiling) = (&self.settings, self.peer.receive_maximum);
        let pace =
            settings.adaptive_send_window.then(|| Pace::new(settings.min_send_per_sec, ceiling));
        Box::new(Outbound::new(Sequence(1), pace.map(Box::new)))
    }

    /// Appends one PUBLISH to the output.
    pub(crate) fn write_publish(
        &mut self,
        now: Instant,
        message: &Message<'_>,
        frame: Frame,
    ) -> Delivered {
        let mut outgoing = Outgoing {
            version: self.version,
            dup: frame.dup,
            qos: frame.qos,
            retain: frame.retain,
            packet_id: frame.packet_id,
            topic: message.topic,
            topic_alias: None,
            topic_omitted: false,
            message_expiry_s: None,
            subscription_ids: &[],
            forwarded: &[],
            payload: message.payload,
        };
        let packet_size_max = self.peer.packet_size_max;
        let ids = [frame.subscription_id.unwrap_or(0)];
        if self.version == ProtocolVersion::V5 {
            outgoing.message_expiry_s = message.expiry_left(now);
            outgoing.forwarded = message.properties;
            if frame.subscription_id.is_some() {
                outgoing.subscription_ids = &ids;
            }
            self.apply_alias(&mut outgoing);
            let is_oversize =
                |outgoing: &Outgoing<'_>| outgoing.encoded_len() > packet_size_max as usize;
            if packet_size_max < u32::MAX && is_oversize(&outgoing) {
                if !outgoing.topic_omitted && outgoing.topic_alias.take().is_some() {
                    // It may fit without the alias that it would have introduced.
                    self.outbound_mut().aliases.forget(message.topic);
                }
                // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
                if outgoing.topic_omitted || is_oversize(&outgoing) {
                    return Delivered::Dropped(DropReason::Oversize);
                }
            }
        }
        match message.shared {
            Some(payload) => {
                self.output.append(|bytes| outgoing.encode_head(bytes));
                self.output.append_shared(payload.clone());
            }
            None => self.output.append(|bytes| outgoing.encode(bytes)),
        }
        Delivered::Sent
    }

    fn apply_alias(&mut self, outgoing: &mut Outgoing<'_>) {
        let alias_max = self.peer.topic_alias_max;
        // [MQTT-3.1.2-27]
        if alias_max == 0 {
            return;
        }
        match self.outbound_mut().aliases.choose(outgoing.topic, alias_max) {
            AliasUse::None => {}
            AliasUse::Introduce(alias) => outgoing.topic_alias = Some(alias),
            AliasUse::Known(alias) => {
                outgoing.topic_alias = Some(alias);
                outgoing.topic_omitted = true;
            }
        }
    }
}

/// What differs between the frames of one message.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) subscription_id: Option<u32>,
}

pub(crate) fn awaits(qos: Qos) -> Awaits {
    match qos {
        Qos::AtMostOnce => Awaits::Nothing,
        Qos::AtLeastOnce => Awaits::Puback,
        Qos::ExactlyOnce => Awaits::Pubrec,
    }
}

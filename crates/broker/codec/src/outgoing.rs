//! The broker's PUBLISH to a subscriber: the message as it came, with what this receiver gets.

use crate::primitive::{Sink, variable_bytes, variable_from, variable_len};
use crate::property::PropertyId;
use crate::publish::{first_byte, write_packet_id};
use crate::version::{PacketId, ProtocolVersion, Qos};

/// A PUBLISH on its way to one receiver, or to many with the same flags: see
/// [`Template`](crate::Template).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// Version of the receiver's connection. Before 5.0 no property is written.
    pub version: ProtocolVersion,
    /// Whether this is a repetition; not written with QoS 0.
    pub dup: bool,
    /// Quality of service of this delivery.
    pub qos: Qos,
    /// Retain flag of this delivery.
    pub retain: bool,
    /// There exactly when the QoS is not 0.
    pub packet_id: Option<PacketId>,
    /// The topic name.
    pub topic: &'a str,
    /// Alias to set or to use, not 0 [MQTT-3.3.2-8]; 5.0 only.
    pub topic_alias: Option<u16>,
    /// Leaves the topic out: the receiver knows the alias. Only with an alias, 5.0 only.
    pub topic_omitted: bool,
    /// What is left of the message's life, in seconds. [MQTT-3.3.2-6]
    pub message_expiry_s: Option<u32>,
    /// Ids of the receiver's matching subscriptions, each 1 to 268435455.
    pub subscription_ids: &'a [u32],
    /// Property bytes forwarded unaltered, from
    /// [`PublishProperties::forwarded`](crate::PublishProperties::forwarded).
    pub forwarded: &'a [u8],
    /// The message itself.
    pub payload: &'a [u8],
}

impl<'a> Outgoing<'a> {
    /// A message of QoS 0 without properties.
    #[must_use]
    pub const fn new(version: ProtocolVersion, topic: &'a str, payload: &'a [u8]) -> Self {
        Self {
            version,
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            packet_id: None,
            topic,
            topic_alias: None,
            topic_omitted: false,
            message_expiry_s: None,
            subscription_ids: &[],
            forwarded: &[],
            payload,
        }
    }

    /// The number of bytes that [`encode`](Self::encode) appends.
    #[inline]
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let remaining = self.sizes().remaining;
        1 + variable_len(variable_from(remaining)) + remaining
    }

    /// Appends the packet.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let sizes = self.sizes();
        out.reserve(HEAD_BYTES + sizes.remaining);
        self.write_head(sizes, out);
        out.extend_from_slice(self.payload);
    }

    /// Appends all but the payload, which a vectored write adds.
    #[inline]
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        let sizes = self.sizes();
        out.reserve(HEAD_BYTES + sizes.remaining - self.payload.len());
        self.write_head(sizes, out);
    }

    /// Gives back where the packet id went, counted from the packet's first byte.
    #[inline]
    pub(crate) fn write_head(&self, sizes: Sizes, out: &mut Vec<u8>) -> Option<usize> {
        let start = out.len();
        let topic = self.written_topic();
        let topic_length = u16::try_from(topic.len());
        assert!(topic_length.is_ok(), "a topic of {} bytes does not fit a packet", topic.len());
        let [high, low] = topic_length.unwrap_or(u16::MAX).to_be_bytes();
        // A copy of fixed size is a store; what is too much is taken back.
        let (digits, count) = variable_bytes(variable_from(sizes.remaining));
        let mut head = [0; HEAD_BYTES];
        head[0] = first_byte(self.dup, self.qos, self.retain);
        head[1..5].copy_from_slice(&digits);
        head[1 + count] = high;
        head[2 + count] = low;
        out.extend_from_slice(&head);
        out.truncate(start + 3 + count);
        out.extend_from_slice(topic.as_bytes());
        let packet_id_at = self.packet_id.map(|_| out.len() - start);
        write_packet_id(self.qos, self.packet_id, out);
        if self.version.is_v5() {
            out.put_variable(variable_from(sizes.properties));
            if sizes.properties > 0 {
                self.write_properties(out);
            }
        }
        packet_id_at
    }

    #[inline]
    pub(crate) fn sizes(&self) -> Sizes {
        let topic = self.written_topic();
        let packet_id = if self.packet_id.is_some() { 2 } else { 0 };
        let rest = 2 + topic.len() + packet_id + self.payload.len();
        if !self.version.is_v5() {
            return Sizes { properties: 0, remaining: rest };
        }
        let properties = self.properties_len();
        let prefix = variable_len(variable_from(properties));
        Sizes { properties, remaining: rest + prefix + properties }
    }

    #[inline]
    fn written_topic(&self) -> &'a str {
        let omitted = self.topic_omitted && self.topic_alias.is_some() && self.version.is_v5();
        if omitted { "" } else { self.topic }
    }

    #[inline]
    fn properties_len(&self) -> usize {
        let alias = if self.topic_alias.is_some() { 3 } else { 0 };
        let expiry = if self.message_expiry_s.is_some() { 5 } else { 0 };
        let ids: usize = self.subscription_ids.iter().map(|id| 1 + variable_len(*id)).sum();
        alias + expiry + ids + self.forwarded.len()
    }

    fn write_properties(&self, out: &mut Vec<u8>) {
        if let Some(alias) = self.topic_alias {
            debug_assert!(alias != 0, "alias 0 is never sent");
            out.put_u8(PropertyId::TopicAlias as u8);
            out.put_u16(alias);
        }
        if let Some(expiry_s) = self.message_expiry_s {
            out.put_u8(PropertyId::MessageExpiry as u8);
            out.put_u32(expiry_s);
        }
        // [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.3.4-5]
        for id in self.subscription_ids {
            out.put_u8(PropertyId::SubscriptionId as u8);
            out.put_variable(*id);
        }
        out.extend_from_slice(self.forwarded);
    }
}

/// Room for the first byte, four digits of length and the length of the topic, rounded up.
pub(crate) const HEAD_BYTES: usize = 8;

/// Lengths that are computed before the first byte is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    properties: usize,
    pub(crate) remaining: usize,
}

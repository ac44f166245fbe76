//! PUBLISH as it is received, and as a client without special needs sends it.

use crate::decode::Role;
use crate::error::{ErrorKind, Field};
use crate::primitive::{Fault, Reader, Sink, variable_from};
use crate::publish_properties::PublishProperties;
use crate::version::{PacketId, ProtocolVersion, Qos};

/// A message. The broker's way out is [`Outgoing`](crate::Outgoing).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Whether this may have been sent before; never with QoS 0. [MQTT-3.3.1-2]
    pub dup: bool,
    /// Quality of service.
    pub qos: Qos,
    /// Retain flag.
    pub retain: bool,
    /// UTF-8 without U+0000; that it is a topic name is for `ratatosk-topic` to check. May be
    /// empty in 5.0, with an alias.
    pub topic: &'a str,
    /// There exactly when the QoS is not 0. [MQTT-2.2.1-2]
    pub packet_id: Option<PacketId>,
    /// Properties of 5.0; empty in 3.x.
    pub properties: PublishProperties<'a>,
    /// The message itself.
    pub payload: &'a [u8],
}

impl<'a> Publish<'a> {
    /// A message of QoS 0 without properties.
    #[must_use]
    pub fn new(topic: &'a str, payload: &'a [u8]) -> Self {
        Self {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            topic,
            packet_id: None,
            properties: PublishProperties::default(),
            payload,
        }
    }

    /// The flags were checked with the fixed header.
    #[inline(always)]
    pub(crate) fn decode(
        mut reader: Reader<'a>,
        flags: u8,
        version: ProtocolVersion,
        role: Role,
    ) -> Result<Self, Fault> {
        // [MQTT-3.3.2-1]
        let topic = reader.text(Field::Topic)?;
        let qos = Qos::try_from(flags >> 1 & 3).map_err(|_| reader.fault(ErrorKind::QosInvalid))?;
        // [MQTT-2.2.1-2]; 3.1.1 [MQTT-2.3.1-5]
        let packet_id = match qos {
            Qos::AtMostOnce => None,
            _ => Some(reader.packet_id()?),
        };
        let mut properties = PublishProperties::default();
        if version.is_v5() {
            let block = reader.property_block()?;
            if !block.is_empty() {
                properties = PublishProperties::decode(block, role)?;
            }
        }
        Ok(Self {
            dup: flags & 0x08 != 0,
            qos,
            retain: flags & 0x01 != 0,
            topic,
            packet_id,
            properties,
            payload: reader.take_rest(),
        })
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.put_text(self.topic);
        write_packet_id(self.qos, self.packet_id, sink);
        if version.is_v5() {
            let properties = self.properties.bytes();
            sink.put_variable(variable_from(properties.len()));
            sink.put(properties);
        }
        sink.put(self.payload);
    }

    pub(crate) fn first_byte(&self) -> u8 {
        first_byte(self.dup, self.qos, self.retain)
    }
}

/// [MQTT-3.3.1-4] QoS 3 and [MQTT-3.3.1-2] DUP with QoS 0 are seen in the first byte.
pub(crate) const fn check_flags(flags: u8) -> Option<ErrorKind> {
    match flags & 0b1110 {
        0b0110 | 0b1110 => Some(ErrorKind::QosInvalid),
        0b1000 => Some(ErrorKind::DupWithoutQos),
        _ => None,
    }
}

/// [MQTT-3.3.1-2] [MQTT-4.3.1-1] DUP is never written with QoS 0.
#[inline]
pub(crate) fn first_byte(dup: bool, qos: Qos, retain: bool) -> u8 {
    let dup = dup && qos != Qos::AtMostOnce;
    0x30 | u8::from(dup) << 3 | qos.value() << 1 | u8::from(retain)
}

/// [MQTT-2.2.1-2] [MQTT-2.2.1-4] An id exactly when the QoS needs one; anything else is a bug of
/// the caller.
#[inline]
pub(crate) fn write_packet_id<S: Sink>(qos: Qos, packet_id: Option<PacketId>, sink: &mut S) {
    match (qos, packet_id) {
        (Qos::AtMostOnce, None) => {}
        (Qos::AtLeastOnce | Qos::ExactlyOnce, Some(id)) => sink.put_u16(id.value()),
        (_, id) => panic!("{qos:?} does not go with packet id {id:?}"),
    }
}

//! The encoder: appends a packet to a buffer, within the receiver's limit if asked.
//!
//! The caller owns the meaning of what it sends. What cannot be written at all is a bug and
//! panics: a field above 65535 bytes, a QoS that does not go with its packet id, AUTH before 5.0.

use crate::ack::Ack;
use crate::packet::{Packet, PacketType};
use crate::primitive::{Length, Sink, variable_from, variable_len};
use crate::user_property::UserProperties;
use crate::version::ProtocolVersion;

/// Appends the packet as the version writes it. What the version does not have (properties,
/// reason codes) is left out.
pub fn encode(packet: &Packet<'_>, version: ProtocolVersion, out: &mut Vec<u8>) {
    match packet {
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack)
            if ack.is_bare(version) =>
        {
            encode_bare(packet.packet_type(), ack, out);
        }
        _ => {
            let remaining = body_len(packet, version);
            out.reserve(5 + remaining);
            out.put_u8(first_byte(packet));
            out.put_variable(variable_from(remaining));
            write_body(packet, version, out);
        }
    }
}

/// The number of bytes that [`encode`] appends.
#[must_use]
pub fn encoded_len(packet: &Packet<'_>, version: ProtocolVersion) -> usize {
    let remaining = body_len(packet, version);
    1 + variable_len(variable_from(remaining)) + remaining
}

/// What was left out to keep within the receiver's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shed {
    /// Nothing.
    Nothing,
    /// The reason string.
    ReasonString,
    /// The user properties, and the reason string if there was one.
    UserProperties,
}

/// The packet does not fit the receiver's limit, even without what may be left out. Nothing was
/// written; the packet is to be treated as sent. [MQTT-3.1.2-24] [MQTT-3.1.2-25]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet of {length} bytes exceeds the receiver's limit of {packet_size_max}")]
pub struct TooLarge {
    /// The shortest length it could have had.
    pub length: usize,
    /// The receiver's limit.
    pub packet_size_max: u32,
}

/// Appends the packet if it fits into `packet_size_max` bytes. To make it fit, the reason string
/// is left out first and then the user properties too, from packets of which the specification
/// says so.
///
/// [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.5.2-2] [MQTT-3.5.2-3]
/// [MQTT-3.6.2-2] [MQTT-3.6.2-3] [MQTT-3.7.2-2] [MQTT-3.7.2-3] [MQTT-3.9.2-1] [MQTT-3.9.2-2]
/// [MQTT-3.11.2-1] [MQTT-3.11.2-2] [MQTT-3.14.2-3] [MQTT-3.14.2-4] [MQTT-3.15.2-2]
/// [MQTT-3.15.2-3]
pub fn encode_within(
    packet: &Packet<'_>,
    version: ProtocolVersion,
    packet_size_max: u32,
    out: &mut Vec<u8>,
) -> Result<Shed, TooLarge> {
    let mut packet = *packet;
    let mut shed = Shed::Nothing;
    loop {
        let length = encoded_len(&packet, version);
        if length <= packet_size_max as usize {
            encode(&packet, version, out);
            return Ok(shed);
        }
        shed = shed_next(&mut packet).ok_or(TooLarge { length, packet_size_max })?;
    }
}

/// Takes reason string and user properties from the packets in which they only explain:
/// acknowledgements, SUBACK, UNSUBACK and AUTH. For clients that set Request Problem Information
/// to 0; PUBLISH, CONNACK and DISCONNECT keep theirs. [MQTT-3.1.2-29]
pub fn withhold_problem_information(packet: &mut Packet<'_>) {
    if matches!(packet, Packet::Connack(_) | Packet::Disconnect(_)) {
        return;
    }
    if let Some((reason_string, user_properties)) = explanation_of(packet) {
        *reason_string = None;
        *user_properties = UserProperties::default();
    }
}

/// Leaves out the next thing; `None` when there is nothing more.
fn shed_next(packet: &mut Packet<'_>) -> Option<Shed> {
    let (reason_string, user_properties) = explanation_of(packet)?;
    if reason_string.take().is_some() {
        return Some(Shed::ReasonString);
    }
    if !user_properties.is_empty() {
        *user_properties = UserProperties::default();
        return Some(Shed::UserProperties);
    }
    None
}

/// What may be left out, of the packets that have such parts.
fn explanation_of<'p, 'a>(
    packet: &'p mut Packet<'a>,
) -> Option<(&'p mut Option<&'a str>, &'p mut UserProperties<'a>)> {
    Some(match packet {
        Packet::Connack(connack) => {
            (&mut connack.properties.reason_string, &mut connack.properties.user_properties)
        }
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            (&mut ack.reason_string, &mut ack.user_properties)
        }
        Packet::Suback(suback) => (&mut suback.reason_string, &mut suback.user_properties),
        Packet::Unsuback(unsuback) => (&mut unsuback.reason_string, &mut unsuback.user_properties),
        Packet::Disconnect(disconnect) => {
            (&mut disconnect.reason_string, &mut disconnect.user_properties)
        }
        Packet::Auth(auth) => (&mut auth.reason_string, &mut auth.user_properties),
        Packet::Connect(_)
        | Packet::Publish(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::Pingreq
        | Packet::Pingresp => return None,
    })
}

/// Four bytes: the acknowledgements of the packet path.
#[inline]
fn encode_bare(packet: PacketType, ack: &Ack<'_>, out: &mut Vec<u8>) {
    let [high, low] = ack.packet_id.value().to_be_bytes();
    out.extend_from_slice(&[packet.first_byte(), 2, high, low]);
}

fn first_byte(packet: &Packet<'_>) -> u8 {
    match packet {
        Packet::Publish(publish) => publish.first_byte(),
        _ => packet.packet_type().first_byte(),
    }
}

fn body_len(packet: &Packet<'_>, version: ProtocolVersion) -> usize {
    let mut length = Length::default();
    write_body(packet, version, &mut length);
    length.0
}

fn write_body<S: Sink>(packet: &Packet<'_>, version: ProtocolVersion, sink: &mut S) {
    match packet {
        Packet::Connect(connect) => {
            debug_assert_eq!(connect.version, version, "CONNECT names its own version");
            connect.write(sink);
        }
        Packet::Connack(connack) => connack.write(version, sink),
        Packet::Publish(publish) => publish.write(version, sink),
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            ack.write(version, sink);
        }
        Packet::Subscribe(subscribe) => subscribe.write(version, sink),
        Packet::Suback(suback) => suback.write(version, sink),
        Packet::Unsubscribe(unsubscribe) => unsubscribe.write(version, sink),
        Packet::Unsuback(unsuback) => unsuback.write(version, sink),
        Packet::Pingreq | Packet::Pingresp => {}
        Packet::Disconnect(disconnect) => disconnect.write(version, sink),
        Packet::Auth(auth) => {
            assert!(version.is_v5(), "AUTH does not exist in MQTT {version}");
            auth.write(sink);
        }
    }
}

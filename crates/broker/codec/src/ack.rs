//! PUBACK, PUBREC, PUBREL and PUBCOMP, which share their layout.

use crate::error::ErrorKind;
use crate::packet::PacketType;
use crate::primitive::{Fault, Reader, Sink};
use crate::property::{
    Property, PropertyBlock, PropertyId, PropertyMask, USER_PROPERTY, put_some, read_block,
};
use crate::reason::ReasonCode;
use crate::user_property::UserProperties;
use crate::version::{PacketId, ProtocolVersion};

/// An acknowledgement. In 3.x there is only the packet id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The id of the PUBLISH. [MQTT-2.2.1-5] [MQTT-2.3.1-6]
    pub packet_id: PacketId,
    /// Success in 3.x.
    pub reason: ReasonCode,
    /// For people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

/// The properties of acknowledgements, SUBACK and UNSUBACK.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Explanation<'a> {
    pub(crate) reason_string: Option<&'a str>,
    pub(crate) user_properties: UserProperties<'a>,
}

impl<'a> Ack<'a> {
    /// An acknowledgement without properties.
    #[inline]
    #[must_use]
    pub fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, reason_string: None, user_properties: UserProperties::default() }
    }

    pub(crate) fn decode(
        mut reader: Reader<'a>,
        packet: PacketType,
        version: ProtocolVersion,
    ) -> Result<Self, Fault> {
        let packet_id = reader.packet_id()?;
        let this = Self::new(packet_id, ReasonCode::Success);
        if reader.is_empty() {
            return Ok(this);
        }
        this.decode_rest(reader, packet, version)
    }

    /// In 5.0 the reason code may be left out with what follows it, and so may the properties.
    fn decode_rest(
        mut self,
        mut reader: Reader<'a>,
        packet: PacketType,
        version: ProtocolVersion,
    ) -> Result<Self, Fault> {
        if !version.is_v5() {
            reader.finish()?;
            return Ok(self);
        }
        self.reason = read_reason(&mut reader, packet)?;
        if reader.is_empty() {
            return Ok(self);
        }
        let explanation = Explanation::decode(reader.property_block()?)?;
        reader.finish()?;
        self.reason_string = explanation.reason_string;
        self.user_properties = explanation.user_properties;
        Ok(self)
    }

    #[inline]
    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.put_u16(self.packet_id.value());
        if !version.is_v5() {
            return;
        }
        let explanation = self.explanation();
        let plain = explanation.is_empty();
        if plain && self.reason == ReasonCode::Success {
            return;
        }
        sink.put_u8(self.reason.value());
        if !plain {
            explanation.write_block(sink);
        }
    }

    /// Whether two bytes say it all.
    #[inline]
    pub(crate) fn is_bare(&self, version: ProtocolVersion) -> bool {
        let plain = self.reason == ReasonCode::Success && self.explanation().is_empty();
        plain || !version.is_v5()
    }

    #[inline]
    fn explanation(&self) -> Explanation<'a> {
        Explanation { reason_string: self.reason_string, user_properties: self.user_properties }
    }
}

/// [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1] [MQTT-3.14.2-1] [MQTT-3.15.2-1]
/// The code stands in the packet's table.
pub(crate) fn read_reason(
    reader: &mut Reader<'_>,
    packet: PacketType,
) -> Result<ReasonCode, Fault> {
    let at = *reader;
    let code = reader.u8()?;
    ReasonCode::from_u8(code)
        .filter(|reason| reason.valid_in(packet))
        .ok_or_else(|| at.fault(ErrorKind::InvalidReasonCode { code }))
}

const EXPLANATION: PropertyMask =
    PropertyMask::new(&[PropertyId::ReasonString, PropertyId::UserProperty]);

impl<'a> Explanation<'a> {
    pub(crate) fn decode(block: Reader<'a>) -> Result<Self, Fault> {
        let mut reason_string = None;
        let mut user_bytes = 0;
        read_block(block, EXPLANATION, USER_PROPERTY, |property, bytes| {
            match property {
                Property::ReasonString(value) => reason_string = Some(value),
                Property::User(..) => user_bytes += bytes.len(),
                _ => {}
            }
            Ok(())
        })?;
        let user_properties = UserProperties::new(block.rest(), user_bytes);
        Ok(Self { reason_string, user_properties })
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.reason_string.is_none() && self.user_properties.is_empty()
    }
}

impl PropertyBlock for Explanation<'_> {
    fn write_properties<S: Sink>(&self, sink: &mut S) {
        put_some(sink, self.reason_string, Property::ReasonString);
        self.user_properties.write(sink);
    }
}

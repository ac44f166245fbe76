//! SUBACK and UNSUBACK: one code for each filter, in order.

use std::fmt;

use crate::ack::Explanation;
use crate::error::ErrorKind;
use crate::packet::PacketType;
use crate::primitive::{Fault, Reader, Sink};
use crate::property::PropertyBlock;
use crate::reason::ReasonCode;
use crate::user_property::UserProperties;
use crate::version::{PacketId, ProtocolVersion};

/// SUBACK. In 3.x every error is written and read as 0x80, and there are no properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suback<'a> {
    /// The id of the SUBSCRIBE. [MQTT-2.2.1-6]
    pub packet_id: PacketId,
    /// For people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// One for each filter, in order. [MQTT-3.8.4-6] [MQTT-3.9.3-1]
    pub codes: ReasonCodes<'a>,
}

/// UNSUBACK. In 3.x there are neither codes nor properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsuback<'a> {
    /// The id of the UNSUBSCRIBE. [MQTT-2.2.1-6]
    pub packet_id: PacketId,
    /// For people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// One for each filter, in order [MQTT-3.11.3-1]; empty when decoded from 3.x.
    pub codes: ReasonCodes<'a>,
}

impl<'a> Suback<'a> {
    /// A SUBACK without properties.
    #[must_use]
    pub fn new(packet_id: PacketId, codes: &'a [ReasonCode]) -> Self {
        Self {
            packet_id,
            reason_string: None,
            user_properties: UserProperties::default(),
            codes: ReasonCodes::from(codes),
        }
    }

    pub(crate) fn decode(mut reader: Reader<'a>, version: ProtocolVersion) -> Result<Self, Fault> {
        let packet_id = reader.packet_id()?;
        let explanation = read_explanation(&mut reader, version)?;
        // 3.1.1 [MQTT3-3.9.3-2]; MQTT 3.1 has no 0x80 but servers send it all the same.
        let codes = ReasonCodes::decode(&mut reader, |code| match version {
            ProtocolVersion::V5 => code.valid_in(PacketType::Suback),
            _ => matches!(code.value(), 0..=2 | 0x80),
        })?;
        let Explanation { reason_string, user_properties } = explanation;
        Ok(Self { packet_id, reason_string, user_properties, codes })
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.put_u16(self.packet_id.value());
        if !version.is_v5() {
            for code in self.codes.iter() {
                let failed = code.is_error();
                sink.put_u8(if failed { 0x80 } else { code.value() });
            }
            return;
        }
        self.explanation().write_block(sink);
        self.codes.write(sink);
    }

    fn explanation(&self) -> Explanation<'a> {
        Explanation { reason_string: self.reason_string, user_properties: self.user_properties }
    }
}

impl<'a> Unsuback<'a> {
    /// An UNSUBACK without properties.
    #[must_use]
    pub fn new(packet_id: PacketId, codes: &'a [ReasonCode]) -> Self {
        Self {
            packet_id,
            reason_string: None,
            user_properties: UserProperties::default(),
            codes: ReasonCodes::from(codes),
        }
    }

    pub(crate) fn decode(mut reader: Reader<'a>, version: ProtocolVersion) -> Result<Self, Fault> {
        let packet_id = reader.packet_id()?;
        if !version.is_v5() {
            reader.finish()?;
            return Ok(Self::new(packet_id, &[]));
        }
        let Explanation { reason_string, user_properties } =
            read_explanation(&mut reader, version)?;
        let codes = ReasonCodes::decode(&mut reader, |code| code.valid_in(PacketType::Unsuback))?;
        Ok(Self { packet_id, reason_string, user_properties, codes })
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.put_u16(self.packet_id.value());
        if version.is_v5() {
            let Self { reason_string, user_properties, .. } = *self;
            Explanation { reason_string, user_properties }.write_block(sink);
            self.codes.write(sink);
        }
    }
}

fn read_explanation<'a>(
    reader: &mut Reader<'a>,
    version: ProtocolVersion,
) -> Result<Explanation<'a>, Fault> {
    match version {
        ProtocolVersion::V5 => Explanation::decode(reader.property_block()?),
        _ => Ok(Explanation::default()),
    }
}

/// A list of reason codes: the checked bytes of a packet, or a caller's list.
#[derive(Clone, Copy)]
pub struct ReasonCodes<'a>(Codes<'a>);

#[derive(Clone, Copy)]
enum Codes<'a> {
    Bytes(&'a [u8]),
    List(&'a [ReasonCode]),
}

impl<'a> ReasonCodes<'a> {
    /// [MQTT-3.9.3-2] [MQTT-3.11.3-2] Every code stands in the packet's table.
    fn decode(reader: &mut Reader<'a>, valid: impl Fn(ReasonCode) -> bool) -> Result<Self, Fault> {
        let bytes = reader.rest();
        while !reader.is_empty() {
            let at = *reader;
            let code = reader.u8()?;
            if !ReasonCode::from_u8(code).is_some_and(&valid) {
                return Err(at.fault(ErrorKind::InvalidReasonCode { code }));
            }
        }
        Ok(Self(Codes::Bytes(bytes)))
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self.0 {
            Codes::Bytes(bytes) => bytes.len(),
            Codes::List(list) => list.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In the order of the filters.
    pub fn iter(&self) -> impl Iterator<Item = ReasonCode> + Clone + use<'a> {
        let (bytes, list) = match self.0 {
            Codes::Bytes(bytes) => (bytes, &[][..]),
            Codes::List(list) => (&[][..], list),
        };
        bytes.iter().filter_map(|byte| ReasonCode::from_u8(*byte)).chain(list.iter().copied())
    }

    fn write<S: Sink>(&self, sink: &mut S) {
        match self.0 {
            Codes::Bytes(bytes) => sink.put(bytes),
            Codes::List(list) => list.iter().for_each(|code| sink.put_u8(code.value())),
        }
    }
}

impl<'a> From<&'a [ReasonCode]> for ReasonCodes<'a> {
    fn from(list: &'a [ReasonCode]) -> Self {
        Self(Codes::List(list))
    }
}

impl PartialEq for ReasonCodes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ReasonCodes<'_> {}

impl fmt::Debug for ReasonCodes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

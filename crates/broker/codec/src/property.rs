//! Properties of MQTT 5.0: their ids, their typed values, and the block that holds them.
//!
//! A block is read once, checked completely (known, allowed in the packet, not repeated, value in
//! range, strings sound), and each property is handed to the packet that owns it.

use std::fmt;

use crate::error::{ErrorKind, Field};
use crate::primitive::{Fault, Length, Reader, Sink, variable_from};
use crate::version::Qos;

macro_rules! property_ids {
    ($($name:ident = $value:literal, $text:literal;)+) => {
        /// The properties of MQTT 5.0 with their numbers on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum PropertyId {
            $(#[doc = $text] $name = $value,)+
        }

        impl PropertyId {
            /// All ids in rising order.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// `None` when MQTT 5.0 defines no such property.
            #[must_use]
            pub const fn from_u32(value: u32) -> Option<Self> {
                match value {
                    $($value => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// The name in words, lowercase.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

property_ids! {
    PayloadFormat = 0x01, "payload format indicator";
    MessageExpiry = 0x02, "message expiry interval";
    ContentType = 0x03, "content type";
    ResponseTopic = 0x08, "response topic";
    CorrelationData = 0x09, "correlation data";
    SubscriptionId = 0x0B, "subscription identifier";
    SessionExpiry = 0x11, "session expiry interval";
    AssignedClientId = 0x12, "assigned client identifier";
    ServerKeepAlive = 0x13, "server keep alive";
    AuthenticationMethod = 0x15, "authentication method";
    AuthenticationData = 0x16, "authentication data";
    RequestProblemInformation = 0x17, "request problem information";
    WillDelay = 0x18, "will delay interval";
    RequestResponseInformation = 0x19, "request response information";
    ResponseInformation = 0x1A, "response information";
    ServerReference = 0x1C, "server reference";
    ReasonString = 0x1F, "reason string";
    ReceiveMaximum = 0x21, "receive maximum";
    TopicAliasMaximum = 0x22, "topic alias maximum";
    TopicAlias = 0x23, "topic alias";
    MaximumQos = 0x24, "maximum QoS";
    RetainAvailable = 0x25, "retain available";
    UserProperty = 0x26, "user property";
    MaximumPacketSize = 0x27, "maximum packet size";
    WildcardSubscriptionAvailable = 0x28, "wildcard subscription available";
    SubscriptionIdsAvailable = 0x29, "subscription identifiers available";
    SharedSubscriptionAvailable = 0x2A, "shared subscription available";
}

impl PropertyId {
    pub(crate) const fn bit(self) -> u64 {
        1 << (self as u8)
    }
}

impl fmt::Display for PropertyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of properties: which a packet may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PropertyMask(u64);

impl PropertyMask {
    pub(crate) const fn new(ids: &[PropertyId]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < ids.len() {
            bits |= ids[index].bit();
            index += 1;
        }
        Self(bits)
    }

    pub(crate) const fn has(self, id: PropertyId) -> bool {
        self.0 & id.bit() != 0
    }
}

/// One property with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Property<'a> {
    PayloadFormat(bool),
    MessageExpiry(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionId(u32),
    SessionExpiry(u32),
    AssignedClientId(&'a str),
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelay(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQos(Qos),
    RetainAvailable(bool),
    User(&'a str, &'a str),
    MaximumPacketSize(u32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdsAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

impl<'a> Property<'a> {
    /// Reads the value that follows the id.
    fn read(id: PropertyId, reader: &mut Reader<'a>) -> Result<Self, Fault> {
        use PropertyId as Id;
        Ok(match id {
            Id::PayloadFormat => Self::PayloadFormat(flag(id, reader)?),
            Id::MessageExpiry => Self::MessageExpiry(reader.u32()?),
            Id::ContentType => Self::ContentType(text(id, reader)?),
            Id::ResponseTopic => Self::ResponseTopic(text(id, reader)?),
            Id::CorrelationData => Self::CorrelationData(reader.binary()?),
            Id::SubscriptionId => Self::SubscriptionId(not_zero(id, reader, Reader::variable)?),
            Id::SessionExpiry => Self::SessionExpiry(reader.u32()?),
            Id::AssignedClientId => Self::AssignedClientId(text(id, reader)?),
            Id::ServerKeepAlive => Self::ServerKeepAlive(reader.u16()?),
            Id::AuthenticationMethod => Self::AuthenticationMethod(text(id, reader)?),
            Id::AuthenticationData => Self::AuthenticationData(reader.binary()?),
            Id::RequestProblemInformation => Self::RequestProblemInformation(flag(id, reader)?),
            Id::WillDelay => Self::WillDelay(reader.u32()?),
            Id::RequestResponseInformation => Self::RequestResponseInformation(flag(id, reader)?),
            Id::ResponseInformation => Self::ResponseInformation(text(id, reader)?),
            Id::ServerReference => Self::ServerReference(text(id, reader)?),
            Id::ReasonString => Self::ReasonString(text(id, reader)?),
            Id::ReceiveMaximum => Self::ReceiveMaximum(not_zero(id, reader, Reader::u16)?),
            Id::TopicAliasMaximum => Self::TopicAliasMaximum(reader.u16()?),
            // Zero is surfaced: it has a reason code of its own that the session gives.
            Id::TopicAlias => Self::TopicAlias(reader.u16()?),
            Id::MaximumQos => Self::MaximumQos(match flag(id, reader)? {
                false => Qos::AtMostOnce,
                true => Qos::AtLeastOnce,
            }),
            Id::RetainAvailable => Self::RetainAvailable(flag(id, reader)?),
            // [MQTT-1.5.7-1] Both halves are strings.
            Id::UserProperty => Self::User(text(id, reader)?, text(id, reader)?),
            Id::MaximumPacketSize => Self::MaximumPacketSize(not_zero(id, reader, Reader::u32)?),
            Id::WildcardSubscriptionAvailable => {
                Self::WildcardSubscriptionAvailable(flag(id, reader)?)
            }
            Id::SubscriptionIdsAvailable => Self::SubscriptionIdsAvailable(flag(id, reader)?),
            Id::SharedSubscriptionAvailable => Self::SharedSubscriptionAvailable(flag(id, reader)?),
        })
    }

    pub(crate) fn write<S: Sink>(self, sink: &mut S) {
        use PropertyId as Id;
        match self {
            Self::PayloadFormat(value) => put_flag(sink, Id::PayloadFormat, value),
            Self::MessageExpiry(value) => put_u32(sink, Id::MessageExpiry, value),
            Self::ContentType(value) => put_text(sink, Id::ContentType, value),
            Self::ResponseTopic(value) => put_text(sink, Id::ResponseTopic, value),
            Self::CorrelationData(value) => put_binary(sink, Id::CorrelationData, value),
            Self::SubscriptionId(value) => {
                sink.put_u8(Id::SubscriptionId as u8);
                sink.put_variable(value);
            }
            Self::SessionExpiry(value) => put_u32(sink, Id::SessionExpiry, value),
            Self::AssignedClientId(value) => put_text(sink, Id::AssignedClientId, value),
            Self::ServerKeepAlive(value) => put_u16(sink, Id::ServerKeepAlive, value),
            Self::AuthenticationMethod(value) => put_text(sink, Id::AuthenticationMethod, value),
            Self::AuthenticationData(value) => put_binary(sink, Id::AuthenticationData, value),
            Self::RequestProblemInformation(value) => {
                put_flag(sink, Id::RequestProblemInformation, value);
            }
            Self::WillDelay(value) => put_u32(sink, Id::WillDelay, value),
            Self::RequestResponseInformation(value) => {
                put_flag(sink, Id::RequestResponseInformation, value);
            }
            Self::ResponseInformation(value) => put_text(sink, Id::ResponseInformation, value),
            Self::ServerReference(value) => put_text(sink, Id::ServerReference, value),
            Self::ReasonString(value) => put_text(sink, Id::ReasonString, value),
            Self::ReceiveMaximum(value) => put_u16(sink, Id::ReceiveMaximum, value),
            Self::TopicAliasMaximum(value) => put_u16(sink, Id::TopicAliasMaximum, value),
            Self::TopicAlias(value) => put_u16(sink, Id::TopicAlias, value),
            Self::MaximumQos(value) => put_flag(sink, Id::MaximumQos, value != Qos::AtMostOnce),
            Self::RetainAvailable(value) => put_flag(sink, Id::RetainAvailable, value),
            Self::User(name, value) => {
                put_text(sink, Id::UserProperty, name);
                sink.put_text(value);
            }
            Self::MaximumPacketSize(value) => put_u32(sink, Id::MaximumPacketSize, value),
            Self::WildcardSubscriptionAvailable(value) => {
                put_flag(sink, Id::WildcardSubscriptionAvailable, value);
            }
            Self::SubscriptionIdsAvailable(value) => {
                put_flag(sink, Id::SubscriptionIdsAvailable, value);
            }
            Self::SharedSubscriptionAvailable(value) => {
                put_flag(sink, Id::SharedSubscriptionAvailable, value);
            }
        }
    }
}

/// Properties that are not set take no room.
pub(crate) fn put_some<'a, S: Sink, T>(
    sink: &mut S,
    value: Option<T>,
    property: impl FnOnce(T) -> Property<'a>,
) {
    if let Some(value) = value {
        property(value).write(sink);
    }
}

fn flag(id: PropertyId, reader: &mut Reader<'_>) -> Result<bool, Fault> {
    let offset = reader.offset();
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        value => {
            let kind = ErrorKind::PropertyValue { id, value: u32::from(value) };
            Err(Fault { kind, offset })
        }
    }
}

fn text<'a>(id: PropertyId, reader: &mut Reader<'a>) -> Result<&'a str, Fault> {
    reader.text(Field::Property(id))
}

fn not_zero<'a, T: Default + PartialEq>(
    id: PropertyId,
    reader: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let offset = reader.offset();
    let value = read(reader)?;
    if value == T::default() {
        return Err(Fault { kind: ErrorKind::PropertyValue { id, value: 0 }, offset });
    }
    Ok(value)
}

fn put_flag<S: Sink>(sink: &mut S, id: PropertyId, value: bool) {
    sink.put(&[id as u8, u8::from(value)]);
}

fn put_u16<S: Sink>(sink: &mut S, id: PropertyId, value: u16) {
    sink.put_u8(id as u8);
    sink.put_u16(value);
}

fn put_u32<S: Sink>(sink: &mut S, id: PropertyId, value: u32) {
    sink.put_u8(id as u8);
    sink.put_u32(value);
}

fn put_binary<S: Sink>(sink: &mut S, id: PropertyId, value: &[u8]) {
    sink.put_u8(id as u8);
    sink.put_binary(value);
}

fn put_text<S: Sink>(sink: &mut S, id: PropertyId, value: &str) {
    put_binary(sink, id, value.as_bytes());
}

/// Reads a block to its end. Only `repeatable` properties may stand more than once. `visit` gets
/// each property with its bytes, id included.
pub(crate) fn read_block<'a>(
    mut block: Reader<'a>,
    allowed: PropertyMask,
    repeatable: PropertyMask,
    mut visit: impl FnMut(Property<'a>, &'a [u8]) -> Result<(), ErrorKind>,
) -> Result<(), Fault> {
    let mut seen = 0u64;
    while !block.is_empty() {
        let at = block;
        let number = block.variable()?;
        let Some(id) = PropertyId::from_u32(number) else {
            return Err(at.fault(ErrorKind::UnknownProperty { id: number }));
        };
        if !allowed.has(id) {
            return Err(at.fault(ErrorKind::ForeignProperty { id }));
        }
        if seen & id.bit() != 0 && !repeatable.has(id) {
            return Err(at.fault(ErrorKind::DuplicateProperty { id }));
        }
        seen |= id.bit();
        let property = Property::read(id, &mut block)?;
        let length = at.rest().len() - block.rest().len();
        visit(property, &at.rest()[..length]).map_err(|kind| at.fault(kind))?;
    }
    Ok(())
}

/// The property that may always repeat.
pub(crate) const USER_PROPERTY: PropertyMask = PropertyMask::new(&[PropertyId::UserProperty]);

/// Walks a block that was checked before. Ends at the first thing that does not fit, which then
/// is the end.
#[derive(Debug, Clone)]
pub(crate) struct Properties<'a> {
    block: Reader<'a>,
}

impl<'a> Properties<'a> {
    pub(crate) fn new(block: &'a [u8]) -> Self {
        Self { block: Reader::new(block, 0) }
    }

    /// The next property with its bytes, id included.
    pub(crate) fn next_with_bytes(&mut self) -> Option<(Property<'a>, &'a [u8])> {
        let before = self.block.rest();
        let id = self.block.variable().ok().and_then(PropertyId::from_u32)?;
        let property = Property::read(id, &mut self.block).ok()?;
        let length = before.len() - self.block.rest().len();
        Some((property, &before[..length]))
    }
}

impl<'a> Iterator for Properties<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        self.next_with_bytes().map(|(property, _)| property)
    }
}

/// What a packet writes between the length of its properties and what follows.
pub(crate) trait PropertyBlock {
    fn write_properties<S: Sink>(&self, sink: &mut S);

    /// Length prefix and properties. [MQTT-2.2.2-1] The prefix is there without properties too.
    fn write_block<S: Sink>(&self, sink: &mut S) {
        sink.put_variable(variable_from(self.properties_len()));
        self.write_properties(sink);
    }

    fn properties_len(&self) -> usize {
        let mut length = Length::default();
        self.write_properties(&mut length);
        length.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_survives_its_number() {
        for id in PropertyId::ALL {
            assert_eq!(PropertyId::from_u32(*id as u32), Some(*id));
        }
        assert_eq!((0..300).filter_map(PropertyId::from_u32).count(), 27);
    }

    #[test]
    fn a_checked_block_can_be_walked_again() {
        let mut block = Vec::new();
        let properties = [
            Property::PayloadFormat(true),
            Property::User("a", ""),
            Property::SubscriptionId(268_435_455),
            Property::User("a", "b"),
        ];
        for property in properties {
            property.write(&mut block);
        }
        let walked: Vec<_> = Properties::new(&block).collect();
        assert_eq!(walked, properties);
    }
}

//! DISCONNECT: the last packet of a connection.

use crate::ack::read_reason;
use crate::decode::Role;
use crate::packet::PacketType;
use crate::primitive::{Fault, Reader, Sink};
use crate::property::{
    Property, PropertyBlock, PropertyId, PropertyMask, USER_PROPERTY, put_some, read_block,
};
use crate::reason::ReasonCode;
use crate::user_property::UserProperties;
use crate::version::ProtocolVersion;

/// DISCONNECT. In 3.x it has no content and only clients send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// [`ReasonCode::Success`] is the normal end.
    pub reason: ReasonCode,
    /// Changes the expiry of the session; from clients only. [MQTT-3.14.2-2]
    pub session_expiry_s: Option<u32>,
    /// For people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Another server to use; from servers only.
    pub server_reference: Option<&'a str>,
}

const FROM_CLIENT: PropertyMask = PropertyMask::new(&[
    PropertyId::SessionExpiry,
    PropertyId::ReasonString,
    PropertyId::UserProperty,
]);

/// [MQTT-3.14.2-2] A server does not send the session expiry.
const FROM_SERVER: PropertyMask = PropertyMask::new(&[
    PropertyId::ReasonString,
    PropertyId::UserProperty,
    PropertyId::ServerReference,
]);

impl<'a> Disconnect<'a> {
    /// A DISCONNECT without properties.
    #[must_use]
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            session_expiry_s: None,
            reason_string: None,
            user_properties: UserProperties::default(),
            server_reference: None,
        }
    }

    pub(crate) fn decode(
        mut reader: Reader<'a>,
        version: ProtocolVersion,
        role: Role,
    ) -> Result<Self, Fault> {
        let mut this = Self::new(ReasonCode::Success);
        if !version.is_v5() || reader.is_empty() {
            reader.finish()?;
            return Ok(this);
        }
        this.reason = read_reason(&mut reader, PacketType::Disconnect)?;
        if reader.is_empty() {
            return Ok(this);
        }
        let block = reader.property_block()?;
        let allowed = match role {
            Role::Server => FROM_CLIENT,
            Role::Client => FROM_SERVER,
        };
        let mut user_bytes = 0;
        read_block(block, allowed, USER_PROPERTY, |property, bytes| {
            match property {
                Property::SessionExpiry(value) => this.session_expiry_s = Some(value),
                Property::ReasonString(value) => this.reason_string = Some(value),
                Property::ServerReference(value) => this.server_reference = Some(value),
                _ => user_bytes += bytes.len(),
            }
            Ok(())
        })?;
        this.user_properties = UserProperties::new(block.rest(), user_bytes);
        reader.finish()?;
        Ok(this)
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        if !version.is_v5() {
            return;
        }
        let plain = self.properties_len() == 0;
        if plain && self.reason == ReasonCode::Success {
            return;
        }
        sink.put_u8(self.reason.value());
        if !plain {
            self.write_block(sink);
        }
    }
}

impl PropertyBlock for Disconnect<'_> {
    fn write_properties<S: Sink>(&self, sink: &mut S) {
        put_some(sink, self.session_expiry_s, Property::SessionExpiry);
        put_some(sink, self.reason_string, Property::ReasonString);
        put_some(sink, self.server_reference, Property::ServerReference);
        self.user_properties.write(sink);
    }
}

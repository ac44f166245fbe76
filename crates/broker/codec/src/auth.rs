//! AUTH: a step of enhanced authentication, MQTT 5.0 only.

use crate::ack::read_reason;
use crate::error::ErrorKind;
use crate::packet::PacketType;
use crate::primitive::{Fault, Reader, Sink};
use crate::property::{
    Property, PropertyBlock, PropertyId, PropertyMask, USER_PROPERTY, put_some, read_block,
};
use crate::reason::ReasonCode;
use crate::user_property::UserProperties;

/// AUTH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, continue authentication or re-authenticate; which of them is due is for the
    /// session to check.
    pub reason: ReasonCode,
    /// `None` only in the short form of success, a packet without content.
    pub method: Option<&'a str>,
    /// Data of the method.
    pub data: Option<&'a [u8]>,
    /// For people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

const AUTH_PROPERTIES: PropertyMask = PropertyMask::new(&[
    PropertyId::AuthenticationMethod,
    PropertyId::AuthenticationData,
    PropertyId::ReasonString,
    PropertyId::UserProperty,
]);

impl<'a> Auth<'a> {
    /// An AUTH with its method and nothing else.
    #[must_use]
    pub fn new(reason: ReasonCode, method: &'a str) -> Self {
        Self { method: Some(method), ..Self::bare(reason) }
    }

    fn bare(reason: ReasonCode) -> Self {
        Self {
            reason,
            method: None,
            data: None,
            reason_string: None,
            user_properties: UserProperties::default(),
        }
    }

    pub(crate) fn decode(mut reader: Reader<'a>) -> Result<Self, Fault> {
        let mut this = Self::bare(ReasonCode::Success);
        if reader.is_empty() {
            return Ok(this);
        }
        this.reason = read_reason(&mut reader, PacketType::Auth)?;
        let block = reader.property_block()?;
        let mut user_bytes = 0;
        read_block(block, AUTH_PROPERTIES, USER_PROPERTY, |property, bytes| {
            match property {
                Property::AuthenticationMethod(value) => this.method = Some(value),
                Property::AuthenticationData(value) => this.data = Some(value),
                Property::ReasonString(value) => this.reason_string = Some(value),
                _ => user_bytes += bytes.len(),
            }
            Ok(())
        })?;
        if this.method.is_none() {
            return Err(block.fault(ErrorKind::AuthenticationMethodMissing));
        }
        this.user_properties = UserProperties::new(block.rest(), user_bytes);
        reader.finish()?;
        Ok(this)
    }

    pub(crate) fn write<S: Sink>(&self, sink: &mut S) {
        let plain = self.properties_len() == 0;
        if plain && self.reason == ReasonCode::Success {
            return;
        }
        assert!(self.method.is_some(), "an auth packet needs its method");
        sink.put_u8(self.reason.value());
        self.write_block(sink);
    }
}

impl PropertyBlock for Auth<'_> {
    fn write_properties<S: Sink>(&self, sink: &mut S) {
        put_some(sink, self.method, Property::AuthenticationMethod);
        put_some(sink, self.data, Property::AuthenticationData);
        put_some(sink, self.reason_string, Property::ReasonString);
        self.user_properties.write(sink);
    }
}

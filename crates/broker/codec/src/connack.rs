//! CONNACK: the answer to CONNECT.

use std::num::{NonZeroU16, NonZeroU32};

use crate::error::ErrorKind;
use crate::packet::PacketType;
use crate::primitive::{Fault, Reader, Sink};
use crate::property::{
    Property, PropertyBlock, PropertyId, PropertyMask, USER_PROPERTY, put_some, read_block,
};
use crate::reason::{ConnectReturnCode, ReasonCode};
use crate::user_property::UserProperties;
use crate::version::{ProtocolVersion, Qos};

/// CONNACK. In 3.x the reason code is translated to and from its return code, and the properties
/// are empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connack<'a> {
    /// Whether a stored session is resumed; never with an error. [MQTT-3.2.2-6]
    pub session_present: bool,
    /// Success, or why not. For 3.x see [`ReasonCode::connect_return_code`]: a code without a
    /// counterpart is written as "server unavailable"; a server closes without CONNACK instead.
    pub reason: ReasonCode,
    /// Properties of 5.0.
    pub properties: ConnackProperties<'a>,
}

/// The properties of CONNACK. `None` means absent, which has the specification's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnackProperties<'a> {
    /// Replaces what the client asked for.
    pub session_expiry_s: Option<u32>,
    /// How many QoS 1 and 2 messages the server takes unacknowledged; absent is 65535.
    pub receive_maximum: Option<NonZeroU16>,
    /// The highest QoS the server takes if that is not 2. [MQTT-3.2.2-9] `ExactlyOnce` is written
    /// as absent, which means it.
    pub qos_max: Option<Qos>,
    /// Absent is yes.
    pub retain_available: Option<bool>,
    /// The longest packet the server takes; absent is no limit.
    pub packet_size_max: Option<NonZeroU32>,
    /// The id that the server gave to a client that had none. [MQTT-3.2.2-16]
    pub assigned_client_id: Option<&'a str>,
    /// The highest alias the server takes; absent is 0.
    pub topic_alias_max: Option<u16>,
    /// For people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Absent is yes.
    pub wildcard_available: Option<bool>,
    /// Absent is yes.
    pub subscription_ids_available: Option<bool>,
    /// Absent is yes.
    pub shared_available: Option<bool>,
    /// Replaces what the client asked for. [MQTT-3.2.2-21]
    pub server_keep_alive_s: Option<u16>,
    /// Basis of response topics.
    pub response_information: Option<&'a str>,
    /// Another server to use.
    pub server_reference: Option<&'a str>,
    /// Method of enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// Last data of enhanced authentication.
    pub authentication_data: Option<&'a [u8]>,
}

const CONNACK_PROPERTIES: PropertyMask = PropertyMask::new(&[
    PropertyId::SessionExpiry,
    PropertyId::ReceiveMaximum,
    PropertyId::MaximumQos,
    PropertyId::RetainAvailable,
    PropertyId::MaximumPacketSize,
    PropertyId::AssignedClientId,
    PropertyId::TopicAliasMaximum,
    PropertyId::ReasonString,
    PropertyId::UserProperty,
    PropertyId::WildcardSubscriptionAvailable,
    PropertyId::SubscriptionIdsAvailable,
    PropertyId::SharedSubscriptionAvailable,
    PropertyId::ServerKeepAlive,
    PropertyId::ResponseInformation,
    PropertyId::ServerReference,
    PropertyId::AuthenticationMethod,
    PropertyId::AuthenticationData,
]);

impl<'a> Connack<'a> {
    /// A CONNACK without properties.
    #[must_use]
    pub fn new(reason: ReasonCode, session_present: bool) -> Self {
        Self { session_present, reason, properties: ConnackProperties::default() }
    }

    pub(crate) fn decode(mut reader: Reader<'a>, version: ProtocolVersion) -> Result<Self, Fault> {
        let at_flags = reader;
        let flags = reader.u8()?;
        // [MQTT-3.2.2-1] MQTT 3.1 calls the whole byte unused.
        if flags > 1 && version != ProtocolVersion::V31 {
            return Err(at_flags.fault(ErrorKind::ConnackFlagsReserved));
        }
        let session_present = flags & 1 == 1 && version != ProtocolVersion::V31;
        let at_code = reader;
        let code = reader.u8()?;
        let reason = read_reason(code, version)
            .ok_or_else(|| at_code.fault(ErrorKind::InvalidReasonCode { code }))?;
        // [MQTT-3.2.2-6]; 3.1.1 MQTT-3.2.2-4
        if session_present && reason != ReasonCode::Success {
            return Err(at_flags.fault(ErrorKind::SessionPresentOnRefusal));
        }
        let properties = match version {
            ProtocolVersion::V5 => ConnackProperties::decode(reader.property_block()?)?,
            _ => ConnackProperties::default(),
        };
        reader.finish()?;
        Ok(Self { session_present, reason, properties })
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        // [MQTT-3.2.2-6]; 3.1.1 MQTT-3.2.2-4
        let session_present = self.session_present && self.reason == ReasonCode::Success;
        let has_flags = version != ProtocolVersion::V31;
        sink.put_u8(u8::from(session_present && has_flags));
        if version.is_v5() {
            sink.put_u8(self.reason.value());
            return self.properties.write_block(sink);
        }
        let code = self.reason.connect_return_code();
        sink.put_u8(code.unwrap_or(ConnectReturnCode::ServerUnavailable).value());
    }
}

fn read_reason(code: u8, version: ProtocolVersion) -> Option<ReasonCode> {
    if version.is_v5() {
        // [MQTT-3.2.2-8]
        return ReasonCode::from_u8(code).filter(|reason| reason.valid_in(PacketType::Connack));
    }
    ConnectReturnCode::from_u8(code).map(ReasonCode::from)
}

impl<'a> ConnackProperties<'a> {
    fn decode(block: Reader<'a>) -> Result<Self, Fault> {
        let mut this = Self::default();
        let mut user_bytes = 0;
        read_block(block, CONNACK_PROPERTIES, USER_PROPERTY, |property, bytes| {
            this.set(property);
            if let Property::User(..) = property {
                user_bytes += bytes.len();
            }
            Ok(())
        })?;
        this.user_properties = UserProperties::new(block.rest(), user_bytes);
        Ok(this)
    }

    fn set(&mut self, property: Property<'a>) {
        match property {
            Property::SessionExpiry(value) => self.session_expiry_s = Some(value),
            Property::ReceiveMaximum(value) => self.receive_maximum = NonZeroU16::new(value),
            Property::MaximumQos(value) => self.qos_max = Some(value),
            Property::RetainAvailable(value) => self.retain_available = Some(value),
            Property::MaximumPacketSize(value) => self.packet_size_max = NonZeroU32::new(value),
            Property::AssignedClientId(value) => self.assigned_client_id = Some(value),
            Property::TopicAliasMaximum(value) => self.topic_alias_max = Some(value),
            Property::ReasonString(value) => self.reason_string = Some(value),
            Property::WildcardSubscriptionAvailable(value) => self.wildcard_available = Some(value),
            Property::SubscriptionIdsAvailable(value) => {
                self.subscription_ids_available = Some(value);
            }
            Property::SharedSubscriptionAvailable(value) => self.shared_available = Some(value),
            Property::ServerKeepAlive(value) => self.server_keep_alive_s = Some(value),
            Property::ResponseInformation(value) => self.response_information = Some(value),
            Property::ServerReference(value) => self.server_reference = Some(value),
            Property::AuthenticationMethod(value) => self.authentication_method = Some(value),
            Property::AuthenticationData(value) => self.authentication_data = Some(value),
            _ => {}
        }
    }
}

impl PropertyBlock for ConnackProperties<'_> {
    fn write_properties<S: Sink>(&self, sink: &mut S) {
        let qos_max = self.qos_max.filter(|qos| *qos != Qos::ExactlyOnce);
        put_some(sink, self.session_expiry_s, Property::SessionExpiry);
        put_some(sink, self.receive_maximum.map(NonZeroU16::get), Property::ReceiveMaximum);
        put_some(sink, qos_max, Property::MaximumQos);
        put_some(sink, self.retain_available, Property::RetainAvailable);
        put_some(sink, self.packet_size_max.map(NonZeroU32::get), Property::MaximumPacketSize);
        put_some(sink, self.assigned_client_id, Property::AssignedClientId);
        put_some(sink, self.topic_alias_max, Property::TopicAliasMaximum);
        put_some(sink, self.reason_string, Property::ReasonString);
        put_some(sink, self.wildcard_available, Property::WildcardSubscriptionAvailable);
        put_some(sink, self.subscription_ids_available, Property::SubscriptionIdsAvailable);
        put_some(sink, self.shared_available, Property::SharedSubscriptionAvailable);
        put_some(sink, self.server_keep_alive_s, Property::ServerKeepAlive);
        put_some(sink, self.response_information, Property::ResponseInformation);
        put_some(sink, self.server_reference, Property::ServerReference);
        put_some(sink, self.authentication_method, Property::AuthenticationMethod);
        put_some(sink, self.authentication_data, Property::AuthenticationData);
        self.user_properties.write(sink);
    }
}

//! CONNECT: the first packet, and the only one that names its version.

use std::num::{NonZeroU16, NonZeroU32};

use crate::error::{ErrorKind, Field};
use crate::primitive::{Fault, Reader, Sink};
use crate::property::{
    Property, PropertyBlock, PropertyId, PropertyMask, USER_PROPERTY, put_some, read_block,
};
use crate::user_property::UserProperties;
use crate::version::{ProtocolVersion, Qos};
use crate::will::{Will, WillProperties};

/// CONNECT. In 3.x the properties are empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// From protocol name and level.
    pub version: ProtocolVersion,
    /// Clean start, in 3.x clean session.
    pub clean_start: bool,
    /// Seconds; 0 switches keep alive off.
    pub keep_alive_s: u16,
    /// May be empty: then the server assigns one, if it allows that.
    pub client_id: &'a str,
    /// What to publish when the client is lost.
    pub will: Option<Will<'a>>,
    /// User name.
    pub username: Option<&'a str>,
    /// Any bytes; in 3.x only with a user name, 3.1.1 [MQTT3-3.1.2-22].
    pub password: Option<&'a [u8]>,
    /// Properties of 5.0.
    pub properties: ConnectProperties<'a>,
}

/// The properties of CONNECT. `None` means absent, which has the specification's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectProperties<'a> {
    /// Seconds that the session outlives the connection; absent is 0, `u32::MAX` is for ever.
    pub session_expiry_s: Option<u32>,
    /// How many QoS 1 and 2 messages the client takes unacknowledged; absent is 65535.
    pub receive_maximum: Option<NonZeroU16>,
    /// The longest packet the client takes; absent is no limit.
    pub packet_size_max: Option<NonZeroU32>,
    /// The highest alias the client takes; absent is 0.
    pub topic_alias_max: Option<u16>,
    /// Whether the client wants response information; absent is no.
    pub request_response_information: Option<bool>,
    /// Whether reason strings and user properties may explain failures; absent is yes.
    pub request_problem_information: Option<bool>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Starts enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// Only with a method.
    pub authentication_data: Option<&'a [u8]>,
}

const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USERNAME: u8 = 0x80;

impl<'a> Connect<'a> {
    /// A CONNECT with nothing but its client id; keep alive off.
    #[must_use]
    pub fn new(version: ProtocolVersion, client_id: &'a str, clean_start: bool) -> Self {
        Self {
            version,
            clean_start,
            keep_alive_s: 0,
            client_id,
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        }
    }

    /// Reads what follows the fixed header. `version` is set as soon as it is known, so that an
    /// error can tell it.
    pub(crate) fn decode(
        mut reader: Reader<'a>,
        version: &mut Option<ProtocolVersion>,
    ) -> Result<Self, Fault> {
        let at_version = reader;
        let read = read_version(&mut reader)?.map_err(|kind| at_version.fault(kind))?;
        *version = Some(read);
        let version = read;

        let at_flags = reader;
        let flags = reader.u8()?;
        check_flags(flags, version).map_err(|kind| at_flags.fault(kind))?;
        let keep_alive_s = reader.u16()?;
        let properties = match version {
            ProtocolVersion::V5 => ConnectProperties::decode(reader.property_block()?)?,
            _ => ConnectProperties::default(),
        };

        // [MQTT-3.1.3-1] The order of the payload; [MQTT-3.1.3-3] the client id is always there,
        // and it is text [MQTT-3.1.3-4], as a user name is [MQTT-3.1.3-12].
        let client_id = reader.text(Field::ClientId)?;
        let will =
            if flags & WILL == 0 { None } else { Some(decode_will(&mut reader, version, flags)?) };
        // MQTT 3.1 allows the flags of user name and password without their fields: the end of
        // the packet takes precedence. [MQTT-3.1.2-16] [MQTT-3.1.2-17] [MQTT-3.1.2-18]
        // [MQTT-3.1.2-19] forbid it later.
        let missing = |reader: &Reader<'_>| version == ProtocolVersion::V31 && reader.is_empty();
        let username = if flags & USERNAME == 0 || missing(&reader) {
            None
        } else {
            Some(reader.text(Field::Username)?)
        };
        let password =
            if flags & PASSWORD == 0 || missing(&reader) { None } else { Some(reader.binary()?) };
        reader.finish()?;
        Ok(Self {
            version,
            clean_start: flags & CLEAN_START != 0,
            keep_alive_s,
            client_id,
            will,
            username,
            password,
            properties,
        })
    }

    pub(crate) fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_text(self.version.protocol_name());
        sink.put_u8(self.version.level());
        sink.put_u8(self.flags());
        sink.put_u16(self.keep_alive_s);
        if self.version.is_v5() {
            self.properties.write_block(sink);
        }
        sink.put_text(self.client_id);
        if let Some(will) = &self.will {
            if self.version.is_v5() {
                will.properties.write_block(sink);
            }
            sink.put_text(will.topic);
            sink.put_binary(will.payload);
        }
        if let Some(username) = self.username {
            sink.put_text(username);
        }
        if let Some(password) = self.password {
            sink.put_binary(password);
        }
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        if self.clean_start {
            flags |= CLEAN_START;
        }
        if let Some(will) = &self.will {
            flags |= WILL | will.qos.value() << 3;
            if will.retain {
                flags |= WILL_RETAIN;
            }
        }
        if self.username.is_some() {
            flags |= USERNAME;
        }
        if self.password.is_some() {
            let allowed = self.version.is_v5() || self.username.is_some();
            assert!(allowed, "a password needs a user name before mqtt 5");
            flags |= PASSWORD;
        }
        flags
    }
}

/// Outer error: the packet is too short. Inner error: another protocol. Only the prefix of the
/// packet is looked at, so that any unknown protocol is named as such.
/// MQTT-001
fn read_version(reader: &mut Reader<'_>) -> Result<Result<ProtocolVersion, ErrorKind>, Fault> {
    let name = reader.binary()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Ok(Err(ErrorKind::UnsupportedProtocolName));
    }
    let level = reader.u8()?;
    Ok(match (name, level) {
        (b"MQIsdp", 3) => Ok(ProtocolVersion::V31),
        (b"MQTT", 4) => Ok(ProtocolVersion::V311),
        (b"MQTT", 5) => Ok(ProtocolVersion::V5),
        _ => Err(ErrorKind::UnsupportedProtocolLevel { level }),
    })
}

fn check_flags(flags: u8, version: ProtocolVersion) -> Result<(), ErrorKind> {
    // [MQTT-3.1.2-3] MQTT 3.1 calls the bit unused and demands nothing of it.
    if flags & 0x01 != 0 && version != ProtocolVersion::V31 {
        return Err(ErrorKind::ConnectFlagsReserved);
    }
    // [MQTT-3.1.2-11] [MQTT-3.1.2-13]; 3.1.1 MQTT-3.1.2-13 MQTT-3.1.2-15
    if flags & WILL == 0 && flags & 0x38 != 0 {
        return Err(ErrorKind::WillFlagsWithoutWill);
    }
    // [MQTT-3.1.2-12]; 3.1.1 MQTT-3.1.2-14
    if flags & 0x18 == 0x18 {
        return Err(ErrorKind::QosInvalid);
    }
    // 3.1.1 [MQTT3-3.1.2-22]
    if flags & PASSWORD != 0 && flags & USERNAME == 0 && !version.is_v5() {
        return Err(ErrorKind::PasswordWithoutUsername);
    }
    Ok(())
}

/// [MQTT-3.1.2-9] Properties, topic and payload are all there.
fn decode_will<'a>(
    reader: &mut Reader<'a>,
    version: ProtocolVersion,
    flags: u8,
) -> Result<Will<'a>, Fault> {
    let properties = match version {
        ProtocolVersion::V5 => WillProperties::decode(reader.property_block()?)?,
        _ => WillProperties::default(),
    };
    let qos = Qos::try_from(flags >> 3 & 0x03).map_err(|_| reader.fault(ErrorKind::QosInvalid))?;
    Ok(Will {
        qos,
        retain: flags & WILL_RETAIN != 0,
        topic: reader.text(Field::WillTopic)?,
        payload: reader.binary()?,
        properties,
    })
}

const CONNECT_PROPERTIES: PropertyMask = PropertyMask::new(&[
    PropertyId::SessionExpiry,
    PropertyId::ReceiveMaximum,
    PropertyId::MaximumPacketSize,
    PropertyId::TopicAliasMaximum,
    PropertyId::RequestResponseInformation,
    PropertyId::RequestProblemInformation,
    PropertyId::UserProperty,
    PropertyId::AuthenticationMethod,
    PropertyId::AuthenticationData,
]);

impl<'a> ConnectProperties<'a> {
    fn decode(block: Reader<'a>) -> Result<Self, Fault> {
        let mut this = Self::default();
        let mut user_bytes = 0;
        read_block(block, CONNECT_PROPERTIES, USER_PROPERTY, |property, bytes| {
            match property {
                Property::SessionExpiry(value) => this.session_expiry_s = Some(value),
                Property::ReceiveMaximum(value) => this.receive_maximum = NonZeroU16::new(value),
                Property::MaximumPacketSize(value) => {
                    this.packet_size_max = NonZeroU32::new(value);
                }
                Property::TopicAliasMaximum(value) => this.topic_alias_max = Some(value),
                Property::RequestResponseInformation(value) => {
                    this.request_response_information = Some(value);
                }
                Property::RequestProblemInformation(value) => {
                    this.request_problem_information = Some(value);
                }
                Property::User(..) => user_bytes += bytes.len(),
                Property::AuthenticationMethod(value) => this.authentication_method = Some(value),
                Property::AuthenticationData(value) => this.authentication_data = Some(value),
                _ => {}
            }
            Ok(())
        })?;
        if this.authentication_data.is_some() && this.authentication_method.is_none() {
            return Err(block.fault(ErrorKind::AuthenticationDataWithoutMethod));
        }
        this.user_properties = UserProperties::new(block.rest(), user_bytes);
        Ok(this)
    }
}

impl PropertyBlock for ConnectProperties<'_> {
    fn write_properties<S: Sink>(&self, sink: &mut S) {
        put_some(sink, self.session_expiry_s, Property::SessionExpiry);
        put_some(sink, self.receive_maximum.map(NonZeroU16::get), Property::ReceiveMaximum);
        put_some(sink, self.packet_size_max.map(NonZeroU32::get), Property::MaximumPacketSize);
        put_some(sink, self.topic_alias_max, Property::TopicAliasMaximum);
        put_some(sink, self.request_response_information, Property::RequestResponseInformation);
        put_some(sink, self.request_problem_information, Property::RequestProblemInformation);
        put_some(sink, self.authentication_method, Property::AuthenticationMethod);
        put_some(sink, self.authentication_data, Property::AuthenticationData);
        self.user_properties.write(sink);
    }
}

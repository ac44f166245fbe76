//! Why bytes are not a packet, where, and which reason code tells the peer.

use crate::packet::PacketType;
use crate::primitive::BINARY_BYTES_MAX;
use crate::property::PropertyId;
use crate::reason::ReasonCode;
use crate::version::ProtocolVersion;

/// The peer sent bytes that are no packet, or not one for this connection. The connection has to
/// be closed: nothing after the offending packet can be trusted. [MQTT-4.13.1-1]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{kind}, at byte {offset} of {}", packet.map_or("an unknown packet", PacketType::name))]
pub struct DecodeError {
    /// What is wrong.
    pub kind: ErrorKind,
    /// The packet that was being read; `None` when the first byte names none.
    pub packet: Option<PacketType>,
    /// Where in the packet, counted from its first byte.
    pub offset: usize,
    /// The version of the connection; for a CONNECT the version it asked for, `None` when it did
    /// not get that far. It decides between an answer (5.0) and a silent close (3.x).
    pub version: Option<ProtocolVersion>,
}

impl DecodeError {
    /// The code for CONNACK (the packet was a CONNECT) or DISCONNECT (any other).
    #[must_use]
    pub const fn reason_code(&self) -> ReasonCode {
        self.kind.reason_code()
    }
}

/// What is wrong with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// Packet type 0, or AUTH before MQTT 5.0.
    #[error("packet type {value} does not exist")]
    UnknownPacketType {
        /// The upper four bits of the first byte.
        value: u8,
    },
    /// Flag bits of the first byte that the packet type fixes. [MQTT-2.1.3-1]
    #[error("reserved flags are 0b{flags:04b}")]
    ReservedFlags {
        /// The lower four bits of the first byte.
        flags: u8,
    },
    /// A packet that only the other side sends.
    #[error("this side of the connection may not send it")]
    WrongDirection,
    /// The first packet was not CONNECT. [MQTT-3.1.0-1]
    #[error("the first packet is not CONNECT")]
    ConnectExpected,
    /// Another CONNECT. [MQTT-3.1.0-2]
    #[error("a second CONNECT on one connection")]
    SecondConnect,
    /// A variable byte integer of more than four bytes, or longer than needed. [MQTT-1.5.5-1]
    #[error("malformed variable byte integer")]
    MalformedVariableInteger,
    /// The packet is longer than the limit of the decoder.
    #[error("{length} bytes exceed the limit of {packet_size_max}")]
    TooLarge {
        /// The length that the fixed header announces, fixed header included.
        length: u32,
        /// The limit.
        packet_size_max: u32,
    },
    /// A field ends behind the end of the packet.
    #[error("a field is cut short by the end of the packet")]
    Truncated,
    /// Bytes are left after the last field.
    #[error("{count} bytes are left after the last field")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A string is not UTF-8 or holds U+0000. [MQTT-1.5.4-1] [MQTT-1.5.4-2]
    #[error("malformed {field}: {flaw}")]
    MalformedString {
        /// Which string.
        field: Field,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// QoS 3, in PUBLISH, will or subscription. [MQTT-3.3.1-4] [MQTT-3.1.2-12]
    #[error("QoS 3 does not exist")]
    QosInvalid,
    /// DUP with QoS 0. [MQTT-3.3.1-2]
    #[error("DUP is set on a packet of QoS 0")]
    DupWithoutQos,
    /// Packet id 0. [MQTT-2.2.1-3]
    #[error("packet id is zero")]
    PacketIdZero,
    /// CONNECT for another protocol. [MQTT-3.1.2-1]
    #[error("unsupported protocol name")]
    UnsupportedProtocolName,
    /// CONNECT for another version. [MQTT-3.1.2-2]
    #[error("unsupported protocol level {level}")]
    UnsupportedProtocolLevel {
        /// The level asked for.
        level: u8,
    },
    /// The reserved bit of the connect flags. [MQTT-3.1.2-3]
    #[error("the reserved connect flag is set")]
    ConnectFlagsReserved,
    /// Will QoS or will retain without a will. [MQTT-3.1.2-11] [MQTT-3.1.2-13]
    #[error("will QoS or will retain is set without a will")]
    WillFlagsWithoutWill,
    /// A password without a user name in 3.x; 3.1.1 [MQTT3-3.1.2-22].
    #[error("a password without a user name")]
    PasswordWithoutUsername,
    /// A property id that MQTT 5.0 does not define.
    #[error("property {id} does not exist")]
    UnknownProperty {
        /// The id.
        id: u32,
    },
    /// A property of another packet, or of the other side.
    #[error("{id} does not belong here")]
    ForeignProperty {
        /// The property.
        id: PropertyId,
    },
    /// A property that may stand once stands twice.
    #[error("{id} is given twice")]
    DuplicateProperty {
        /// The property.
        id: PropertyId,
    },
    /// A property outside its range: not 0 or 1, or zero where that is forbidden.
    #[error("{id} must not be {value}")]
    PropertyValue {
        /// The property.
        id: PropertyId,
        /// The value.
        value: u32,
    },
    /// A subscription id in a PUBLISH of a client. [MQTT-3.3.4-6]
    #[error("a client's PUBLISH carries a subscription id")]
    SubscriptionIdFromClient,
    /// Authentication data without a method.
    #[error("authentication data without an authentication method")]
    AuthenticationDataWithoutMethod,
    /// AUTH without a method.
    #[error("the authentication method is missing")]
    AuthenticationMethodMissing,
    /// SUBSCRIBE or UNSUBSCRIBE without filters. [MQTT-3.8.3-2] [MQTT-3.10.3-2]
    #[error("the list of topic filters is empty")]
    NoFilters,
    /// Reserved bits of the subscription options. [MQTT-3.8.3-5]
    #[error("reserved subscription options are set: 0b{options:08b}")]
    SubscriptionOptionsReserved {
        /// The options byte.
        options: u8,
    },
    /// Retain handling 3.
    #[error("retain handling 3 does not exist")]
    RetainHandlingInvalid,
    /// A reason or return code that the packet's table does not list.
    #[error("reason code 0x{code:02X} is not one of this packet")]
    InvalidReasonCode {
        /// The code.
        code: u8,
    },
    /// Reserved bits of the connect acknowledge flags. [MQTT-3.2.2-1]
    #[error("reserved connect acknowledge flags are set")]
    ConnackFlagsReserved,
    /// A refused connection with a session. [MQTT-3.2.2-6]
    #[error("session present on a refused connection")]
    SessionPresentOnRefusal,
}

impl ErrorKind {
    /// The reason code for the peer.
    #[must_use]
    pub const fn reason_code(&self) -> ReasonCode {
        match self {
            Self::MalformedString { field: Field::ClientId, .. } => ReasonCode::ClientIdNotValid,
            Self::UnknownPacketType { .. }
            | Self::ReservedFlags { .. }
            | Self::MalformedVariableInteger
            | Self::Truncated
            | Self::TrailingBytes { .. }
            | Self::MalformedString { .. }
            | Self::QosInvalid
            | Self::ConnectFlagsReserved
            | Self::WillFlagsWithoutWill
            | Self::PasswordWithoutUsername
            | Self::UnknownProperty { .. }
            | Self::ForeignProperty { .. }
            | Self::SubscriptionOptionsReserved { .. }
            | Self::ConnackFlagsReserved => ReasonCode::MalformedPacket,
            Self::WrongDirection
            | Self::ConnectExpected
            | Self::SecondConnect
            | Self::DupWithoutQos
            | Self::PacketIdZero
            | Self::DuplicateProperty { .. }
            | Self::PropertyValue { .. }
            | Self::SubscriptionIdFromClient
            | Self::AuthenticationDataWithoutMethod
            | Self::AuthenticationMethodMissing
            | Self::NoFilters
            | Self::RetainHandlingInvalid
            | Self::InvalidReasonCode { .. }
            | Self::SessionPresentOnRefusal => ReasonCode::ProtocolError,
            Self::TooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::UnsupportedProtocolName | Self::UnsupportedProtocolLevel { .. } => {
                ReasonCode::UnsupportedProtocolVersion
            }
        }
    }
}

/// Which string of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Field {
    /// Client id of CONNECT.
    #[error("client id")]
    ClientId,
    /// User name of CONNECT.
    #[error("user name")]
    Username,
    /// Will topic of CONNECT.
    #[error("will topic")]
    WillTopic,
    /// Topic of PUBLISH.
    #[error("topic")]
    Topic,
    /// A filter of SUBSCRIBE or UNSUBSCRIBE.
    #[error("topic filter")]
    TopicFilter,
    /// A property that is a string or a pair of strings.
    #[error("{0}")]
    Property(PropertyId),
}

/// What is wrong with a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Flaw {
    /// Not well-formed UTF-8; surrogates included.
    #[error("not UTF-8")]
    NotUtf8,
    /// Holds the character U+0000.
    #[error("holds U+0000")]
    Nul,
}

/// The caller gave a builder something that no packet can carry; nothing was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// A string or binary of more than 65535 bytes.
    #[error("{length} bytes exceed the {BINARY_BYTES_MAX} that a field can hold")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// A string with U+0000. [MQTT-1.5.4-2]
    #[error("a string must not hold U+0000")]
    Nul,
    /// The property was already set.
    #[error("{id} is already set")]
    Duplicate {
        /// The property.
        id: PropertyId,
    },
    /// A number that the property cannot hold: alias 0, subscription id 0 or above 268435455.
    #[error("{id} must not be {value}")]
    Value {
        /// The property.
        id: PropertyId,
        /// The value.
        value: u32,
    },
}

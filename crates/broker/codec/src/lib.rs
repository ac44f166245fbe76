//! MQTT 3.1, 3.1.1 and 5.0 packets: incremental decoding and encoding, in both directions.
//!
//! Decoding borrows from the read buffer and allocates nothing: a packet that exists is
//! well-formed for its version, and lists (filters, user properties, reason codes) are slices
//! that were checked once and are read lazily. Encoding appends to a caller's `Vec<u8>`.
//!
//! What is checked here: everything that can be seen in one packet alone, including reason code
//! tables, property tables, value ranges, UTF-8 and U+0000. What is not: topic and filter syntax
//! (`ratatosk-topic`), whether an alias is known, packet ids in use, limits of the session.
//!
//! In reading order: [`Decoder`] and [`Packet`] for what comes in, [`Outgoing`] and [`Template`]
//! for the PUBLISH path out, [`encode()`] and [`encode_within`] for all other packets.

mod ack;
mod auth;
mod connack;
mod connect;
mod decode;
mod disconnect;
mod encode;
mod error;
mod outgoing;
mod packet;
mod primitive;
mod property;
mod publish;
mod publish_properties;
mod reason;
mod suback;
mod subscribe;
mod template;
mod unsubscribe;
mod user_property;
mod version;
mod will;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use ack::Ack;
pub use auth::Auth;
pub use connack::{Connack, ConnackProperties};
pub use connect::{Connect, ConnectProperties};
pub use decode::{Decoded, Decoder, Role};
pub use disconnect::Disconnect;
pub use encode::{
    Shed, TooLarge, encode, encode_within, encoded_len, withhold_problem_information,
};
pub use error::{DecodeError, ErrorKind, Field, FieldError, Flaw};
pub use outgoing::Outgoing;
pub use packet::{Packet, PacketType};
pub use primitive::{BINARY_BYTES_MAX, PACKET_BYTES_MAX, VARIABLE_MAX};
pub use property::PropertyId;
pub use publish::Publish;
pub use publish_properties::{PublishProperties, PublishPropertiesBuilder};
pub use reason::{ConnectReturnCode, ReasonCode};
pub use suback::{ReasonCodes, Suback, Unsuback};
pub use subscribe::{
    RetainHandling, Subscribe, SubscribeFilter, SubscribeFilters, SubscribeFiltersBuilder,
    SubscriptionOptions,
};
pub use template::Template;
pub use unsubscribe::{Unsubscribe, UnsubscribeFilters, UnsubscribeFiltersBuilder};
pub use user_property::{UserProperties, UserPropertiesBuilder};
pub use version::{PacketId, ProtocolVersion, Qos};
pub use will::{Will, WillProperties};

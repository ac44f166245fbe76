//! The properties of PUBLISH: checked in one pass, kept as bytes, read lazily, forwarded as bytes.
//!
//! Alias, expiry and subscription ids belong to one connection; all others go to subscribers
//! unaltered and in order. Their bytes are found while checking, so that forwarding is a copy of
//! one slice unless something stands in between.

use std::fmt;

use crate::decode::Role;
use crate::error::{ErrorKind, FieldError};
use crate::primitive::{Fault, Reader, VARIABLE_MAX, check_field_binary, check_field_text};
use crate::property::{Properties, Property, PropertyId, PropertyMask, read_block};

/// The properties of a PUBLISH; empty in 3.x.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct PublishProperties<'a> {
    bytes: &'a [u8],
    /// From the first forwarded property to the end of the last.
    forwarded: &'a [u8],
    /// Whether something within `forwarded` is not.
    interleaved: bool,
    topic_alias: Option<u16>,
    message_expiry_s: Option<u32>,
    payload_is_utf8: bool,
    has_subscription_ids: bool,
}

const PUBLISH_PROPERTIES: PropertyMask = PropertyMask::new(&[
    PropertyId::PayloadFormat,
    PropertyId::MessageExpiry,
    PropertyId::TopicAlias,
    PropertyId::ResponseTopic,
    PropertyId::CorrelationData,
    PropertyId::UserProperty,
    PropertyId::SubscriptionId,
    PropertyId::ContentType,
]);

/// Subscription ids repeat too, in what a server sends.
const REPEATABLE: PropertyMask =
    PropertyMask::new(&[PropertyId::UserProperty, PropertyId::SubscriptionId]);

/// Whether subscribers get the property unaltered. [MQTT-3.3.2-4] [MQTT-3.3.2-15]
/// [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
fn is_forwarded(property: Property<'_>) -> bool {
    !matches!(
        property,
        Property::TopicAlias(_) | Property::MessageExpiry(_) | Property::SubscriptionId(_)
    )
}

impl<'a> PublishProperties<'a> {
    pub(crate) fn decode(block: Reader<'a>, role: Role) -> Result<Self, Fault> {
        let mut this = Self { bytes: block.rest(), ..Self::default() };
        let mut at = 0;
        let mut forwarded: Option<(usize, usize)> = None;
        let mut forwarded_len = 0;
        read_block(block, PUBLISH_PROPERTIES, REPEATABLE, |property, bytes| {
            match property {
                Property::TopicAlias(value) => this.topic_alias = Some(value),
                Property::MessageExpiry(value) => this.message_expiry_s = Some(value),
                Property::PayloadFormat(value) => this.payload_is_utf8 = value,
                Property::SubscriptionId(_) => {
                    // [MQTT-3.3.4-6] A client does not send them.
                    if role == Role::Server {
                        return Err(ErrorKind::SubscriptionIdFromClient);
                    }
                    this.has_subscription_ids = true;
                }
                _ => {}
            }
            let end = at + bytes.len();
            if is_forwarded(property) {
                forwarded = Some((forwarded.map_or(at, |(first, _)| first), end));
                forwarded_len += bytes.len();
            }
            at = end;
            Ok(())
        })?;
        if let Some((first, end)) = forwarded {
            this.forwarded = &this.bytes[first..end];
            this.interleaved = end - first != forwarded_len;
        }
        Ok(this)
    }

    /// The properties that another node forwards; `None` if the bytes are malformed, or if there is one
    /// that belongs to a connection.
    #[must_use]
    pub fn of_forwarded(bytes: &'a [u8]) -> Option<Self> {
        let this = Self::decode(Reader::new(bytes, 0), Role::Client).ok()?;
        (!this.interleaved && this.forwarded.len() == bytes.len()).then_some(this)
    }

    /// The block as it stands in the packet, without its length.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The raw alias: 0 too, which the session answers with "topic alias invalid".
    #[inline]
    #[must_use]
    pub const fn topic_alias(&self) -> Option<u16> {
        self.topic_alias
    }

    /// Life of the message in seconds.
    #[inline]
    #[must_use]
    pub const fn message_expiry_s(&self) -> Option<u32> {
        self.message_expiry_s
    }

    /// Whether the payload claims to be UTF-8; nobody has checked it.
    #[inline]
    #[must_use]
    pub const fn payload_is_utf8(&self) -> bool {
        self.payload_is_utf8
    }

    /// Where an answer goes. UTF-8 [MQTT-3.3.2-13]; that it is a topic name is for the session
    /// to check.
    #[must_use]
    pub fn response_topic(&self) -> Option<&'a str> {
        self.properties().find_map(|property| match property {
            Property::ResponseTopic(value) => Some(value),
            _ => None,
        })
    }

    /// What an answer repeats.
    #[must_use]
    pub fn correlation_data(&self) -> Option<&'a [u8]> {
        self.properties().find_map(|property| match property {
            Property::CorrelationData(value) => Some(value),
            _ => None,
        })
    }

    /// Content type. UTF-8 [MQTT-3.3.2-19].
    #[must_use]
    pub fn content_type(&self) -> Option<&'a str> {
        self.properties().find_map(|property| match property {
            Property::ContentType(value) => Some(value),
            _ => None,
        })
    }

    /// Names and values in order.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.properties().filter_map(|property| match property {
            Property::User(name, value) => Some((name, value)),
            _ => None,
        })
    }

    /// The ids of the matching subscriptions, in what a server sent.
    pub fn subscription_ids(&self) -> impl Iterator<Item = u32> + use<'a> {
        let bytes = if self.has_subscription_ids { self.bytes } else { &[] };
        Properties::new(bytes).filter_map(|property| match property {
            Property::SubscriptionId(id) => Some(id),
            _ => None,
        })
    }

    /// Appends the bytes of all properties that subscribers get unaltered, in order.
    pub fn forwarded(&self, out: &mut Vec<u8>) {
        if let Some(bytes) = self.forwarded_slice() {
            return out.extend_from_slice(bytes);
        }
        let mut properties = Properties::new(self.forwarded);
        while let Some((property, bytes)) = properties.next_with_bytes() {
            if is_forwarded(property) {
                out.extend_from_slice(bytes);
            }
        }
    }

    /// The same without a copy, unless something else stands in between.
    #[inline]
    #[must_use]
    pub fn forwarded_slice(&self) -> Option<&'a [u8]> {
        (!self.interleaved).then_some(self.forwarded)
    }

    fn properties(&self) -> Properties<'a> {
        // Subscription ids aside, all that is read lazily is forwarded.
        Properties::new(self.forwarded)
    }
}

impl fmt::Debug for PublishProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(Properties::new(self.bytes)).finish()
    }
}

/// Collects the properties of a PUBLISH; reusable after [`clear`](Self::clear). Setting a
/// property twice is refused; pairs and subscription ids are appended.
#[derive(Debug, Clone, Default)]
pub struct PublishPropertiesBuilder {
    bytes: Vec<u8>,
    seen: u64,
}

impl PublishPropertiesBuilder {
    /// No properties.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), seen: 0 }
    }

    /// Declares whether the payload is UTF-8.
    pub fn payload_is_utf8(&mut self, value: bool) -> Result<&mut Self, FieldError> {
        self.set(PropertyId::PayloadFormat, Property::PayloadFormat(value))
    }

    /// Life of the message in seconds.
    pub fn message_expiry_s(&mut self, value: u32) -> Result<&mut Self, FieldError> {
        self.set(PropertyId::MessageExpiry, Property::MessageExpiry(value))
    }

    /// [MQTT-3.3.2-8] An alias that is not 0.
    pub fn topic_alias(&mut self, value: u16) -> Result<&mut Self, FieldError> {
        let id = PropertyId::TopicAlias;
        if value == 0 {
            return Err(FieldError::Value { id, value: 0 });
        }
        self.set(id, Property::TopicAlias(value))
    }

    /// Where an answer goes.
    pub fn response_topic(&mut self, value: &str) -> Result<&mut Self, FieldError> {
        check_field_text(value)?;
        self.set(PropertyId::ResponseTopic, Property::ResponseTopic(value))
    }

    /// What an answer repeats.
    pub fn correlation_data(&mut self, value: &[u8]) -> Result<&mut Self, FieldError> {
        check_field_binary(value)?;
        self.set(PropertyId::CorrelationData, Property::CorrelationData(value))
    }

    /// Content type.
    pub fn content_type(&mut self, value: &str) -> Result<&mut Self, FieldError> {
        check_field_text(value)?;
        self.set(PropertyId::ContentType, Property::ContentType(value))
    }

    /// Appends a pair.
    pub fn user_property(&mut self, name: &str, value: &str) -> Result<&mut Self, FieldError> {
        check_field_text(name)?;
        check_field_text(value)?;
        Property::User(name, value).write(&mut self.bytes);
        Ok(self)
    }

    /// Appends the id of a matching subscription: servers only.
    pub fn subscription_id(&mut self, value: u32) -> Result<&mut Self, FieldError> {
        if value == 0 || value > VARIABLE_MAX {
            return Err(FieldError::Value { id: PropertyId::SubscriptionId, value });
        }
        Property::SubscriptionId(value).write(&mut self.bytes);
        Ok(self)
    }

    /// What was set, for a packet.
    #[must_use]
    pub fn view(&self) -> PublishProperties<'_> {
        let properties = PublishProperties::decode(Reader::new(&self.bytes, 0), Role::Client);
        debug_assert!(properties.is_ok(), "the setters keep the rules: {properties:?}");
        properties.unwrap_or_default()
    }

    /// Forgets all and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.seen = 0;
    }

    fn set(&mut self, id: PropertyId, property: Property<'_>) -> Result<&mut Self, FieldError> {
        if self.seen & id.bit() != 0 {
            return Err(FieldError::Duplicate { id });
        }
        self.seen |= id.bit();
        property.write(&mut self.bytes);
        Ok(self)
    }
}

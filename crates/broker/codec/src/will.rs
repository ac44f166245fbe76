//! The will of a CONNECT: a message to publish when the client is lost.

use crate::primitive::{Fault, Reader, Sink};
use crate::property::{
    Property, PropertyBlock, PropertyId, PropertyMask, USER_PROPERTY, put_some, read_block,
};
use crate::user_property::UserProperties;
use crate::version::Qos;

/// A will. Its topic is UTF-8 without U+0000 [MQTT-3.1.3-11]; that it is a topic name is for the
/// session to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    /// Quality of service of the message.
    pub qos: Qos,
    /// Whether it becomes the retained message.
    pub retain: bool,
    /// Where it goes.
    pub topic: &'a str,
    /// At most 65535 bytes.
    pub payload: &'a [u8],
    /// Properties of 5.0.
    pub properties: WillProperties<'a>,
}

/// The properties of a will. `None` means absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WillProperties<'a> {
    /// Seconds between the loss and the will; absent is 0.
    pub delay_s: Option<u32>,
    /// Whether the payload claims to be UTF-8; absent is no.
    pub payload_is_utf8: Option<bool>,
    /// Life of the message in seconds; absent is without end.
    pub message_expiry_s: Option<u32>,
    /// Content type.
    pub content_type: Option<&'a str>,
    /// Response topic.
    pub response_topic: Option<&'a str>,
    /// Correlation data.
    pub correlation_data: Option<&'a [u8]>,
    /// User properties; their order is kept when the will is published. [MQTT-3.1.3-10]
    pub user_properties: UserProperties<'a>,
}

const WILL_PROPERTIES: PropertyMask = PropertyMask::new(&[
    PropertyId::WillDelay,
    PropertyId::PayloadFormat,
    PropertyId::MessageExpiry,
    PropertyId::ContentType,
    PropertyId::ResponseTopic,
    PropertyId::CorrelationData,
    PropertyId::UserProperty,
]);

impl<'a> WillProperties<'a> {
    pub(crate) fn decode(block: Reader<'a>) -> Result<Self, Fault> {
        let mut this = Self::default();
        let mut user_bytes = 0;
        read_block(block, WILL_PROPERTIES, USER_PROPERTY, |property, bytes| {
            match property {
                Property::WillDelay(value) => this.delay_s = Some(value),
                Property::PayloadFormat(value) => this.payload_is_utf8 = Some(value),
                Property::MessageExpiry(value) => this.message_expiry_s = Some(value),
                Property::ContentType(value) => this.content_type = Some(value),
                Property::ResponseTopic(value) => this.response_topic = Some(value),
                Property::CorrelationData(value) => this.correlation_data = Some(value),
                Property::User(..) => user_bytes += bytes.len(),
                _ => {}
            }
            Ok(())
        })?;
        this.user_properties = UserProperties::new(block.rest(), user_bytes);
        Ok(this)
    }

    /// Appends the properties that subscribers get, as they stand in a PUBLISH: all but the delay
    /// and the expiry, which is set anew on sending.
    pub fn forwarded(&self, out: &mut Vec<u8>) {
        self.write_forwarded(out);
    }

    fn write_forwarded<S: Sink>(&self, sink: &mut S) {
        put_some(sink, self.payload_is_utf8, Property::PayloadFormat);
        put_some(sink, self.content_type, Property::ContentType);
        put_some(sink, self.response_topic, Property::ResponseTopic);
        put_some(sink, self.correlation_data, Property::CorrelationData);
        self.user_properties.write(sink);
    }
}

impl PropertyBlock for WillProperties<'_> {
    fn write_properties<S: Sink>(&self, sink: &mut S) {
        put_some(sink, self.delay_s, Property::WillDelay);
        put_some(sink, self.message_expiry_s, Property::MessageExpiry);
        self.write_forwarded(sink);
    }
}

//! SUBSCRIBE: its options and its list of filters, checked once and read lazily.

use std::fmt;

use crate::error::{ErrorKind, Field, FieldError};
use crate::primitive::{Fault, Reader, Sink, check_field_text};
use crate::property::{
    Property, PropertyBlock, PropertyId, PropertyMask, USER_PROPERTY, put_some, read_block,
};
use crate::user_property::UserProperties;
use crate::version::{PacketId, ProtocolVersion, Qos};

/// SUBSCRIBE. In 3.x there are no properties and no options but the QoS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// SUBACK repeats it.
    pub packet_id: PacketId,
    /// 1 to 268435455. Zero and a second one are refused by the decoder as protocol errors.
    pub subscription_id: Option<u32>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// At least one. [MQTT-3.8.3-2]
    pub filters: SubscribeFilters<'a>,
}

/// One filter of a SUBSCRIBE. It is UTF-8 without U+0000; that it is a topic filter is for
/// `ratatosk-topic` to check, and that no-local is not asked of a shared one for the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscribeFilter<'a> {
    /// The filter, share prefix included.
    pub filter: &'a str,
    /// What the client wants.
    pub options: SubscriptionOptions,
}

/// How a subscription is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// The highest QoS wanted.
    pub qos: Qos,
    /// Not the client's own messages.
    pub no_local: bool,
    /// Forward the retain flag as it was published.
    pub retain_as_published: bool,
    /// Which retained messages to send now.
    pub retain_handling: RetainHandling,
}

/// Which retained messages a SUBSCRIBE brings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// All that match; always so in 3.x.
    #[default]
    Send = 0,
    /// All that match, if the subscription is new.
    SendIfNew = 1,
    /// None.
    DoNotSend = 2,
}

impl SubscriptionOptions {
    /// The QoS and defaults.
    #[must_use]
    pub const fn new(qos: Qos) -> Self {
        Self {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }

    /// The options byte of 5.0.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        let no_local = if self.no_local { 0x04 } else { 0 };
        let retain_as_published = if self.retain_as_published { 0x08 } else { 0 };
        self.qos.value() | no_local | retain_as_published | (self.retain_handling as u8) << 4
    }

    fn from_byte(byte: u8, version: ProtocolVersion) -> Result<Self, ErrorKind> {
        // [MQTT-3.8.3-5]; 3.1.1 [MQTT3-3.8.3-4]
        let reserved = if version.is_v5() { 0xC0 } else { 0xFC };
        if byte & reserved != 0 {
            return Err(ErrorKind::SubscriptionOptionsReserved { options: byte });
        }
        Ok(Self {
            qos: Qos::try_from(byte & 0x03).map_err(|_| ErrorKind::QosInvalid)?,
            no_local: byte & 0x04 != 0,
            retain_as_published: byte & 0x08 != 0,
            retain_handling: match byte >> 4 & 0x03 {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return Err(ErrorKind::RetainHandlingInvalid),
            },
        })
    }
}

/// From the options byte of 5.0, as [`SubscriptionOptions::to_byte`] makes it.
impl TryFrom<u8> for SubscriptionOptions {
    type Error = ErrorKind;

    fn try_from(byte: u8) -> Result<Self, ErrorKind> {
        Self::from_byte(byte, ProtocolVersion::V5)
    }
}

const SUBSCRIBE_PROPERTIES: PropertyMask =
    PropertyMask::new(&[PropertyId::SubscriptionId, PropertyId::UserProperty]);

impl<'a> Subscribe<'a> {
    /// A SUBSCRIBE without properties.
    #[must_use]
    pub fn new(packet_id: PacketId, filters: SubscribeFilters<'a>) -> Self {
        Self {
            packet_id,
            subscription_id: None,
            user_properties: UserProperties::default(),
            filters,
        }
    }

    pub(crate) fn decode(mut reader: Reader<'a>, version: ProtocolVersion) -> Result<Self, Fault> {
        let packet_id = reader.packet_id()?;
        let mut this = Self::new(packet_id, SubscribeFilters::default());
        if version.is_v5() {
            let block = reader.property_block()?;
            let mut user_bytes = 0;
            read_block(block, SUBSCRIBE_PROPERTIES, USER_PROPERTY, |property, bytes| {
                match property {
                    Property::SubscriptionId(id) => this.subscription_id = Some(id),
                    _ => user_bytes += bytes.len(),
                }
                Ok(())
            })?;
            this.user_properties = UserProperties::new(block.rest(), user_bytes);
        }
        this.filters = SubscribeFilters::decode(reader, version)?;
        Ok(this)
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.put_u16(self.packet_id.value());
        if version.is_v5() {
            self.write_block(sink);
        }
        self.filters.write(version, sink);
    }
}

impl PropertyBlock for Subscribe<'_> {
    fn write_properties<S: Sink>(&self, sink: &mut S) {
        put_some(sink, self.subscription_id, Property::SubscriptionId);
        self.user_properties.write(sink);
    }
}

/// The filters of a SUBSCRIBE.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct SubscribeFilters<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> SubscribeFilters<'a> {
    fn decode(mut reader: Reader<'a>, version: ProtocolVersion) -> Result<Self, Fault> {
        // [MQTT-3.8.3-2]; 3.1.1 MQTT-3.8.3-3
        if reader.is_empty() {
            return Err(reader.fault(ErrorKind::NoFilters));
        }
        let bytes = reader.rest();
        let mut count = 0;
        while !reader.is_empty() {
            read_filter(&mut reader, version)?;
            count += 1;
        }
        Ok(Self { bytes, count })
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Never true for a decoded packet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// In the order of the packet: SUBACK answers in the same.
    pub fn iter(&self) -> impl Iterator<Item = SubscribeFilter<'a>> + Clone + use<'a> {
        let mut reader = Reader::new(self.bytes, 0);
        // What 3.x allows, 5.0 allows too, with the same meaning.
        std::iter::repeat_with(move || read_filter(&mut reader, ProtocolVersion::V5).ok())
            .map_while(|filter| filter)
    }

    fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        assert!(!self.is_empty(), "a subscribe packet needs a filter");
        if version.is_v5() {
            return sink.put(self.bytes);
        }
        for filter in self.iter() {
            sink.put_text(filter.filter);
            sink.put_u8(filter.options.qos.value());
        }
    }
}

fn read_filter<'a>(
    reader: &mut Reader<'a>,
    version: ProtocolVersion,
) -> Result<SubscribeFilter<'a>, Fault> {
    // [MQTT-3.8.3-1]
    let filter = reader.text(Field::TopicFilter)?;
    let at = *reader;
    let byte = reader.u8()?;
    let options = SubscriptionOptions::from_byte(byte, version).map_err(|kind| at.fault(kind))?;
    Ok(SubscribeFilter { filter, options })
}

impl fmt::Debug for SubscribeFilters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Collects the filters of a SUBSCRIBE; reusable after [`clear`](Self::clear).
#[derive(Debug, Clone, Default)]
pub struct SubscribeFiltersBuilder {
    bytes: Vec<u8>,
    count: usize,
}

impl SubscribeFiltersBuilder {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), count: 0 }
    }

    /// Appends a filter. Before 5.0 only the QoS of the options is sent.
    pub fn push(
        &mut self,
        filter: &str,
        options: SubscriptionOptions,
    ) -> Result<&mut Self, FieldError> {
        check_field_text(filter)?;
        self.bytes.put_text(filter);
        self.bytes.put_u8(options.to_byte());
        self.count += 1;
        Ok(self)
    }

    /// What was pushed, for a packet, which needs at least one.
    #[must_use]
    pub fn view(&self) -> SubscribeFilters<'_> {
        SubscribeFilters { bytes: &self.bytes, count: self.count }
    }

    /// Forgets the filters and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }
}

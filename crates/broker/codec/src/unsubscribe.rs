//! UNSUBSCRIBE: a list of filters, checked once and read lazily.

use std::fmt;

use crate::error::{ErrorKind, Field, FieldError};
use crate::primitive::{Fault, Reader, Sink, check_field_text};
use crate::property::{PropertyBlock, USER_PROPERTY, read_block};
use crate::user_property::UserProperties;
use crate::version::{PacketId, ProtocolVersion};

/// UNSUBSCRIBE. In 3.x there are no properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// UNSUBACK repeats it.
    pub packet_id: PacketId,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// At least one. [MQTT-3.10.3-2]
    pub filters: UnsubscribeFilters<'a>,
}

impl<'a> Unsubscribe<'a> {
    /// An UNSUBSCRIBE without properties.
    #[must_use]
    pub fn new(packet_id: PacketId, filters: UnsubscribeFilters<'a>) -> Self {
        Self { packet_id, user_properties: UserProperties::default(), filters }
    }

    pub(crate) fn decode(mut reader: Reader<'a>, version: ProtocolVersion) -> Result<Self, Fault> {
        let packet_id = reader.packet_id()?;
        let mut this = Self::new(packet_id, UnsubscribeFilters::default());
        if version.is_v5() {
            let block = reader.property_block()?;
            read_block(block, USER_PROPERTY, USER_PROPERTY, |_, _| Ok(()))?;
            this.user_properties = UserProperties::new(block.rest(), block.rest().len());
        }
        this.filters = UnsubscribeFilters::decode(reader)?;
        Ok(this)
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.put_u16(self.packet_id.value());
        if version.is_v5() {
            self.write_block(sink);
        }
        assert!(!self.filters.is_empty(), "an unsubscribe packet needs a filter");
        sink.put(self.filters.bytes);
    }
}

impl PropertyBlock for Unsubscribe<'_> {
    fn write_properties<S: Sink>(&self, sink: &mut S) {
        self.user_properties.write(sink);
    }
}

/// The filters of an UNSUBSCRIBE: UTF-8 without U+0000. [MQTT-3.10.3-1]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct UnsubscribeFilters<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> UnsubscribeFilters<'a> {
    fn decode(mut reader: Reader<'a>) -> Result<Self, Fault> {
        // [MQTT-3.10.3-2]
        if reader.is_empty() {
            return Err(reader.fault(ErrorKind::NoFilters));
        }
        let bytes = reader.rest();
        let mut count = 0;
        while !reader.is_empty() {
            reader.text(Field::TopicFilter)?;
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

    /// In the order of the packet: UNSUBACK answers in the same.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + Clone + use<'a> {
        let mut reader = Reader::new(self.bytes, 0);
        std::iter::repeat_with(move || reader.text(Field::TopicFilter).ok())
            .map_while(|filter| filter)
    }
}

impl fmt::Debug for UnsubscribeFilters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Collects the filters of an UNSUBSCRIBE; reusable after [`clear`](Self::clear).
#[derive(Debug, Clone, Default)]
pub struct UnsubscribeFiltersBuilder {
    bytes: Vec<u8>,
    count: usize,
}

impl UnsubscribeFiltersBuilder {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), count: 0 }
    }

    /// Appends a filter.
    pub fn push(&mut self, filter: &str) -> Result<&mut Self, FieldError> {
        check_field_text(filter)?;
        self.bytes.put_text(filter);
        self.count += 1;
        Ok(self)
    }

    /// What was pushed, for a packet, which needs at least one.
    #[must_use]
    pub fn view(&self) -> UnsubscribeFilters<'_> {
        UnsubscribeFilters { bytes: &self.bytes, count: self.count }
    }

    /// Forgets the filters and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }
}

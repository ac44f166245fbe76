//! User properties: ordered pairs of strings, read lazily from the bytes of the packet.

use std::fmt;

use crate::error::FieldError;
use crate::primitive::{Sink, check_field_text};
use crate::property::{Properties, Property};

/// The user properties of a packet in their order. Names may repeat.
#[derive(Clone, Copy, Default)]
pub struct UserProperties<'a> {
    /// Checked properties, other than user properties too.
    block: &'a [u8],
    /// How many bytes of the block are user properties.
    length: usize,
}

impl<'a> UserProperties<'a> {
    pub(crate) fn new(block: &'a [u8], length: usize) -> Self {
        debug_assert!(length <= block.len(), "user properties are part of the block");
        let block = if length == 0 { &[] } else { block };
        Self { block, length }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The number of bytes on the wire.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        self.length
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        Properties::new(self.block).filter_map(|property| match property {
            Property::User(name, value) => Some((name, value)),
            _ => None,
        })
    }

    pub(crate) fn write<S: Sink>(&self, sink: &mut S) {
        if self.length == self.block.len() {
            return sink.put(self.block);
        }
        for (name, value) in self.iter() {
            Property::User(name, value).write(sink);
        }
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.length == other.length && self.iter().eq(other.iter())
    }
}

impl Eq for UserProperties<'_> {}

impl fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Collects user properties for a packet; reusable after [`clear`](Self::clear).
#[derive(Debug, Clone, Default)]
pub struct UserPropertiesBuilder {
    bytes: Vec<u8>,
}

impl UserPropertiesBuilder {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Appends a pair.
    pub fn push(&mut self, name: &str, value: &str) -> Result<&mut Self, FieldError> {
        check_field_text(name)?;
        check_field_text(value)?;
        Property::User(name, value).write(&mut self.bytes);
        Ok(self)
    }

    /// What was pushed, for a packet.
    #[must_use]
    pub fn view(&self) -> UserProperties<'_> {
        UserProperties::new(&self.bytes, self.bytes.len())
    }

    /// Forgets the pairs and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

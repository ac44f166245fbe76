//! Integers, strings and variable byte integers: a cursor to read them, a sink to write them.
//!
//! The cursor never reads past its slice and knows its offset in the packet, so that an error says
//! where. The sink is written once and run twice: over [`Length`] to size, over `Vec<u8>` to write.

use crate::error::{ErrorKind, Field, FieldError, Flaw};
use crate::version::PacketId;

/// The longest string or binary field: its length is two bytes.
pub const BINARY_BYTES_MAX: usize = u16::MAX as usize;

/// The largest variable byte integer: four groups of seven bits.
pub const VARIABLE_MAX: u32 = 268_435_455;

/// The longest packet: first byte, four bytes of length, and the largest remaining length.
pub const PACKET_BYTES_MAX: usize = 5 + VARIABLE_MAX as usize;

/// An error before it knows its packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: ErrorKind,
    pub(crate) offset: usize,
}

/// A cursor over one packet's body, or over a part of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// Offset in the packet of the byte after `rest`.
    end: usize,
}

impl<'a> Reader<'a> {
    /// `offset` is where `bytes` begins in the packet.
    #[inline]
    pub(crate) fn new(bytes: &'a [u8], offset: usize) -> Self {
        Self { rest: bytes, end: offset + bytes.len() }
    }

    #[inline]
    pub(crate) fn offset(&self) -> usize {
        self.end - self.rest.len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[cold]
    pub(crate) fn fault(&self, kind: ErrorKind) -> Fault {
        Fault { kind, offset: self.offset() }
    }

    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.fault(ErrorKind::Truncated));
        };
        self.rest = rest;
        Ok(taken)
    }

    /// Everything that is left.
    #[inline]
    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.fault(ErrorKind::Truncated));
        };
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Fault> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer in its shortest form. [MQTT-1.5.5-1]
    #[inline]
    pub(crate) fn variable(&mut self) -> Result<u32, Fault> {
        if let Some((&byte, rest)) = self.rest.split_first()
            && byte < 0x80
        {
            self.rest = rest;
            return Ok(u32::from(byte));
        }
        match read_variable(self.rest) {
            Some(Variable::Complete { value, length, shortest: true }) => {
                self.take(length)?;
                Ok(value)
            }
            Some(_) => Err(self.fault(ErrorKind::MalformedVariableInteger)),
            None => Err(self.fault(ErrorKind::Truncated)),
        }
    }

    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    #[inline]
    pub(crate) fn text(&mut self, field: Field) -> Result<&'a str, Fault> {
        let bytes = self.binary()?;
        match check_text(bytes) {
            Ok(text) => Ok(text),
            Err(flaw) => Err(Fault {
                kind: ErrorKind::MalformedString { field, flaw },
                offset: self.offset() - bytes.len(),
            }),
        }
    }

    /// [MQTT-2.2.1-3] 3.1.1 [MQTT-2.3.1-1] A packet id is never zero.
    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<PacketId, Fault> {
        let offset = self.offset();
        let value = self.u16()?;
        PacketId::new(value).ok_or(Fault { kind: ErrorKind::PacketIdZero, offset })
    }

    /// A cursor over the property block that begins here. [MQTT-2.2.2-1]
    #[inline]
    pub(crate) fn property_block(&mut self) -> Result<Reader<'a>, Fault> {
        let length = self.variable()?;
        let offset = self.offset();
        let block = self.take(length as usize)?;
        Ok(Reader::new(block, offset))
    }

    /// Nothing may follow the last field.
    #[inline]
    pub(crate) fn finish(self) -> Result<(), Fault> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(self.fault(ErrorKind::TrailingBytes { count: self.rest.len() }))
    }
}

/// A string of MQTT: UTF-8 [MQTT-1.5.4-1] without U+0000 [MQTT-1.5.4-2]. A byte order mark is a
/// character like any other. [MQTT-1.5.4-3] 3.1.1 [MQTT-1.5.3-1] [MQTT-1.5.3-2] [MQTT-1.5.3-3]
#[inline]
pub(crate) fn check_text(bytes: &[u8]) -> Result<&str, Flaw> {
    // A fold without early exit becomes vector code; the usual string holds no NUL.
    let has_nul = bytes.iter().fold(false, |found, &byte| found | (byte == 0));
    if has_nul {
        return Err(Flaw::Nul);
    }
    simdutf8::basic::from_utf8(bytes).map_err(|_| Flaw::NotUtf8)
}

/// Checks a string that is about to be written.
pub(crate) fn check_field_text(text: &str) -> Result<(), FieldError> {
    check_field_binary(text.as_bytes())?;
    if text.as_bytes().contains(&0) {
        return Err(FieldError::Nul);
    }
    Ok(())
}

/// Checks a binary that is about to be written.
pub(crate) fn check_field_binary(bytes: &[u8]) -> Result<(), FieldError> {
    if bytes.len() > BINARY_BYTES_MAX {
        return Err(FieldError::TooLong { length: bytes.len() });
    }
    Ok(())
}

/// What stands at the head of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variable {
    /// `length` bytes were used; `shortest` is false when fewer would have done.
    Complete { value: u32, length: usize, shortest: bool },
    /// More than four bytes.
    Endless,
}

/// `None` while bytes are missing.
#[inline]
pub(crate) fn read_variable(bytes: &[u8]) -> Option<Variable> {
    let mut value = 0u32;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte < 0x80 {
            let shortest = index == 0 || byte != 0;
            return Some(Variable::Complete { value, length: index + 1, shortest });
        }
    }
    (bytes.len() >= 4).then_some(Variable::Endless)
}

/// How many bytes the value takes.
#[inline]
pub(crate) const fn variable_len(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// A length as a variable byte integer's value. Above the maximum no packet exists: the caller
/// has checked its limits, so this is a bug.
#[inline]
pub(crate) fn variable_from(length: usize) -> u32 {
    assert!(length <= VARIABLE_MAX as usize, "{length} bytes do not fit a packet");
    u32::try_from(length).unwrap_or(VARIABLE_MAX)
}

/// Where packets are written to.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    #[inline]
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    #[inline]
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    #[inline]
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// [MQTT-1.5.5-1] The shortest form.
    #[inline]
    fn put_variable(&mut self, value: u32) {
        let (bytes, length) = variable_bytes(value);
        self.put(&bytes[..length]);
    }

    /// Panics above 65535 bytes: the value was not made by a decoder or a builder.
    #[inline]
    fn put_binary(&mut self, bytes: &[u8]) {
        let length = u16::try_from(bytes.len());
        assert!(length.is_ok(), "a field of {} bytes does not fit a packet", bytes.len());
        self.put_u16(length.unwrap_or(u16::MAX));
        self.put(bytes);
    }

    #[inline]
    fn put_text(&mut self, text: &str) {
        self.put_binary(text.as_bytes());
    }
}

/// The bytes of a variable byte integer and their number.
#[inline]
pub(crate) fn variable_bytes(value: u32) -> ([u8; 4], usize) {
    debug_assert!(value <= VARIABLE_MAX, "{value} is no variable byte integer");
    let group = |index: u32| (value >> (7 * index)).to_le_bytes()[0];
    let length = variable_len(value);
    let bytes = match length {
        1 => [group(0), 0, 0, 0],
        2 => [group(0) | 0x80, group(1), 0, 0],
        3 => [group(0) | 0x80, group(1) | 0x80, group(2), 0],
        _ => [group(0) | 0x80, group(1) | 0x80, group(2) | 0x80, group(3) & 0x7F],
    };
    (bytes, length)
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts what would be written.
#[derive(Debug, Default)]
pub(crate) struct Length(pub(crate) usize);

impl Sink for Length {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(bytes: &[u8]) -> Option<Variable> {
        read_variable(bytes)
    }

    fn complete(value: u32, length: usize) -> Option<Variable> {
        Some(Variable::Complete { value, length, shortest: true })
    }

    #[test]
    fn variable_integers_read_at_their_bounds() {
        assert_eq!(variable(&[]), None);
        assert_eq!(variable(&[0x80]), None);
        assert_eq!(variable(&[0xFF, 0xFF, 0xFF]), None);
        assert_eq!(variable(&[0]), complete(0, 1));
        assert_eq!(variable(&[0x7F]), complete(127, 1));
        assert_eq!(variable(&[0x80, 1]), complete(128, 2));
        assert_eq!(variable(&[0xFF, 0x7F]), complete(16_383, 2));
        assert_eq!(variable(&[0x80, 0x80, 1]), complete(16_384, 3));
        assert_eq!(variable(&[0xFF, 0xFF, 0x7F]), complete(2_097_151, 3));
        assert_eq!(variable(&[0xFF, 0xFF, 0xFF, 0x7F]), complete(VARIABLE_MAX, 4));
        assert_eq!(variable(&[0xFF, 0xFF, 0xFF, 0xFF]), Some(Variable::Endless));
    }

    /// [MQTT-1.5.5-1]
    #[test]
    fn variable_integers_are_written_in_the_shortest_form() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, VARIABLE_MAX] {
            let mut out = Vec::new();
            out.put_variable(value);
            assert_eq!(out.len(), variable_len(value));
            assert_eq!(variable(&out), complete(value, out.len()));
        }
        let long = Some(Variable::Complete { value: 0, length: 2, shortest: false });
        assert_eq!(variable(&[0x80, 0]), long);
        let mut reader = Reader::new(&[0x80, 0], 0);
        let kind = reader.variable().expect_err("not shortest").kind;
        assert_eq!(kind, ErrorKind::MalformedVariableInteger);
    }

    /// [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-1.5.4-3]; 3.1.1 [MQTT-1.5.3-1] [MQTT-1.5.3-2]
    /// [MQTT-1.5.3-3]
    #[test]
    fn strings_are_utf8_without_nul_and_keep_their_byte_order_mark() {
        assert_eq!(check_text(b"a/b"), Ok("a/b"));
        assert_eq!(check_text(b"a\0b"), Err(Flaw::Nul));
        assert_eq!(check_text(b"\xC0\x80"), Err(Flaw::NotUtf8));
        assert_eq!(check_text(b"\xED\xA0\x80"), Err(Flaw::NotUtf8));
        assert_eq!(check_text(b"\xEF\xBB\xBFa"), Ok("\u{FEFF}a"));
        let long = "ж".repeat(500);
        assert_eq!(check_text(long.as_bytes()), Ok(long.as_str()));
        let cut = &long.as_bytes()[..long.len() - 1];
        assert_eq!(check_text(cut), Err(Flaw::NotUtf8));
    }

    #[test]
    fn faults_tell_their_offset_in_the_packet() {
        let mut reader = Reader::new(b"\x00\x02ab\x00\x09c", 10);
        assert_eq!(reader.text(Field::Topic), Ok("ab"));
        assert_eq!(reader.offset(), 14);
        let fault = reader.binary().expect_err("nine bytes are not there");
        assert_eq!(fault, Fault { kind: ErrorKind::Truncated, offset: 16 });
    }
}

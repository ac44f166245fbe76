//! A frame: the length of its body (4 bytes, big-endian), its kind (1 byte), its body.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::protocol::Malformed;

/// Length and kind.
pub(crate) const FRAME_HEAD_BYTES: usize = 5;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The first of a call: whose it is, and for which server.
    Open,
    /// A message as its `.proto` says.
    Message,
    /// A message of a pipeline, with what travels with it.
    Item,
    /// What became of a call, or of an item, instead of a message.
    Error,
    /// So many messages more may be sent.
    Credit,
    /// No more messages follow; credit may.
    End,
}

impl Kind {
    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Open,
            2 => Self::Message,
            3 => Self::Item,
            4 => Self::Error,
            5 => Self::Credit,
            6 => Self::End,
            _ => return None,
        })
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Message => 2,
            Self::Item => 3,
            Self::Error => 4,
            Self::Credit => 5,
            Self::End => 6,
        }
    }
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// What it is.
    pub(crate) kind: Kind,
    /// What is in it.
    pub(crate) body: Bytes,
}

impl Frame {
    /// The number in a frame of [`Kind::Credit`].
    pub(crate) fn credit(&self) -> Result<u32, Malformed> {
        let bytes = <[u8; 4]>::try_from(&self.body[..]);
        bytes.map(u32::from_be_bytes).map_err(|_| Malformed::Unknown { what: "a credit" })
    }

    /// The message in a frame of [`Kind::Message`].
    pub(crate) fn message<M: Message + Default>(self) -> Result<M, Malformed> {
        M::decode(self.body).map_err(|_| Malformed::Unknown { what: "a message" })
    }
}

/// Appends the head of a frame whose body has `length` bytes.
pub(super) fn put_head(
    out: &mut BytesMut,
    kind: Kind,
    length: usize,
    limit: usize,
) -> Result<(), Malformed> {
    let long = Malformed::Long { what: "a message", bytes: length, limit };
    let Ok(number) = u32::try_from(length) else { return Err(long) };
    if length > limit {
        return Err(long);
    }
    out.reserve(FRAME_HEAD_BYTES + length);
    out.put_u32(number);
    out.put_u8(kind.byte());
    Ok(())
}

/// Appends a message. Beyond the limit nothing is appended.
pub(crate) fn put_message<M: Message>(
    out: &mut BytesMut,
    message: &M,
    limit: usize,
) -> Result<(), Malformed> {
    put_head(out, Kind::Message, message.encoded_len(), limit)?;
    message.encode_raw(out);
    Ok(())
}

/// Appends a credit.
pub(crate) fn put_credit(out: &mut BytesMut, count: u32) {
    out.put_u32(4);
    out.put_u8(Kind::Credit.byte());
    out.put_u32(count);
}

/// Appends the end of the messages.
pub(crate) fn put_end(out: &mut BytesMut) {
    out.put_u32(0);
    out.put_u8(Kind::End.byte());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_written_as_they_are_read() {
        let kinds = (0..=u8::MAX).filter_map(|byte| Kind::from_byte(byte).map(|kind| (byte, kind)));
        let kinds: Vec<_> = kinds.collect();
        assert_eq!(kinds.len(), 6);
        assert!(kinds.iter().all(|(byte, kind)| kind.byte() == *byte));
    }
}

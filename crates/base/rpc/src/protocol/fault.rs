//! Errors on the wire: a code (1 byte), a code of the service (4 bytes), a text for a person.

use bytes::{BufMut, BytesMut};

use crate::error::{Delivery, Error};
use crate::protocol::frame::put_head;
use crate::protocol::reader::Reader;
use crate::protocol::{Kind, Malformed};

/// Longer texts are cut: they are for a person.
const TEXT_BYTES_MAX: usize = 1_024;

/// Appends what became of a call. What only a client finds out (that a connection is lost, that
/// versions differ) has no code of its own: a server never says it.
pub(crate) fn put_error(out: &mut BytesMut, error: &Error) {
    let (code, number, text) = match error {
        Error::Deadline(_) => (1, 0, ""),
        Error::NoServer { service } => (2, 0, service.as_str()),
        Error::Busy => (3, 0, ""),
        Error::Refused { why } => (4, 0, why.as_str()),
        Error::Application { code, message } => (5, *code, message.as_str()),
        Error::Internal { why } | Error::Lost { why, .. } => (6, 0, why.as_str()),
        Error::Version { .. } => (6, 0, "a version in between does not fit"),
    };
    let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    let is_put = put_head(out, Kind::Error, 5 + text.len(), usize::MAX);
    debug_assert!(is_put.is_ok());
    out.put_u8(code);
    out.put_u32(number);
    out.put_slice(text.as_bytes());
}

/// What the body of a frame of [`Kind::Error`] says. A code of a later version is read as a
/// failure of the handler, which leaves everything in doubt.
pub(crate) fn decode_error(body: &[u8]) -> Result<Error, Malformed> {
    let mut reader = Reader::new(body, "an error");
    let (code, number) = (reader.u8()?, reader.u32()?);
    let rest = reader.rest();
    let text = String::from_utf8_lossy(&rest[..rest.len().min(TEXT_BYTES_MAX)]).into_owned();
    Ok(match code {
        1 => Error::Deadline(Delivery::InDoubt),
        2 => Error::NoServer { service: text },
        3 => Error::Busy,
        4 => Error::Refused { why: text },
        5 => Error::Application { code: number, message: text },
        _ => Error::Internal { why: text },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(error: &Error) -> Error {
        let mut bytes = BytesMut::new();
        put_error(&mut bytes, error);
        decode_error(&bytes[crate::protocol::FRAME_HEAD_BYTES..]).expect("an error")
    }

    #[test]
    fn what_a_server_says_is_what_the_client_hears() {
        let errors = [
            Error::Deadline(Delivery::InDoubt),
            Error::NoServer { service: "a.B".into() },
            Error::Busy,
            Error::Refused { why: "no such method".into() },
            Error::Application { code: u32::MAX, message: "quota".into() },
            Error::Internal { why: "it panicked".into() },
        ];
        for error in errors {
            assert_eq!(back(&error), error);
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let message = "é".repeat(TEXT_BYTES_MAX);
        let Error::Application { message, .. } = back(&Error::Application { code: 1, message })
        else {
            panic!("another error came back");
        };
        assert_eq!(message, "é".repeat(TEXT_BYTES_MAX / 2));
    }

    #[test]
    fn unknown_codes_leave_everything_in_doubt() {
        let error = decode_error(&[99, 0, 0, 0, 0, 0xff]).expect("an error");
        assert!(error.is_in_doubt());
        assert_eq!(decode_error(&[1, 0]), Err(Malformed::Short { what: "an error" }));
    }
}

//! The bytes between two nodes, without any I/O: `docs/formats/rpc.md` specifies them.
//!
//! Decoders take whatever a peer sends: they check lengths before they allocate, keep nothing
//! beyond their limits, and never panic.

mod assembler;
mod fault;
mod frame;
mod head;
mod hello;
mod reader;

pub(crate) use assembler::Assembler;
pub(crate) use fault::{decode_error, put_error};
pub(crate) use frame::{FRAME_HEAD_BYTES, Frame, Kind, put_credit, put_end, put_message};
pub(crate) use head::{Head, Open, decode_item, put_item, put_open};
pub(crate) use hello::{HELLO_BYTES_MAX, Hello, PREAMBLE_BYTES, Verdict, body_length, judge};

/// Bytes of a peer that mean nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// They end too soon.
    #[error("{what} ends too soon")]
    Short { what: &'static str },
    /// A length beyond the limit.
    #[error("{what} of {bytes} bytes is longer than {limit}")]
    Long { what: &'static str, bytes: usize, limit: usize },
    /// A value that is none.
    #[error("{what} has a value that means nothing")]
    Unknown { what: &'static str },
}

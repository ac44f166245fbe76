//! WebSocket frames of a client, read as a stream.
//!
//! Payload of binary messages is unmasked and passed on as it arrives: nothing of it is kept, so
//! neither the length of a frame nor that of a message costs memory, and packets need not align
//! with frames [MQTT-6.0.0-2]. Held are at most one header and the payload of one control frame.
//!
//! Invariants: `header_size < HEADER_MAX` between calls; `control.len() ≤ CONTROL_MAX`.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use crate::transport::error::Error;
use crate::transport::tls::Flow;

/// Two bytes, eight of length, four of mask.
const HEADER_MAX: usize = 14;
/// RFC 6455 5.5.
const CONTROL_MAX: u64 = 125;

const OP_BINARY: u8 = 0x2;
const OP_CLOSE: u8 = 0x8;
const OP_PONG: u8 = 0xa;

/// Where in the stream of frames the client is.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    header: [u8; HEADER_MAX],
    header_size: usize,
    frame: Option<Frame>,
    /// A fragmented message is unfinished.
    continued: bool,
    /// Payload so far of the control frame that is being received.
    control: Vec<u8>,
}

/// A frame whose payload is being received.
#[derive(Debug)]
struct Frame {
    kind: Kind,
    mask: [u8; 4],
    remaining: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Close,
    Ping,
    Pong,
}

impl FrameReader {
    /// Takes bytes; appends payload to `mqtt` and answers to `reply`.
    pub(super) fn receive(
        &mut self,
        mut bytes: &[u8],
        frame_max: u64,
        mqtt: &mut Vec<u8>,
        reply: &mut Vec<u8>,
    ) -> Result<Flow, Error> {
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.receive_header(&mut bytes, frame_max)? {
                    Some(frame) => frame,
                    None => return Ok(Flow::Open),
                },
            };
            let size = usize::try_from(frame.remaining).unwrap_or(usize::MAX).min(bytes.len());
            let (payload, rest) = bytes.split_at(size);
            bytes = rest;
            let target = if frame.kind == Kind::Data { &mut *mqtt } else { &mut self.control };
            append_unmasked(payload, &mut frame.mask, target);
            frame.remaining -= size as u64;
            if frame.remaining > 0 {
                self.frame = Some(frame);
                return Ok(Flow::Open);
            }
            if self.finish(frame.kind, reply)? == Flow::Ended {
                return Ok(Flow::Ended);
            }
        }
    }

    pub(super) fn memory(&self) -> usize {
        self.control.capacity()
    }

    /// Collects a header; answers `None` when the bytes end before it does.
    fn receive_header(
        &mut self,
        bytes: &mut &[u8],
        frame_max: u64,
    ) -> Result<Option<Frame>, Error> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let held = self.header_size;
        let added = bytes.len().min(HEADER_MAX - held);
        self.header[held..held + added].copy_from_slice(&bytes[..added]);
        let mut cursor = Cursor::new(&self.header[..held + added]);
        let parsed = FrameHeader::parse(&mut cursor)
            .map_err(|_| Error::WebSocketProtocol("unknown operation code"))?;
        let Some((header, length)) = parsed else {
            self.header_size = held + added;
            *bytes = &bytes[added..];
            return Ok(None);
        };
        // The header that was held alone was incomplete, so this one ends within the new bytes.
        let size = usize::try_from(cursor.position()).unwrap_or(HEADER_MAX);
        *bytes = &bytes[size.saturating_sub(held)..];
        self.header_size = 0;
        self.admit(&header, length, frame_max).map(Some)
    }

    /// Checks a header against RFC 6455 and MQTT.
    fn admit(
        &mut self,
        header: &FrameHeader,
        length: u64,
        frame_max: u64,
    ) -> Result<Frame, Error> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Error::WebSocketProtocol("reserved bit without an extension"));
        }
        let kind = match header.opcode {
            // [MQTT-6.0.0-1] Any other data frame closes the connection.
            OpCode::Data(Data::Text) => return Err(Error::TextFrame),
            OpCode::Data(Data::Binary) if self.continued => {
                return Err(Error::WebSocketProtocol("new message within a fragmented one"));
            }
            OpCode::Data(Data::Continue) if !self.continued => {
                return Err(Error::WebSocketProtocol("continuation without a message"));
            }
            OpCode::Data(Data::Binary | Data::Continue) => Kind::Data,
            OpCode::Control(Control::Close) => Kind::Close,
            OpCode::Control(Control::Ping) => Kind::Ping,
            OpCode::Control(Control::Pong) => Kind::Pong,
            OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
                return Err(Error::WebSocketProtocol("unknown operation code"));
            }
        };
        let Some(mask) = header.mask else {
            return Err(Error::UnmaskedFrame);
        };
        if kind == Kind::Data {
            if length > frame_max {
                return Err(Error::FrameOversized { size: length, maximum: frame_max });
            }
            self.continued = !header.is_final;
        } else if length > CONTROL_MAX || !header.is_final {
            return Err(Error::WebSocketProtocol("control frame too long or fragmented"));
        }
        Ok(Frame { kind, mask, remaining: length })
    }

    /// Acts on a frame that is complete.
    fn finish(&mut self, kind: Kind, reply: &mut Vec<u8>) -> Result<Flow, Error> {
        let outcome = match kind {
            Kind::Data => return Ok(Flow::Open),
            Kind::Pong => Ok(Flow::Open),
            Kind::Ping => {
                write_frame(OP_PONG, &self.control, reply);
                Ok(Flow::Open)
            }
            Kind::Close => {
                check_close(&self.control)?;
                // The peer's own status goes back, without its reason.
                write_frame(OP_CLOSE, self.control.get(..2).unwrap_or_default(), reply);
                Ok(Flow::Ended)
            }
        };
        // Control frames are rare: their buffer is returned.
        self.control = Vec::new();
        outcome
    }
}

/// The header of a binary frame that carries a whole message of `length` bytes.
pub(super) struct BinaryHeader {
    bytes: [u8; 10],
    size: usize,
}

impl BinaryHeader {
    pub(super) fn new(length: usize) -> Self {
        let (bytes, size) = encode_header(OP_BINARY, length);
        Self { bytes, size }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

/// Appends a close frame.
pub(super) fn write_close(code: CloseCode, reply: &mut Vec<u8>) {
    write_frame(OP_CLOSE, &u16::from(code).to_be_bytes(), reply);
}

/// The status with which a breach is answered.
pub(super) fn close_code(error: &Error) -> CloseCode {
    match error {
        Error::TextFrame => CloseCode::Unsupported,
        Error::FrameOversized { .. } => CloseCode::Size,
        Error::WebSocketProtocol(REASON_NOT_UTF8) => CloseCode::Invalid,
        _ => CloseCode::Protocol,
    }
}

const REASON_NOT_UTF8: &str = "close reason is not utf-8";

fn check_close(payload: &[u8]) -> Result<(), Error> {
    match payload {
        [] => Ok(()),
        [_] => Err(Error::WebSocketProtocol("close frame of one byte")),
        [high, low, reason @ ..] => {
            let code = CloseCode::from(u16::from_be_bytes([*high, *low]));
            if !code.is_allowed() {
                return Err(Error::WebSocketProtocol("close status that must not be sent"));
            }
            match std::str::from_utf8(reason) {
                Ok(_) => Ok(()),
                Err(_) => Err(Error::WebSocketProtocol(REASON_NOT_UTF8)),
            }
        }
    }
}

fn write_frame(operation: u8, payload: &[u8], target: &mut Vec<u8>) {
    let (header, size) = encode_header(operation, payload.len());
    target.extend_from_slice(&header[..size]);
    target.extend_from_slice(payload);
}

/// A final frame without mask, as servers send.
fn encode_header(operation: u8, length: usize) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    bytes[0] = 0x80 | operation;
    if let Ok(short) = u8::try_from(length)
        && u64::from(short) <= CONTROL_MAX
    {
        bytes[1] = short;
        return (bytes, 2);
    }
    if let Ok(medium) = u16::try_from(length) {
        bytes[1] = 126;
        bytes[2..4].copy_from_slice(&medium.to_be_bytes());
        return (bytes, 4);
    }
    bytes[1] = 127;
    bytes[2..10].copy_from_slice(&(length as u64).to_be_bytes());
    (bytes, 10)
}

/// Appends the payload without its mask, and turns the mask so that it fits the next byte.
fn append_unmasked(payload: &[u8], mask: &mut [u8; 4], target: &mut Vec<u8>) {
    let start = target.len();
    target.extend_from_slice(payload);
    let mut wide = [0; 16];
    for (position, byte) in wide.iter_mut().enumerate() {
        *byte = mask[position % 4];
    }
    // Blocks of a fixed size become vector instructions.
    let mut blocks = target[start..].chunks_exact_mut(wide.len());
    for block in &mut blocks {
        for (byte, key) in block.iter_mut().zip(&wide) {
            *byte ^= key;
        }
    }
    for (byte, key) in blocks.into_remainder().iter_mut().zip(&wide) {
        *byte ^= key;
    }
    mask.rotate_left(payload.len() % 4);
}

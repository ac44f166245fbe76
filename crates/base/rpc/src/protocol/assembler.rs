//! Frames out of pieces of any length.
//!
//! A frame that lies in one piece is a slice of it; one that lies in several is put together. At
//! most one frame is put together at a time, and its memory grows with what has come of it, not
//! with what its head claims.

use bytes::{Buf, Bytes, BytesMut};

use crate::protocol::{FRAME_HEAD_BYTES, Frame, Kind, Malformed};

/// Puts frames together.
#[derive(Debug)]
pub(crate) struct Assembler {
    /// What came last and is not looked at yet.
    piece: Bytes,
    /// The beginning of a frame whose end is still to come.
    partial: BytesMut,
    body_max: usize,
}

impl Assembler {
    /// Refuses frames whose body is longer than `body_max`.
    pub(crate) fn new(body_max: usize) -> Self {
        Self { piece: Bytes::new(), partial: BytesMut::new(), body_max }
    }

    /// Takes the next piece. The one before must have been used up: [`Assembler::next`] said that
    /// it has no more frames.
    pub(crate) fn push(&mut self, piece: Bytes) {
        debug_assert!(self.piece.is_empty(), "the piece before is used up");
        self.piece = piece;
    }

    /// Whether the pieces end between two frames.
    pub(crate) fn is_between(&self) -> bool {
        self.piece.is_empty() && self.partial.is_empty()
    }

    /// The next frame, or none until there are more pieces.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, Malformed> {
        if self.partial.is_empty() {
            let Some((kind, length)) = self.head(&self.piece)? else {
                self.partial.extend_from_slice(&self.piece);
                self.piece.clear();
                return Ok(None);
            };
            if self.piece.len() - FRAME_HEAD_BYTES >= length {
                self.piece.advance(FRAME_HEAD_BYTES);
                return Ok(Some(Frame { kind, body: self.piece.split_to(length) }));
            }
        }
        if self.partial.len() < FRAME_HEAD_BYTES {
            self.fill(FRAME_HEAD_BYTES);
        }
        let Some((kind, length)) = self.head(&self.partial)? else { return Ok(None) };
        let whole = FRAME_HEAD_BYTES + length;
        self.fill(whole);
        if self.partial.len() < whole {
            return Ok(None);
        }
        let mut body = self.partial.split().freeze();
        body.advance(FRAME_HEAD_BYTES);
        Ok(Some(Frame { kind, body }))
    }

    fn fill(&mut self, target: usize) {
        let count = target.saturating_sub(self.partial.len()).min(self.piece.len());
        self.partial.extend_from_slice(&self.piece[..count]);
        self.piece.advance(count);
    }

    fn head(&self, bytes: &[u8]) -> Result<Option<(Kind, usize)>, Malformed> {
        let Some((head, _)) = bytes.split_first_chunk::<FRAME_HEAD_BYTES>() else {
            return Ok(None);
        };
        let [a, b, c, d, kind] = *head;
        let kind = Kind::from_byte(kind).ok_or(Malformed::Unknown { what: "a frame" })?;
        let limit = self.body_max;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > limit {
            return Err(Malformed::Long { what: "a frame", bytes: length, limit });
        }
        Ok(Some((kind, length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{put_credit, put_message};
    use proptest::prelude::*;

    /// All frames of pieces that come one after the other.
    fn frames(pieces: &[&[u8]], body_max: usize) -> Result<Vec<Frame>, Malformed> {
        let mut assembler = Assembler::new(body_max);
        let mut frames = Vec::new();
        for piece in pieces {
            assembler.push(Bytes::copy_from_slice(piece));
            while let Some(frame) = assembler.next()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_body_comes() {
        let long = Malformed::Long { what: "a frame", bytes: 0xffff_ffff, limit: 64 };
        assert_eq!(frames(&[&[0xff, 0xff, 0xff, 0xff, 2]], 64), Err(long.clone()));
        assert_eq!(frames(&[&[0xff], &[0xff, 0xff, 0xff], &[2]], 64), Err(long));
    }

    #[test]
    fn a_kind_that_means_nothing_is_refused() {
        let unknown = Err(Malformed::Unknown { what: "a frame" });
        assert_eq!(frames(&[&[0, 0, 0, 0, 0]], 64), unknown);
        assert_eq!(frames(&[b"GET / HTTP/1.1\r\n"], usize::MAX), unknown);
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            texts in prop::collection::vec("[a-z]{0,40}", 0..8),
            cuts in prop::collection::vec(1..30_usize, 1..20),
        ) {
            let mut bytes = BytesMut::new();
            for text in &texts {
                put_message(&mut bytes, text, 100).expect("within the limit");
                put_credit(&mut bytes, 7);
            }
            let whole = frames(&[&bytes], 100).expect("frames");
            prop_assert_eq!(whole.len(), texts.len() * 2);
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            prop_assert_eq!(frames(&pieces, 100).expect("frames"), whole.clone());
            for (frame, text) in whole.into_iter().step_by(2).zip(texts) {
                prop_assert_eq!(frame.message::<String>().expect("a message"), text);
            }
        }
    }
}

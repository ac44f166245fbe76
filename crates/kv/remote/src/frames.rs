//! Bytes cut into frames, and put together again: what one side sends as a whole may be longer than a
//! message of `rpc` can be.

use bytes::{Bytes, BytesMut};
use ratatosk_rpc::Error;

use crate::proto::Frame;

/// Bytes of a frame: many times what it costs to send one, and few enough that another stream of the
/// connection waits for it a few milliseconds at most.
pub(crate) const FRAME_BYTES: usize = 256 << 10;

/// Puts frames together.
#[derive(Debug)]
pub(crate) struct Joiner {
    parts: BytesMut,
    bytes_max: usize,
}

/// The frames of some bytes.
pub(crate) fn cut(mut data: Bytes) -> impl Iterator<Item = Frame> {
    let mut is_first = true;
    std::iter::from_fn(move || {
        if data.is_empty() && !is_first {
            return None;
        }
        is_first = false;
        let part = data.split_to(data.len().min(FRAME_BYTES));
        Some(Frame { hello: None, data: part, goes_on: !data.is_empty() })
    })
}

impl Joiner {
    /// Takes so many bytes at a time.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { parts: BytesMut::new(), bytes_max }
    }

    /// The bytes that are whole with this frame, if they are.
    ///
    /// # Errors
    /// When they are too many, or the frame is one that opens.
    pub(crate) fn take(&mut self, frame: Frame) -> Result<Option<Bytes>, Error> {
        let Frame { hello, data, goes_on } = frame;
        if hello.is_some() {
            return Err(refused("a second hello"));
        }
        if self.parts.len() + data.len() > self.bytes_max {
            return Err(refused("more bytes than may be sent together"));
        }
        if self.parts.is_empty() && !goes_on {
            return Ok(Some(data));
        }
        self.parts.extend_from_slice(&data);
        if goes_on {
            return Ok(None);
        }
        Ok(Some(self.parts.split().freeze()))
    }
}

/// The peer broke the rules.
pub(crate) fn refused(why: &str) -> Error {
    Error::Refused { why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_joined_to_the_same() {
        for length in [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES] {
            let data: Bytes = (0..=250).cycle().take(length).collect();
            let mut joiner = Joiner::new(4 * FRAME_BYTES);
            for _ in 0..2 {
                let frames: Vec<Frame> = cut(data.clone()).collect();
                assert!(frames.iter().all(|frame| frame.data.len() <= FRAME_BYTES));
                let joined: Vec<Bytes> = frames
                    .into_iter()
                    .filter_map(|frame| joiner.take(frame).expect("within its bounds"))
                    .collect();
                assert_eq!(joined, std::slice::from_ref(&data), "{length} bytes");
            }
        }
    }

    #[test]
    fn what_goes_on_for_too_long_is_refused() {
        let mut joiner = Joiner::new(2 * FRAME_BYTES);
        let part = Frame { hello: None, data: vec![7; FRAME_BYTES].into(), goes_on: true };
        assert_eq!(joiner.take(part.clone()), Ok(None));
        assert_eq!(joiner.take(part.clone()), Ok(None));
        assert!(joiner.take(part).is_err());
    }
}

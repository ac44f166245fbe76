//! Bytes cut into frames, and put together again: a message may be longer than a frame.

use bytes::{Bytes, BytesMut};

use crate::proto::Frame;

/// Bytes of a frame: many times what it costs to send one, and few enough that another stream of the
/// connection waits for it a few milliseconds at most.
pub(crate) const FRAME_BYTES: usize = 256 << 10;

/// What comes together is longer than may be.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Puts frames together.
#[derive(Debug)]
pub(crate) struct Joiner {
    parts: BytesMut,
    bytes_max: usize,
}

/// The frames of some bytes, one at least.
pub(crate) fn cut(mut data: Bytes) -> impl Iterator<Item = Frame> {
    let mut is_over = false;
    std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        let part = data.split_to(data.len().min(FRAME_BYTES));
        is_over = data.is_empty();
        Some(Frame { data: part, goes_on: !is_over })
    })
}

impl Joiner {
    /// Takes so many bytes at a time.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { parts: BytesMut::new(), bytes_max }
    }

    /// The bytes that are whole with this frame, if they are.
    pub(crate) fn take(&mut self, frame: Frame) -> Result<Option<Bytes>, TooLong> {
        let Frame { data, goes_on } = frame;
        if self.parts.len() + data.len() > self.bytes_max {
            return Err(TooLong);
        }
        if self.parts.is_empty() && !goes_on {
            return Ok(Some(data));
        }
        self.parts.extend_from_slice(&data);
        Ok((!goes_on).then(|| self.parts.split().freeze()))
    }
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
                let joined = frames.into_iter().filter_map(|frame| joiner.take(frame).unwrap());
                assert_eq!(joined.collect::<Vec<_>>(), std::slice::from_ref(&data));
            }
        }
    }

    #[test]
    fn what_goes_on_for_too_long_is_refused() {
        let mut joiner = Joiner::new(10);
        let part = Frame { data: vec![7; 5].into(), goes_on: true };
        assert_eq!(joiner.take(part.clone()), Ok(None));
        assert_eq!(joiner.take(part.clone()), Ok(None));
        assert_eq!(joiner.take(part), Err(TooLong));
    }
}

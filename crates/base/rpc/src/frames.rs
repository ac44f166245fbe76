//! Bytes cut into parts, each for a frame, and put together again: what one side of a stream sends as a
//! whole may be longer than a message should be.

use bytes::{Bytes, BytesMut};

/// Bytes of a part: many times what it costs to send one, and few enough that another stream of the
/// connection waits for it a few milliseconds at most.
pub const FRAME_BYTES: usize = 256 << 10;

/// A part of what belongs together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its bytes, at most [`FRAME_BYTES`] where [`cut`] has made it.
    pub data: Bytes,
    /// Others follow.
    pub goes_on: bool,
}

/// What comes together is longer than may be.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more bytes than may be sent together")]
pub struct TooLong;

/// Puts parts together, which come in their order.
#[derive(Debug)]
pub struct Joiner {
    parts: BytesMut,
    bytes_max: usize,
}

/// The parts of some bytes, one at least.
pub fn cut(mut data: Bytes) -> impl Iterator<Item = Part> {
    let mut is_over = false;
    std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        let part = data.split_to(data.len().min(FRAME_BYTES));
        is_over = data.is_empty();
        Some(Part { data: part, goes_on: !is_over })
    })
}

impl Joiner {
    /// Puts so many bytes together at most.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { parts: BytesMut::new(), bytes_max }
    }

    /// The bytes that are whole with this part, if they are.
    ///
    /// # Errors
    /// [`TooLong`]: the stream is to be given up, for its next part would be taken for a first one.
    pub fn take(&mut self, part: Part) -> Result<Option<Bytes>, TooLong> {
        let Part { data, goes_on } = part;
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
                let parts: Vec<Part> = cut(data.clone()).collect();
                assert!(parts.iter().all(|part| part.data.len() <= FRAME_BYTES));
                let joined = parts.into_iter().filter_map(|part| joiner.take(part).expect("short"));
                assert_eq!(joined.collect::<Vec<_>>(), std::slice::from_ref(&data));
            }
        }
    }

    #[test]
    fn what_goes_on_for_too_long_is_refused() {
        let mut joiner = Joiner::new(10);
        let part = Part { data: vec![7; 5].into(), goes_on: true };
        assert_eq!(joiner.take(part.clone()), Ok(None));
        assert_eq!(joiner.take(part.clone()), Ok(None));
        assert_eq!(joiner.take(part), Err(TooLong));
    }
}

//! What a connection has yet to write.
//!
//! Frames are appended to one buffer; a payload that is shared goes in as a reference, and from
//! then on the rest is kept as segments, to be written with one gathering write. What was written
//! is passed by a cursor, never moved. An empty output holds no memory. What was not written yet can be taken
//! back, and others follow in its place, as long as nothing of it was.
//!
//! `written ≤ segment_bytes + tail.len()`; `segment_bytes` is the sum of all segments and
//! `shared_bytes` that of the shared ones.

use std::{collections::VecDeque, io::IoSlice};

use bytes::Bytes;

/// Bytes to be written, in order.
#[derive(Debug, Default)]
pub struct Output {
    /// Frames behind all segments.
    tail: Vec<u8>,
    /// How much of the first segment, or of the tail if there is none, is written.
    written: usize,
    /// What goes before the tail; `None` while nothing is shared: 8 bytes in every connection.
    segments: Option<Box<Segments>>,
    /// What the tail held when it was last written whole, as far as it is foreseen.
    expected: u16,
    /// A part was written since it was last empty: what is next may be the middle of a frame.
    is_begun: bool,
    /// See [`Output::mark`].
    is_marked: bool,
}

/// What an output was that was taken back.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum TakenBack {
    /// Whole frames.
    Whole,
    /// Whole frames, the marked one among them.
    Marked,
    /// The rest of something whose beginning was written: nothing that follows would be understood.
    Begun,
}

/// More than this is not foreseen.
const EXPECTED_MAX: u16 = 32 * 1024;

/// The parts before the tail.
#[derive(Debug, Default)]
struct Segments {
    queue: VecDeque<Segment>,
    /// How many bytes they are.
    segment_bytes: usize,
    /// How many of them are shared payloads.
    shared_bytes: usize,
}

/// A part of an output.
#[derive(Debug)]
pub enum Segment {
    /// Frames that were copied in.
    Copied(Vec<u8>),
    /// A payload that others send too.
    Shared(Bytes),
}

impl Segment {
    fn as_slice(&self) -> &[u8] {
        match self {
            Segment::Copied(bytes) => bytes,
            Segment::Shared(bytes) => bytes,
        }
    }
}

impl Output {
    /// How many bytes are yet to be written.
    #[inline]
    pub fn len(&self) -> usize {
        let before = self.segments.as_ref().map_or(0, |segments| segments.segment_bytes);
        before + self.tail.len() - self.written
    }

    /// Whether everything is written.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets `encode` append a frame.
    #[inline]
    pub fn append<R>(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let before = self.tail.len();
        if self.tail.capacity() == 0 {
            // A connection that is written to at all is mostly written to more than once a tick,
            // and about as much as in the last one.
            self.tail.reserve(usize::from(self.expected).max(512));
        }
        let result = encode(&mut self.tail);
        debug_assert!(self.tail.len() >= before, "encoding appends");
        result
    }

    /// Appends a payload without copying it.
    pub fn append_shared(&mut self, payload: Bytes) {
        let segments = self.segments.get_or_insert_with(Box::default);
        if !self.tail.is_empty() {
            segments.segment_bytes += self.tail.len();
            segments.queue.push_back(Segment::Copied(std::mem::take(&mut self.tail)));
        }
        segments.segment_bytes += payload.len();
        segments.shared_bytes += payload.len();
        segments.queue.push_back(Segment::Shared(payload));
    }

    /// The unwritten bytes, if they lie in one piece: the usual case.
    #[inline]
    pub fn contiguous(&self) -> Option<&[u8]> {
        if self.segments.is_some() {
            return None;
        }
        Some(&self.tail[self.written..])
    }

    /// The unwritten bytes as pieces for a gathering write, as many as `slices` takes; returns
    /// how many were filled.
    pub fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let segments = self.segments.iter().flat_map(|segments| segments.queue.iter());
        let pieces = segments.map(Segment::as_slice).chain([self.tail.as_slice()]);
        let mut skip = self.written;
        let mut filled = 0;
        for piece in pieces {
            let piece = &piece[skip.min(piece.len())..];
            skip = 0;
            if piece.is_empty() {
                continue;
            }
            let Some(slice) = slices.get_mut(filled) else { break };
            *slice = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    /// Notes that the next `count` bytes are written.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "{count} bytes written of {}", self.len());
        self.written += count;
        if let Some(segments) = &mut self.segments {
            while let Some(front) = segments.queue.front() {
                let length = front.as_slice().len();
                if self.written < length {
                    break;
                }
                self.written -= length;
                segments.segment_bytes -= length;
                if let Some(Segment::Shared(payload)) = segments.queue.pop_front() {
                    segments.shared_bytes -= payload.len();
                }
            }
            if segments.queue.is_empty() {
                self.segments = None;
            }
        }
        if self.is_empty() {
            let expected = u16::try_from(self.tail.len()).unwrap_or(EXPECTED_MAX);
            self.clear();
            self.expected = expected.min(EXPECTED_MAX);
        } else {
            self.is_begun |= count > 0;
        }
    }

    /// Remembers the last frame until all is written.
    pub(crate) fn mark(&mut self) {
        self.is_marked = true;
    }

    /// Drops everything, and says what it was.
    pub fn take_back(&mut self) -> TakenBack {
        let was = match (self.is_begun, self.is_marked) {
            (true, _) => TakenBack::Begun,
            (false, true) => TakenBack::Marked,
            (false, false) => TakenBack::Whole,
        };
        self.clear();
        was
    }

    /// Drops everything and gives the memory back.
    pub fn clear(&mut self) {
        *self = Output::default();
    }

    /// The memory that it holds alone. Shared payloads are charged where they came in.
    pub fn memory_bytes(&self) -> usize {
        let Some(segments) = &self.segments else { return self.tail.capacity() };
        let copied = segments.segment_bytes - segments.shared_bytes;
        let table = size_of::<Segments>() + segments.queue.capacity() * size_of::<Segment>();
        self.tail.capacity() + copied + table
    }

    /// How many bytes of shared payloads it keeps alive, with whoever else has them.
    pub fn shared_bytes(&self) -> usize {
        self.segments.as_ref().map_or(0, |segments| segments.shared_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(output: &mut Output, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !output.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let filled = output.gather(&mut slices);
            let bytes: Vec<u8> =
                slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
            assert!(!bytes.is_empty());
            let taken = step.min(bytes.len());
            all.extend_from_slice(&bytes[..taken]);
            output.advance(taken);
        }
        all
    }

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came_at_every_write_size() {
        for step in [1, 2, 3, 5, 7, 64, 1000] {
            let mut output = Output::default();
            let mut expected = Vec::new();
            for number in 0..20_u8 {
                output.append(|bytes| bytes.extend_from_slice(&[number; 3]));
                expected.extend_from_slice(&[number; 3]);
                if number % 3 == 0 {
                    output.append_shared(Bytes::from(vec![number; 10]));
                    expected.extend_from_slice(&[number; 10]);
                }
            }
            assert_eq!(output.len(), expected.len());
            assert_eq!(drain(&mut output, step), expected, "writing {step} at a time");
            assert_eq!(output.memory_bytes(), 0);
        }
    }

    /// MEM-001: a payload that thousands are to get is none of their memory.
    #[test]
    fn shared_payloads_are_told_apart_from_what_the_output_holds_alone() {
        let mut output = Output::default();
        output.append(|bytes| bytes.extend_from_slice(b"head"));
        output.append_shared(Bytes::from(vec![1; 100_000]));
        output.append(|bytes| bytes.extend_from_slice(b"head"));
        output.append_shared(Bytes::from(vec![2; 50_000]));
        assert_eq!(output.shared_bytes(), 150_000);
        assert!(output.memory_bytes() < 2_000, "{}", output.memory_bytes());
        output.advance(100_004);
        assert_eq!(output.shared_bytes(), 50_000);
        output.advance(output.len());
        assert_eq!((output.shared_bytes(), output.memory_bytes()), (0, 0));
    }

    #[test]
    fn what_is_taken_back_says_whether_anything_of_it_was_written() {
        let mut output = Output::default();
        output.append(|bytes| bytes.extend_from_slice(b"first"));
        output.mark();
        assert_eq!((output.take_back(), output.len()), (TakenBack::Marked, 0));
        output.append(|bytes| bytes.extend_from_slice(b"next"));
        assert_eq!((output.take_back(), output.len()), (TakenBack::Whole, 0));
        for (is_shared, written) in [(false, 1), (true, 1), (true, 4), (true, 6)] {
            output.append(|bytes| bytes.extend_from_slice(b"head"));
            output.mark();
            if is_shared {
                output.append_shared(Bytes::from_static(b"body"));
            }
            output.advance(written);
            assert_eq!((output.take_back(), output.len()), (TakenBack::Begun, 0), "{written}");
            output.append(|bytes| bytes.extend_from_slice(b"marked and written"));
            output.mark();
            output.advance(output.len());
            assert_eq!(output.take_back(), TakenBack::Whole, "that was long ago");
        }
    }

    #[test]
    fn an_output_without_shared_payloads_is_contiguous_behind_its_cursor() {
        let mut output = Output::default();
        output.append(|bytes| bytes.extend_from_slice(b"abcdef"));
        output.advance(2);
        assert_eq!(output.contiguous(), Some(&b"cdef"[..]));
        output.append_shared(Bytes::from_static(b"xyz"));
        assert_eq!(output.contiguous(), None);
        assert_eq!(drain(&mut output, 4), b"cdefxyz");
    }
}

//! What every payload carries: run, publisher, sequence number, time of sending.
//!
//! The first 24 bytes of a payload, big-endian; the rest is filler. The run number tells our messages
//! from those that another client or an earlier run left in the broker. In an open loop the time is
//! the *intended* time of sending, so a stalled broker cannot hide its stall.

/// Bytes that a stamp takes; no payload is smaller.
pub(crate) const STAMP_SIZE: usize = 24;

/// Where the sequence number lies inside the payload.
pub(crate) const SEQUENCE_OFFSET: usize = 8;

/// Where the time lies inside the payload.
pub(crate) const TIME_OFFSET: usize = 16;

/// The identity of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which run sent it.
    pub(crate) run: u32,
    /// Which publisher of the run, counted from 0.
    pub(crate) publisher: u32,
    /// Which message of the publisher, counted from 0 without gaps.
    pub(crate) sequence: u64,
    /// Monotonic nanoseconds of the (intended) sending.
    pub(crate) sent_ns: u64,
}

impl Stamp {
    /// Reads the stamp at the head of `payload`; `None` if it is too short to hold one.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let head = payload.first_chunk::<STAMP_SIZE>()?;
        let (run, rest) = head.split_first_chunk::<4>()?;
        let (publisher, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (sent, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            run: u32::from_be_bytes(*run),
            publisher: u32::from_be_bytes(*publisher),
            sequence: u64::from_be_bytes(*sequence),
            sent_ns: u64::from_be_bytes(*sent),
        })
    }

    /// The bytes that `decode` reads.
    pub(crate) fn encode(self) -> [u8; STAMP_SIZE] {
        let mut bytes = [0; STAMP_SIZE];
        bytes[..4].copy_from_slice(&self.run.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.publisher.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[16..].copy_from_slice(&self.sent_ns.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_survives_its_bytes() {
        let stamp = Stamp { run: 7, publisher: 49, sequence: u64::MAX - 1, sent_ns: 123_456_789 };
        let mut payload = stamp.encode().to_vec();
        payload.extend_from_slice(b"filler");
        assert_eq!(Stamp::decode(&payload), Some(stamp));
        assert_eq!(payload[SEQUENCE_OFFSET..TIME_OFFSET], (u64::MAX - 1).to_be_bytes());
        assert_eq!(payload[TIME_OFFSET..STAMP_SIZE], 123_456_789_u64.to_be_bytes());
    }

    #[test]
    fn payload_shorter_than_a_stamp_has_none() {
        assert_eq!(Stamp::decode(&[0; STAMP_SIZE - 1]), None);
        assert_eq!(Stamp::decode(&[]), None);
    }
}

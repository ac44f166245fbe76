//! What tells two changes of a topic apart: whoever makes a change puts a stamp on it.
//!
//! The stamp of a message is stored with it. So a removal can say which message it means, and a node
//! recognises its own changes where the log brings them.

use std::num::NonZeroU64;

use ratatosk_engine::wire::{Malformed, Parser};

/// The name of one change of one topic. Those of a process differ; two of different processes are the same
/// with a probability of 2⁻⁶⁴, which matters only within a topic.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stamp(NonZeroU64);

impl Stamp {
    /// How long it is.
    pub(crate) const BYTES: usize = 8;

    /// That of a process's change with a number. `origin` is random, another one in each process.
    pub(crate) fn of(origin: u64, number: u64) -> Self {
        // SplitMix64: no two numbers have the same.
        let mut mixed = origin.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Stamp(NonZeroU64::new(mixed ^ (mixed >> 31)).unwrap_or(NonZeroU64::MIN))
    }

    /// Appends its bytes.
    pub(crate) fn put(self, into: &mut Vec<u8>) {
        Stamp::put_or_none(Some(self), into);
    }

    /// Appends its bytes, or as many zeros.
    pub(crate) fn put_or_none(stamp: Option<Self>, into: &mut Vec<u8>) {
        let number = stamp.map_or(0, |Stamp(number)| number.get());
        into.extend_from_slice(&number.to_le_bytes());
    }

    /// Reads what [`put`](Self::put) wrote.
    pub(crate) fn take(parser: &mut Parser<'_>) -> Result<Self, Malformed> {
        Stamp::take_or_none(parser)?.ok_or(Malformed)
    }

    /// Reads what [`put_or_none`](Self::put_or_none) wrote.
    pub(crate) fn take_or_none(parser: &mut Parser<'_>) -> Result<Option<Self>, Malformed> {
        let bytes = parser.take_exactly(Self::BYTES)?.try_into().map_err(|_| Malformed)?;
        Ok(NonZeroU64::new(u64::from_le_bytes(bytes)).map(Stamp))
    }
}

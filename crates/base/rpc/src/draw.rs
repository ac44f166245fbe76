//! Random numbers for choices that nobody attacks: which server, how long to wait.

use std::sync::atomic::{AtomicU64, Ordering};

/// A source of draws that threads share without a lock.
#[derive(Debug)]
pub(crate) struct Draws {
    state: AtomicU64,
}

impl Draws {
    /// The draws that follow from `seed`.
    pub(crate) const fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }

    /// The next draw (SplitMix64: a counter, mixed).
    pub(crate) fn next(&self) -> u64 {
        mix(self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed))
    }
}

/// Spreads a number over all 64 bits.
pub(crate) const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

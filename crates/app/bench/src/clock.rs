//! The monotonic clock in nanoseconds.
//!
//! Read through the vDSO and not through `Instant`, because stamps travel in payloads as plain numbers
//! and a drain may read what a fill in another process wrote: the zero is that of the machine's boot.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of a second.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// Nanoseconds since the machine started.
#[inline]
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * SECOND_NS + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Nanoseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "for display and rates")]
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

//! Bandwidth of one connection: how many bytes a second pass in one direction. MQTT-014
//!
//! A bucket holds one second's worth. It is looked at before a socket is read or written, and the
//! bytes that passed are taken out of it; when it is empty, the connection is filed with the
//! shard's timer, so no connection has a timer of its own. Time is an argument.
//!
//! Bytes that passed by `t` seconds ≤ `rate × (t + 1)`.

use std::time::Duration;

use ratatosk_clock::Instant;
use ratatosk_contract::TenantSettings;

/// What a full bucket holds, in time.
const BURST: Duration = Duration::from_secs(1);
/// An empty bucket is waited for until it holds so much, so that a connection is not looked at
/// for single bytes.
const REFILL: Duration = Duration::from_millis(100);

/// The bandwidth of a connection in both directions.
#[derive(Debug)]
pub(crate) struct Shapers {
    pub(crate) inbound: Option<Shaper>,
    pub(crate) outbound: Option<Shaper>,
    /// Nothing is written before.
    pub(crate) write_at: Option<Instant>,
}

impl Shapers {
    /// As the tenant wishes; `None` if nothing is limited.
    pub(crate) fn new(now: Instant, settings: &TenantSettings) -> Option<Box<Self>> {
        let shaper = |rate: u64| (rate > 0).then(|| Shaper::new(now, rate));
        let inbound = shaper(settings.in_bound_band_width);
        let outbound = shaper(settings.out_bound_band_width);
        (inbound.is_some() || outbound.is_some())
            .then(|| Box::new(Shapers { inbound, outbound, write_at: None }))
    }
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Shaper {
    rate: u64,
    /// Time at which the bucket would be full.
    full_at: Instant,
}

impl Shaper {
    /// A full bucket that fills with `rate` bytes a second.
    pub(crate) fn new(now: Instant, rate: u64) -> Self {
        debug_assert!(rate > 0, "a limit of nothing is no limit");
        Shaper { rate: rate.max(1), full_at: now }
    }

    /// How many bytes may pass now, or when some may.
    pub(crate) fn allowance(&self, now: Instant) -> Result<usize, Instant> {
        // At the lowest rates one byte takes longer than a refill.
        let byte = Duration::from_nanos(1_000_000_000_u64.div_ceil(self.rate));
        let refill = REFILL.max(byte).min(BURST);
        let room = BURST.saturating_sub(self.full_at.since(now));
        if room < refill {
            return Err(self.full_at + refill - BURST);
        }
        let bytes = u128::from(self.rate) * room.as_nanos() / 1_000_000_000;
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Takes note of bytes that passed.
    pub(crate) fn passed(&mut self, now: Instant, bytes: usize) {
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.full_at = self.full_at.max(now) + cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets as much pass as may, at every millisecond; returns how much that is.
    fn pass(shaper: &mut Shaper, from: Instant, span_ms: u64, at_most: usize) -> usize {
        let mut passed = 0;
        for step in 0..span_ms {
            let now = from + Duration::from_millis(step);
            if let Ok(allowed) = shaper.allowance(now) {
                assert!(allowed > 0, "what may pass is something");
                let bytes = allowed.min(at_most);
                shaper.passed(now, bytes);
                passed += bytes;
            }
        }
        passed
    }

    #[test]
    fn a_second_s_worth_passes_at_once_and_then_the_rate() {
        for rate in [1_u64, 7, 1_000, 123_456, 1_000_000_000] {
            let start = Instant::from_millis(77_777);
            let mut shaper = Shaper::new(start, rate);
            let passed = pass(&mut shaper, start, 20_000, usize::MAX) as u64;
            assert!(passed <= rate * 21, "{passed} bytes at {rate} in 20 s");
            assert!(passed >= rate * 19, "{passed} bytes at {rate} in 20 s");
        }
    }

    #[test]
    fn who_is_refused_is_told_when_to_come_again() {
        let start = Instant::from_millis(10_000);
        let mut shaper = Shaper::new(start, 1_000);
        assert_eq!(shaper.allowance(start), Ok(1_000));
        shaper.passed(start, 1_000);
        let at = shaper.allowance(start).expect_err("it is empty");
        assert_eq!(at, start + Duration::from_millis(100));
        assert_eq!(shaper.allowance(at), Ok(100));
    }

    #[test]
    fn more_than_was_allowed_is_waited_for() {
        let start = Instant::from_millis(10_000);
        let mut shaper = Shaper::new(start, 1_000);
        shaper.passed(start, 5_000);
        let at = shaper.allowance(start).expect_err("in debt");
        assert_eq!(at, start + Duration::from_millis(4_100));
    }
}

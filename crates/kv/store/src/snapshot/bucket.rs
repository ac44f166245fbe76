//! How many bytes may leave: so many a second, and a little at once.

use std::time::Duration;

use ratatosk_clock::Instant;

/// See the module. What is sent may be more than there is: then the next one waits for longer.
#[derive(Debug)]
pub(super) struct Bucket {
    bytes_per_second: u64,
    burst_bytes: u64,
    /// Below 0 while more was sent than may be.
    bytes: i128,
    /// Up to when it was filled.
    filled: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(now: Instant, bytes_per_second: u64, burst_bytes: u64) -> Self {
        let bytes_per_second = bytes_per_second.max(1);
        Self { bytes_per_second, burst_bytes, bytes: burst_bytes.into(), filled: now }
    }

    /// Whether something may be sent.
    pub(super) fn is_open(&mut self, now: Instant) -> bool {
        let micros = now.since(self.filled).as_micros();
        let more = micros.saturating_mul(self.bytes_per_second.into()) / 1_000_000;
        // What is too short to give a byte counts the next time.
        if more > 0 {
            self.filled = now;
            let more = i128::try_from(more).unwrap_or(i128::MAX);
            self.bytes = self.bytes.saturating_add(more).min(self.burst_bytes.into());
        }
        self.bytes > 0
    }

    /// So much was sent.
    pub(super) fn take(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes.into());
    }

    /// How long until something may be sent, after [`is_open`](Self::is_open).
    pub(super) fn wait(&self) -> Duration {
        let missing = u128::try_from(1 - self.bytes).unwrap_or(0);
        let micros = missing.saturating_mul(1_000_000).div_ceil(self.bytes_per_second.into());
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_no_more_leaves_than_may() {
        let begun = Instant::from_millis(1_000);
        let mut bucket = Bucket::new(begun, 1_000, 100);
        let (mut now, mut sent) = (begun, 0);
        while now.since(begun) < Duration::from_secs(10) {
            match bucket.is_open(now) {
                true => {
                    bucket.take(70);
                    sent += 70;
                }
                false => now = now + bucket.wait(),
            }
        }
        assert!((9_900..=10_170).contains(&sent), "{sent} bytes in 10 seconds");
    }

    #[test]
    fn what_was_not_used_is_not_kept_for_ever() {
        let begun = Instant::from_millis(1_000);
        let mut bucket = Bucket::new(begun, 1_000, 100);
        let later = begun + Duration::from_secs(3_600);
        assert!(bucket.is_open(later));
        bucket.take(100);
        assert!(!bucket.is_open(later));
        assert!(bucket.is_open(later + bucket.wait()));
    }
}

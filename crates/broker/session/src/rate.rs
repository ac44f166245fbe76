//! A token bucket: how many messages a connection may publish in a second.
//!
//! Holds one second's worth, so a burst of that size passes; time is an argument.

use std::time::Duration;

use ratatosk_clock::Instant;

/// A bucket of tokens that fills at a fixed rate.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Time at which the bucket would be full.
    full_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(now: Instant) -> Self {
        Bucket { full_at: now }
    }

    /// Takes one token at `rate` a second, or says when there will be one.
    pub(crate) fn take(&mut self, now: Instant, rate: u32) -> Result<(), Instant> {
        let full_at = self.full_at.max(now) + cost(rate);
        let ahead = full_at.since(now);
        if ahead > Duration::from_secs(1) {
            return Err(full_at - Duration::from_secs(1));
        }
        self.full_at = full_at;
        Ok(())
    }

    /// Takes back what was taken for a message that is brought again.
    pub(crate) fn give_back(&mut self, rate: u32) {
        self.full_at = self.full_at - cost(rate);
    }
}

fn cost(rate: u32) -> Duration {
    Duration::from_nanos(1_000_000_000 / u64::from(rate.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let now = Instant::from_millis(5_000);
        let mut bucket = Bucket::new(now);
        for _ in 0..1000 {
            assert_eq!(bucket.take(now, 1), Ok(()));
            bucket.give_back(1);
        }
    }

    #[test]
    fn a_bucket_lets_a_second_s_worth_through_and_then_the_rate() {
        let mut now = Instant::from_millis(5_000);
        let mut bucket = Bucket::new(now);
        let burst = (0..1000).take_while(|_| bucket.take(now, 100).is_ok()).count();
        assert_eq!(burst, 100);
        let again = bucket.take(now, 100).expect_err("empty");
        assert_eq!(again, now + Duration::from_millis(10));
        let mut taken = 0;
        for _ in 0..1000 {
            now = now + Duration::from_millis(1);
            taken += usize::from(bucket.take(now, 100).is_ok());
        }
        assert_eq!(taken, 100);
    }
}

//! Numbers from a seed: splitmix64.

use std::time::Duration;

/// A generator; each client has its own, so that none depends on the turns of another.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// The stream of one seed for one purpose.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        let mut dice = Dice(seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    /// Whether something that happens once in `count` times happens now.
    pub(crate) fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// A span of at least `least` and less than `most`, to the microsecond.
    pub(crate) fn span(&mut self, least: Duration, most: Duration) -> Duration {
        let width = most.saturating_sub(least).as_micros();
        let width = usize::try_from(width).unwrap_or(usize::MAX);
        least + Duration::from_micros(self.below(width) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_and_purpose_decide() {
        let numbers = |seed, purpose| {
            let mut dice = Dice::new(seed, purpose);
            (0..20).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1, 2), numbers(1, 2));
        assert_ne!(numbers(1, 2), numbers(1, 3));
        assert_ne!(numbers(1, 2), numbers(2, 2));
    }

    #[test]
    fn a_span_stays_between_its_ends() {
        let (least, most) = (Duration::from_millis(5), Duration::from_millis(7));
        let mut dice = Dice::new(1, 1);
        assert!((0..100).all(|_| (least..most).contains(&dice.span(least, most))));
        assert_eq!(dice.span(least, least), least);
    }
}

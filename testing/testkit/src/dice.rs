//! Numbers from a seed: splitmix64.
//!
//! A seed gives the same numbers for ever, for failures are known by theirs. Each purpose has a stream
//! of its own, so that more draws for one leave the others as they were.

use std::time::Duration;

/// A generator.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The stream of one seed for one purpose.
    #[must_use]
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut dice = Dice(seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        dice.draw();
        dice
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.draw() % bound.max(1) as u64).unwrap_or(0)
    }

    /// Whether something that happens once in `count` times happens now.
    pub fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// One of them; `None` if there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// A span of at least `least` and less than `most`, to the microsecond.
    pub fn span(&mut self, least: Duration, most: Duration) -> Duration {
        let width = most.saturating_sub(least).as_micros();
        let width = usize::try_from(width).unwrap_or(usize::MAX);
        least + Duration::from_micros(self.below(width) as u64)
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: u64, purpose: u64) -> Vec<usize> {
        let mut dice = Dice::new(seed, purpose);
        (0..6).map(|_| dice.below(1000)).collect()
    }

    #[test]
    fn seed_and_purpose_decide() {
        assert_eq!(numbers(1, 2), numbers(1, 2));
        assert_ne!(numbers(1, 2), numbers(1, 3));
        assert_ne!(numbers(1, 2), numbers(2, 2));
    }

    #[test]
    fn a_seed_gives_the_same_numbers_for_ever() {
        assert_eq!(numbers(1, 2), [911, 792, 121, 694, 620, 95]);
        assert_eq!(numbers(7, 0), [804, 346, 203, 674, 305, 798]);
    }

    #[test]
    fn one_is_picked_where_there_is_one() {
        let mut dice = Dice::new(1, 1);
        assert!((0..100).all(|_| dice.pick(&[5, 6]).is_some_and(|picked| [5, 6].contains(picked))));
        assert_eq!(dice.pick::<u8>(&[]), None);
    }

    #[test]
    fn a_span_stays_between_its_ends() {
        let (least, most) = (Duration::from_millis(5), Duration::from_millis(7));
        let mut dice = Dice::new(1, 1);
        assert!((0..100).all(|_| (least..most).contains(&dice.span(least, most))));
        assert_eq!(dice.span(least, least), least);
    }
}

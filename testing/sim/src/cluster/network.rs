//! The network: what is sent may come late, in another order, twice, or never, each way by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use ratatosk_testkit::dice::Dice;

/// See the module.
#[derive(Debug)]
pub(super) struct Network {
    dice: Dice,
    /// From whom nothing comes to whom.
    cut: BTreeSet<(u64, u64)>,
    /// Of so many packets one is lost, and one comes twice.
    rate: usize,
}

impl Network {
    pub(super) fn new(dice: Dice) -> Self {
        Network { dice, cut: BTreeSet::new(), rate: 0 }
    }

    /// Nothing comes from these to those.
    pub(super) fn cut(&mut self, from: &[u64], to: &[u64]) {
        self.cut.extend(from.iter().flat_map(|from| to.iter().map(|to| (*from, *to))));
    }

    /// One packet in so many is lost; none if that is 0.
    pub(super) fn lose(&mut self, rate: usize) {
        self.rate = rate;
    }

    /// Everything comes again.
    pub(super) fn mend(&mut self) {
        self.cut.clear();
        self.rate = 0;
    }

    /// When a packet comes, once for each time that it does.
    pub(super) fn carry(&mut self, from: u64, to: u64, is_faulty: bool) -> Vec<Duration> {
        let is_lost = self.rate > 0 && self.dice.once_in(self.rate);
        if is_lost || self.cut.contains(&(from, to)) {
            return Vec::new();
        }
        let is_twice = is_faulty && self.dice.once_in(50);
        (0..=usize::from(is_twice)).map(|_| self.span(is_faulty)).collect()
    }

    fn span(&mut self, is_faulty: bool) -> Duration {
        let least = Duration::from_micros(100);
        // Now and then one is overtaken by many.
        let most = match is_faulty && self.dice.once_in(40) {
            true => Duration::from_millis(400),
            false => least + Duration::from_millis(2),
        };
        self.dice.span(least, most)
    }
}

//! Numbers from a seed: splitmix64, a stream of its own for each concern.

/// A generator.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

/// What a stream decides, so that more draws of one leave the others as they were.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Concern {
    /// Which step comes next.
    Schedule = 1,
    /// What clients do.
    Clients = 2,
    /// When the disk fails, and what a crash leaves.
    Disk = 3,
}

impl Dice {
    /// The stream of a seed for one concern.
    pub(crate) fn new(seed: u64, concern: Concern) -> Self {
        let mut dice = Dice(seed ^ (concern as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
        dice.draw();
        dice
    }

    /// A number below `bound`; 0 if that is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.draw() % bound.max(1) as u64).unwrap_or(0)
    }

    /// Whether something that happens once in `count` times happens now.
    pub(crate) fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// One of them.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

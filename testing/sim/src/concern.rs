//! What is drawn from the seed, each from a stream of its own: more draws of one leave the others as
//! they were.

use ratatosk_testkit::dice::Dice;

/// What a stream decides. The numbers belong to the seeds that are known: they stay.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Concern {
    /// Which step comes next.
    Schedule = 1,
    /// What clients do.
    Clients = 2,
    /// When the disk fails, and what a crash leaves.
    Disk = 3,
}

impl Concern {
    /// The stream of a seed.
    pub(crate) fn dice(self, seed: u64) -> Dice {
        Dice::new(seed, self as u64)
    }
}

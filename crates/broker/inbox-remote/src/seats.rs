//! Who serves a partition. It is the business of others who leads a range; here they are asked.

use ratatosk_rpc::HostId;
use tokio::sync::watch;

/// How many partitions there are. A session's number, and a will's, says which one is its: what is left
/// when it is divided by this; an identity has its publisher's number.
pub const PARTITION_COUNT: usize = 64;

/// The partition of a number.
pub(crate) fn partition_of(number: u64) -> usize {
    usize::try_from(number % PARTITION_COUNT as u64).unwrap_or(0)
}

/// The host that serves a partition.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Which one.
    pub host: HostId,
    /// Rises with each change: a session that was at work in an earlier term is to be resumed.
    pub term: u64,
    /// Names the range that the partition is of: what is for partitions of one range is one command.
    pub range: u64,
}

/// Who serves which partition, as far as it is known here. What is said may be late: whoever is asked
/// and does not serve says so.
pub trait Seats: Send + Sync {
    /// Who serves a partition; `None` while nobody is known to.
    fn seat(&self, partition: usize) -> Option<Seat>;

    /// Changes with each change of what [`Seats::seat`] answers.
    fn changes(&self) -> watch::Receiver<u64>;
}

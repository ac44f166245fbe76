//! The balancers, one file each.

pub(crate) mod leader_spread;
pub(crate) mod merge;
pub(crate) mod redundant;
pub(crate) mod replica_count;
pub(crate) mod split;
pub(crate) mod unreachable;
pub(crate) mod voter_spread;

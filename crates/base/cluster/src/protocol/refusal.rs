//! Why a datagram, a frame or a part of one was not taken, and how often.
//!
//! Nothing of what is refused is kept. Counters are read by whoever likes, at any time; they only rise.

use std::sync::atomic::{AtomicU64, Ordering};

/// A reason to drop what came.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Longer than 1,400 bytes, or a frame beyond its limit.
    Oversized,
    /// Does not begin as ours do.
    Magic,
    /// Of a version of the format that this build does not speak.
    Version,
    /// Of another environment. CLU-003
    Environment,
    /// Of another cluster.
    Cluster,
    /// Came from this host itself: its own address is among its seeds.
    Own,
    /// In the clear, and this host has a key. CLU-012
    Unsealed,
    /// Encrypted, and this host has no key.
    Sealed,
    /// Encrypted with a key that this host does not have. CLU-012
    UnknownKey,
    /// Names a key that this host has, and was not made with it. CLU-012
    Forged,
    /// Was taken before, or is too old to tell.
    Replayed,
    /// An answer to a question that was not asked, or not lately.
    Unasked,
    /// Its sender claims another address than it came from.
    Source,
    /// Its sender is no member; it may become one by a handshake.
    Stranger,
    /// Its contents are cut, or not what they say.
    Malformed,
    /// Its sender has the address of a host that came later.
    Outranked,
    /// There are as many members, records or entries as there may be.
    Full,
    /// A stamp more than a day ahead of the own clock.
    Ahead,
    /// An agent's queue of messages is full, or there is no such agent.
    Undelivered,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Refusal; 19] = [
        Refusal::Oversized,
        Refusal::Magic,
        Refusal::Version,
        Refusal::Environment,
        Refusal::Cluster,
        Refusal::Own,
        Refusal::Unsealed,
        Refusal::Sealed,
        Refusal::UnknownKey,
        Refusal::Forged,
        Refusal::Replayed,
        Refusal::Unasked,
        Refusal::Source,
        Refusal::Stranger,
        Refusal::Malformed,
        Refusal::Outranked,
        Refusal::Full,
        Refusal::Ahead,
        Refusal::Undelivered,
    ];

    /// Its name as a label.
    pub const fn name(self) -> &'static str {
        match self {
            Refusal::Oversized => "oversized",
            Refusal::Magic => "magic",
            Refusal::Version => "version",
            Refusal::Environment => "environment",
            Refusal::Cluster => "cluster",
            Refusal::Own => "own",
            Refusal::Unsealed => "unsealed",
            Refusal::Sealed => "sealed",
            Refusal::UnknownKey => "unknown_key",
            Refusal::Forged => "forged",
            Refusal::Replayed => "replayed",
            Refusal::Unasked => "unasked",
            Refusal::Source => "source",
            Refusal::Stranger => "stranger",
            Refusal::Malformed => "malformed",
            Refusal::Outranked => "outranked",
            Refusal::Full => "full",
            Refusal::Ahead => "ahead",
            Refusal::Undelivered => "undelivered",
        }
    }
}

/// What can be counted besides refusals.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Count {
    /// Datagrams that came, taken or not.
    DatagramsReceived,
    /// Datagrams that were sent.
    DatagramsSent,
    /// Their bytes, without headers of IP and UDP.
    BytesSent,
    /// Probes that were sent by this host on its own behalf.
    Probes,
    /// Of these, those that nobody answered in time.
    ProbesFailed,
    /// Suspicions of this host that it refuted. CLU-005
    Refutations,
    /// Times that this host took a new generation, as the others had given it up.
    Renewals,
    /// Exchanges over TCP that were begun.
    StreamsOpened,
    /// Of these, those that came to no end.
    StreamsFailed,
    /// Times that there were too many connections: one was turned away, or made room.
    StreamsRefused,
    /// Times that this process did not run when it should have.
    Stalls,
}

const COUNTS: usize = 11;

/// The counters of one host.
#[derive(Debug, Default)]
pub struct Counters {
    refused: [AtomicU64; Refusal::ALL.len()],
    counts: [AtomicU64; COUNTS],
}

impl Counters {
    /// How often something was refused for this reason.
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refused[refusal as usize].load(Ordering::Relaxed)
    }

    /// How often this happened.
    pub fn count(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn refuse(&self, refusal: Refusal) {
        self.refused[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, count: Count, more: usize) {
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        self.counts[count as usize].fetch_add(more, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_and_a_name_of_its_own() {
        let counters = Counters::default();
        for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, index);
            assert_eq!(Refusal::ALL.iter().filter(|it| it.name() == refusal.name()).count(), 1);
            counters.refuse(refusal);
            assert_eq!(counters.refused(refusal), 1);
        }
        counters.add(Count::Stalls, 2);
        assert_eq!(counters.count(Count::Stalls), 2);
    }
}

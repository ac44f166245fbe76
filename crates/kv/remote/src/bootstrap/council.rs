//! Of `n` nodes that are started at once, which one makes the cluster.
//!
//! A node that knows of exactly `n` nodes, itself included, and has the smallest id of them, asks the others
//! whether it may. It makes the cluster only when all of them have said yes within one [`Pace::round`], to
//! this round. Others wait, for whatever is in doubt. A pure state machine.
//!
//! Rules for saying yes: the asker is the smallest of the `n` that are known; there is no cluster here yet;
//! the process runs for [`Pace::settle`], which is longer than a round; and never once its own round has
//! succeeded. A round is over as soon as its asker knows of other nodes than when it began, so whoever says
//! yes has none underway: it would have been the smallest itself.
//!
//! **Never two.** Let `n` be how many nodes there are, on disks of their own.
//!
//! 1. In one round nobody counts twice. Two processes of one node do not overlap, and the second says
//!    nothing before it runs for longer than a round; so the yeses that a round counts are of `n - 1` other
//!    nodes: of all that there are, whatever each of them sees, and whatever ghosts of processes that died
//!    are still believed to be there.
//! 2. Say two nodes B and C both make a cluster, each after a round. If they are the processes that
//!    answered each other: B said yes to C at a time within C's round, and had no round then. So B's round began after C's; by the same argument C's began after
//!    B's.
//! 3. If C's process has changed in between: the one that makes the cluster began its round after the other
//!    one had answered B, and needs a yes of B's node. Either B's process has succeeded, and says none; or
//!    it is gone, and had written the cluster to its disk, so that its node has a cluster and does not take
//!    part; or it is gone and had not, so that it made none.
//!
//! If more nodes than `n` are started, whoever knows of more than `n` waits until somebody who does not
//! see them is done; two disjoint halves that do not see each other, with `n` each, are two clusters, and
//! nothing that they know tells them that this was not meant. So `n` has to be how many there are.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_cluster::HostId;

const ASK: u8 = 1;
const YES: u8 = 2;

/// How fast it goes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long a process runs before it asks or answers. Longer than a round.
    pub settle: Duration,
    /// How long a round takes at most.
    pub round: Duration,
    /// How often who has not answered is asked again.
    pub again: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(4),
            round: Duration::from_secs(3),
            again: Duration::from_millis(500),
        }
    }
}

/// What members say to each other, each for one round of the asker.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// May I?
    Ask(u64),
    /// Yes.
    Yes(u64),
}

/// A member of the council.
#[derive(Debug)]
pub struct Council {
    me: HostId,
    expect: usize,
    begun: Instant,
    pace: Pace,
    known: BTreeSet<HostId>,
    rounds: u64,
    round: Option<Round>,
    is_maker: bool,
}

#[derive(Debug)]
struct Round {
    number: u64,
    since: Instant,
    asked: Instant,
    yes: BTreeSet<HostId>,
}

impl Message {
    /// Its bytes.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let (kind, round) = match self {
            Self::Ask(round) => (ASK, round),
            Self::Yes(round) => (YES, round),
        };
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&round.to_be_bytes());
        bytes.into()
    }

    /// What they say; `None` if that is nothing.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, round) = bytes.split_first()?;
        let round = u64::from_be_bytes(round.try_into().ok()?);
        match *kind {
            ASK => Some(Self::Ask(round)),
            YES => Some(Self::Yes(round)),
            _ => None,
        }
    }
}

impl Council {
    /// A member that runs since then.
    ///
    /// # Panics
    /// If a process could count twice in a round: a bug of the caller.
    #[must_use]
    pub fn new(me: HostId, expect: usize, begun: Instant, pace: Pace) -> Self {
        assert!(pace.settle > pace.round, "{pace:?}: a process could count twice");
        let known = BTreeSet::from([me]);
        Self { me, expect, begun, pace, known, rounds: 0, round: None, is_maker: false }
    }

    /// Its process.
    #[must_use]
    pub fn me(&self) -> HostId {
        self.me
    }

    /// How many are known, itself included.
    #[must_use]
    pub fn known(&self) -> usize {
        self.known.len()
    }

    /// Whether it makes the cluster.
    #[must_use]
    pub fn is_maker(&self) -> bool {
        self.is_maker
    }

    /// These are the members that are known now, itself included; some time has passed.
    pub fn look(&mut self, now: Instant, known: BTreeSet<HostId>) -> Vec<(HostId, Message)> {
        if known != self.known {
            // Whoever said yes did so to another picture.
            self.round = None;
            self.known = known;
        }
        if self.is_maker || !self.is_settled(now) || self.first() != Some(self.me) {
            return Vec::new();
        }
        if self.round.as_ref().is_some_and(|round| now.since(round.since) > self.pace.round) {
            self.round = None;
        }
        let is_new = self.round.is_none();
        self.rounds += u64::from(is_new);
        let number = self.rounds;
        let yes = BTreeSet::new;
        let round =
            self.round.get_or_insert_with(|| Round { number, since: now, asked: now, yes: yes() });
        if !is_new && now.since(round.asked) < self.pace.again {
            return Vec::new();
        }
        round.asked = now;
        let others =
            self.known.iter().filter(|host| **host != self.me && !round.yes.contains(host));
        others.map(|host| (*host, Message::Ask(number))).collect()
    }

    /// Somebody said something.
    pub fn hear(&mut self, now: Instant, from: HostId, message: Message) -> Vec<(HostId, Message)> {
        match message {
            Message::Ask(round) => {
                let may = self.first() == Some(from) && from != self.me;
                if !may || self.is_maker || !self.is_settled(now) {
                    return Vec::new();
                }
                assert!(self.round.is_none(), "only the smallest has a round, and that is another");
                vec![(from, Message::Yes(round))]
            }
            Message::Yes(number) => {
                let (me, limit) = (self.me, self.pace.round);
                let is_known = self.known.contains(&from) && from != me;
                let Some(round) = self.round.as_mut().filter(|round| round.number == number) else {
                    return Vec::new();
                };
                if is_known && now.since(round.since) <= limit {
                    round.yes.insert(from);
                    self.is_maker = round.yes.len() + 1 == self.expect;
                }
                Vec::new()
            }
        }
    }

    fn is_settled(&self, now: Instant) -> bool {
        now.since(self.begun) >= self.pace.settle
    }

    /// Who may make the cluster, if just as many are known as are expected.
    fn first(&self) -> Option<HostId> {
        (self.known.len() == self.expect).then(|| self.known.first().copied()).flatten()
    }
}

#[cfg(test)]
#[path = "council_test.rs"]
mod tests;

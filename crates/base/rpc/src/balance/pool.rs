//! The servers that work for a tenant, each with its weight, and the modes that choose one.
//!
//! What a mode needs beyond the weights is made when the mode is first used: most pools serve one
//! mode only.

use std::sync::OnceLock;

use xxhash_rust::xxh3::xxh3_64;

use crate::balance::ServerIndex;
use crate::balance::rendezvous;
use crate::balance::ring::Ring;

/// A number that every weight divides: 1 to 10.
const COMMON_MULTIPLE: u32 = 2_520;

/// A server of the pool.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) server: ServerIndex,
    /// Of its name, so that no mode hashes it again.
    pub(super) hash: u64,
    /// 1 to 10.
    pub(super) weight: u8,
}

/// The servers that work for a tenant.
#[derive(Debug)]
pub struct Pool {
    members: Box<[Member]>,
    /// Member by member the sum of the weights up to it: the last is that of all.
    sums: Box<[u32]>,
    turns: OnceLock<Box<[ServerIndex]>>,
    ring: OnceLock<Ring>,
}

impl Pool {
    pub(super) fn new(members: Vec<(ServerIndex, &str, u8)>) -> Self {
        let mut sum = 0_u32;
        let sums = members.iter().map(|(_, _, weight)| {
            sum += u32::from(*weight);
            sum
        });
        let sums = sums.collect();
        let member = |(server, id, weight): (ServerIndex, &str, u8)| {
            assert!(weight > 0, "a server of weight 0 is in no pool");
            Member { server, hash: xxh3_64(id.as_bytes()), weight }
        };
        let members = members.into_iter().map(member).collect();
        Self { members, sums, turns: OnceLock::new(), ring: OnceLock::new() }
    }

    /// Whether nobody works for the tenant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The servers, by name.
    pub fn servers(&self) -> impl Iterator<Item = ServerIndex> {
        self.members.iter().map(|member| member.server)
    }

    /// Whether a server is in the pool.
    #[must_use]
    pub fn has(&self, server: ServerIndex) -> bool {
        self.members.binary_search_by_key(&server, |member| member.server).is_ok()
    }

    /// By weight, as `draw` says. Passes over what is not usable to the next by name; when none
    /// is, the drawn one, whose error is then as good as any other.
    #[must_use]
    pub fn random(
        &self,
        draw: u64,
        is_usable: impl Fn(ServerIndex) -> bool,
    ) -> Option<ServerIndex> {
        let total = u64::from(*self.sums.last()?);
        let point = draw % total;
        let drawn = self.sums.partition_point(|sum| u64::from(*sum) <= point);
        let (before, behind) = self.members.split_at(drawn);
        let mut others = behind.iter().chain(before).map(|member| member.server);
        others.find(|server| is_usable(*server)).or(Some(self.members[drawn].server))
    }

    /// By weight in turn: of as many turns as all weights together, each server has as many as
    /// its weight, spread evenly. Passes over what is not usable as [`Pool::random`] does.
    #[must_use]
    pub fn round_robin(
        &self,
        turn: u64,
        is_usable: impl Fn(ServerIndex) -> bool,
    ) -> Option<ServerIndex> {
        let turns = self.turns.get_or_init(|| self.turns());
        let turn = usize::try_from(turn % u64::try_from(turns.len()).ok().filter(|n| *n > 0)?);
        let (before, behind) = turns.split_at(turn.ok()?);
        let mut others = behind.iter().chain(before).copied();
        others.find(|server| is_usable(*server)).or(behind.first().copied())
    }

    /// The one that the key falls to on the ring.
    #[must_use]
    pub fn hashed(&self, key: &[u8]) -> Option<ServerIndex> {
        self.ring.get_or_init(|| Ring::new(&self.members)).find(xxh3_64(key))
    }

    /// The one that wins the key.
    #[must_use]
    pub fn rendezvous(&self, key: &[u8]) -> Option<ServerIndex> {
        rendezvous::winner(&self.members, xxh3_64(key))
    }

    /// The k-th turn of a server of weight w lies at (2k + 1) / 2w of the way round.
    fn turns(&self) -> Box<[ServerIndex]> {
        let mut places: Vec<(u32, ServerIndex)> = Vec::new();
        for Member { server, weight, .. } in &self.members {
            let step = COMMON_MULTIPLE / u32::from(*weight);
            places.extend((0..u32::from(*weight)).map(|k| ((2 * k + 1) * step, *server)));
        }
        places.sort_unstable();
        places.into_iter().map(|(_, server)| server).collect()
    }
}

const _: () = {
    let mut weight = 1;
    while weight <= 10 {
        assert!(COMMON_MULTIPLE.is_multiple_of(weight), "every weight divides it");
        weight += 1;
    }
};

//! The hash ring: each server has points by its weight, a key belongs to the next point.
//!
//! The points of a server follow from its name and weight alone, so a server that comes or goes
//! takes or gives its own points and moves no other key.

use crate::balance::ServerIndex;
use crate::balance::pool::Member;
use crate::draw::mix;

/// Points for each unit of weight: with one unit each, shares stray some 10 % from even.
const POINTS: u32 = 100;

#[derive(Debug)]
pub(super) struct Ring {
    /// By place.
    points: Box<[(u64, ServerIndex)]>,
}

impl Ring {
    pub(super) fn new(members: &[Member]) -> Self {
        let mut points = Vec::new();
        for Member { server, hash, weight } in members {
            let count = POINTS * u32::from(*weight);
            points.extend((0..count).map(|n| (place(*hash, n), *server)));
        }
        points.sort_unstable();
        Self { points: points.into() }
    }

    /// The server of the first point at or behind the key's place, round the end.
    pub(super) fn find(&self, place: u64) -> Option<ServerIndex> {
        let next = self.points.partition_point(|(point, _)| *point < place);
        self.points.get(next).or(self.points.first()).map(|(_, server)| *server)
    }
}

fn place(server: u64, number: u32) -> u64 {
    mix(server ^ mix(u64::from(number) + 1))
}

//! Highest random weight: every server draws for the key as often as its weight, the best wins.
//!
//! A server wins in proportion to its draws, exactly and in whole numbers, and its draws depend
//! on nobody else, so only its own keys move when it comes or goes.

use crate::balance::ServerIndex;
use crate::balance::pool::Member;
use crate::draw::mix;

pub(super) fn winner(members: &[Member], key: u64) -> Option<ServerIndex> {
    let best = members.iter().max_by_key(|member| (score(member, key), member.hash));
    best.map(|member| member.server)
}

fn score(member: &Member, key: u64) -> u64 {
    let draws = (1..=u64::from(member.weight)).map(|n| mix(key ^ mix(member.hash ^ mix(n))));
    draws.max().unwrap_or_default()
}

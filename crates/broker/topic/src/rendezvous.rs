//! Which member of an ordered shared group serves a publisher: rendezvous hashing.
//!
//! The choice depends on publisher and members only, not on their order, host or build: the mixing
//! is a published constant function (`golden_choices_stay` keeps it). When a member comes or goes,
//! only publishers that go to it or came from it move. It is no defence against publishers who
//! choose their own number: hash what a client chose with a secret first.

/// The position of the member that serves `publisher`, or `None` without members. Costs one weight
/// per member; equal numbers count as the first of them.
pub fn rendezvous(publisher: u64, members: impl Iterator<Item = u64>) -> Option<usize> {
    let seat = mix(publisher.wrapping_add(0x9E37_79B9_7F4A_7C15));
    let mut best: Option<(u64, u64, usize)> = None;
    for (index, member) in members.enumerate() {
        let weight = mix(seat ^ mix(member.wrapping_add(0xD1B5_4A32_D192_ED03)));
        // The member decides between equal weights, so that order never does.
        let is_better = best.is_none_or(|(top, holder, _)| (weight, member) > (top, holder));
        if is_better {
            best = Some((weight, member, index));
        }
    }
    best.map(|(_, _, index)| index)
}

/// A bijection of which every output bit depends on every input bit (xor-shift-multiply).
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(publisher: u64, members: &[u64]) -> Option<u64> {
        rendezvous(publisher, members.iter().copied()).map(|index| members[index])
    }

    #[test]
    fn no_member_serves_an_empty_group() {
        assert_eq!(rendezvous(7, std::iter::empty()), None);
        assert_eq!(rendezvous(7, std::iter::once(3)), Some(0));
    }

    /// MQTT-085: one publisher stays on one member, in whatever order the members are listed.
    #[test]
    fn choice_does_not_depend_on_the_order_of_members() {
        let forward: Vec<u64> = (0..40).collect();
        let backward: Vec<u64> = (0..40).rev().collect();
        for publisher in 0..2_000 {
            assert_eq!(choice(publisher, &forward), choice(publisher, &backward));
        }
    }

    /// DIST-012: a leaving member moves its own publishers, a joining one takes only its own.
    #[test]
    fn changes_of_members_move_only_the_affected_publishers() {
        let all: Vec<u64> = (100..117).collect();
        let gone = 108;
        let rest: Vec<u64> = all.iter().copied().filter(|member| *member != gone).collect();
        let mut moved = 0;
        for publisher in 0..20_000 {
            let (with, without) = (choice(publisher, &all), choice(publisher, &rest));
            if with == Some(gone) {
                moved += 1;
            } else {
                assert_eq!(with, without, "publisher {publisher}");
            }
        }
        assert!((900..1_500).contains(&moved), "{moved} of 20000 moved, a 17th was expected");
    }

    /// DIST-012: consecutive numbers of publishers and members are spread evenly.
    #[test]
    fn publishers_are_spread_evenly() {
        let members: Vec<u64> = (0..8).collect();
        let mut counts = [0_u32; 8];
        for publisher in 0..80_000 {
            counts[rendezvous(publisher, members.iter().copied()).unwrap()] += 1;
        }
        // Standard deviation is 94; five of them are allowed.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 470), "{counts:?}");
    }

    /// MQTT-085: hosts of different builds must agree, so the function never changes.
    #[test]
    fn golden_choices_stay() {
        let members = [0, 1, u64::MAX, 42, 0xDEAD_BEEF];
        let choices: Vec<_> =
            (0..12).map(|publisher| rendezvous(publisher, members.into_iter()).unwrap()).collect();
        assert_eq!(choices, [4, 0, 4, 4, 4, 1, 4, 3, 4, 3, 3, 0]);
    }
}

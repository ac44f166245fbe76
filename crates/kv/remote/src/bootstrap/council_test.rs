//! Councils under every trouble that a seed makes up: messages that are lost, late and doubled, pictures
//! that are old, processes that die and come back.

use std::collections::BTreeMap;

use super::*;

const PACE: Pace = Pace {
    settle: Duration::from_millis(4_000),
    round: Duration::from_millis(3_000),
    again: Duration::from_millis(500),
};

fn id(number: u64) -> HostId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    HostId::from_bytes(bytes)
}

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn ids(numbers: &[u64]) -> BTreeSet<HostId> {
    numbers.iter().map(|number| id(*number)).collect()
}

/// KV-017: the smallest of those that are expected makes the cluster, once all have said yes.
#[test]
fn the_smallest_makes_the_cluster_when_all_have_said_yes() {
    let mut councils = [1, 2, 3].map(|number| Council::new(id(number), 3, at(0), PACE));
    let all = ids(&[1, 2, 3]);
    assert!(councils[0].look(at(3_999), all.clone()).is_empty(), "it has not settled");
    for council in &mut councils[1..] {
        assert!(council.look(at(4_000), all.clone()).is_empty(), "it is not the smallest");
    }
    let asked = councils[0].look(at(4_000), all.clone());
    assert_eq!(asked, [(id(2), Message::Ask(1)), (id(3), Message::Ask(1))]);
    for (place, number) in [(1, 2), (2, 3)] {
        assert!(!councils[0].is_maker());
        let said = councils[place].hear(at(4_100), id(1), Message::Ask(1));
        assert_eq!(said, [(id(1), Message::Yes(1))]);
        councils[0].hear(at(4_200), id(number), Message::Yes(1));
    }
    assert!(councils[0].is_maker());
    // It says yes to nobody any more, whom it may see.
    assert!(councils[0].look(at(4_300), ids(&[0, 1, 2])).is_empty());
    assert!(councils[0].hear(at(4_300), id(0), Message::Ask(9)).is_empty());
}

#[test]
fn with_too_few_or_too_many_everybody_waits() {
    for known in [&[1, 2][..], &[1, 2, 3, 4]] {
        let mut council = Council::new(id(1), 3, at(0), PACE);
        assert!(council.look(at(9_000), ids(known)).is_empty());
        let mut other = Council::new(id(2), 3, at(0), PACE);
        other.look(at(9_000), ids(known));
        assert!(other.hear(at(9_000), id(1), Message::Ask(1)).is_empty());
    }
}

#[test]
fn yeses_of_another_round_or_too_late_do_not_count() {
    let mut council = Council::new(id(1), 2, at(0), PACE);
    council.look(at(4_000), ids(&[1, 2]));
    council.hear(at(4_100), id(2), Message::Yes(2));
    council.hear(at(4_100), id(3), Message::Yes(1));
    council.hear(at(7_001), id(2), Message::Yes(1));
    assert!(!council.is_maker());
    let again = council.look(at(7_002), ids(&[1, 2]));
    assert_eq!(again, [(id(2), Message::Ask(2))], "a round of its own");
    council.hear(at(7_003), id(2), Message::Yes(2));
    assert!(council.is_maker());
}

/// Whoever sees others than before begins anew: yeses to another picture do not count.
#[test]
fn a_round_ends_with_the_picture_that_it_began_with() {
    let mut council = Council::new(id(2), 2, at(0), PACE);
    assert_eq!(council.look(at(4_000), ids(&[2, 3])), [(id(3), Message::Ask(1))]);
    council.look(at(4_001), ids(&[1, 2]));
    assert_eq!(council.hear(at(4_002), id(1), Message::Ask(7)), [(id(1), Message::Yes(7))]);
    council.hear(at(4_003), id(1), Message::Yes(1));
    assert_eq!(council.look(at(4_004), ids(&[2, 3])), [(id(3), Message::Ask(2))]);
    council.hear(at(4_005), id(3), Message::Yes(1));
    assert!(!council.is_maker());
}

/// A process that has not run for longer than a round may be the second one of its node in it.
#[test]
fn who_has_not_settled_says_nothing() {
    let mut council = Council::new(id(2), 2, at(0), PACE);
    council.look(at(3_999), ids(&[1, 2]));
    assert!(council.hear(at(3_999), id(1), Message::Ask(1)).is_empty());
    assert_eq!(council.hear(at(4_000), id(1), Message::Ask(1)), [(id(1), Message::Yes(1))]);
}

#[test]
fn messages_are_read_as_they_were_written() {
    for message in [Message::Ask(7), Message::Yes(u64::MAX)] {
        assert_eq!(Message::decode(&message.encode()), Some(message));
    }
    for wrong in [&b""[..], b"\x03\0\0\0\0\0\0\0\0", b"\x01\0", b"\x01\0\0\0\0\0\0\0\0\0"] {
        assert_eq!(Message::decode(wrong), None);
    }
}

/// Draws that follow from a seed.
struct Dice(u64);

impl Dice {
    fn draw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % below
    }
}

/// A node: a disk, and a process or none.
struct Node {
    council: Option<(u64, Council)>,
    /// The process that has made a cluster there, as the disk has it.
    cluster: Option<u64>,
    /// When the process that succeeded writes it down.
    writes_at: Option<u64>,
    up_at: u64,
}

/// Runs `nodes` nodes for a while; the clusters that were made, and how many nodes are in one.
fn run(seed: u64, nodes: usize, is_rough: bool) -> (BTreeSet<u64>, usize) {
    let mut dice = Dice(seed);
    let mut next_id = 1;
    let mut world: Vec<Node> = (0..nodes)
        .map(|_| Node { council: None, cluster: None, writes_at: None, up_at: dice.draw(2_000) })
        .collect();
    // Who ever lived, when it died, and where; ghosts are seen for a while.
    let mut lives: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    let mut post: Vec<(u64, u64, u64, Message)> = Vec::new();
    for now in (0..90_000).step_by(50) {
        let is_calm = !is_rough || now > 40_000;
        for node in &mut world {
            if node.council.is_none() && now >= node.up_at {
                let number = dice.draw(1_000) * 1_000 + next_id;
                next_id += 1;
                lives.insert(number, None);
                let council = Council::new(id(number), nodes, at(now), PACE);
                node.council = Some((number, council));
            }
        }
        let made: Option<u64> = world.iter().find_map(|node| node.cluster);
        for node in &mut world {
            let Some((number, council)) = &mut node.council else { continue };
            if !is_calm && dice.draw(100) == 0 {
                lives.insert(*number, Some(now));
                node.council = None;
                node.writes_at = None;
                node.up_at = now + dice.draw(3_000);
                continue;
            }
            if council.is_maker() {
                let at = *node.writes_at.get_or_insert(now + dice.draw(300));
                if now >= at && node.cluster.is_none() {
                    node.cluster = Some(*number);
                }
                continue;
            }
            // The others take it over, sooner or later.
            if node.cluster.is_none() && made.is_some() && dice.draw(40) == 0 {
                node.cluster = made;
            }
            if node.cluster.is_some() {
                continue;
            }
            let sees = |other: u64, died: Option<u64>, dice: &mut Dice| match died {
                _ if other == *number => true,
                // Ghosts are seen for up to ten seconds.
                Some(died) => now < died + 10_000 && dice.draw(3) > 0,
                None => is_calm || dice.draw(10) > 0,
            };
            let known = lives.iter().filter(|(other, died)| sees(**other, **died, &mut dice));
            let known: BTreeSet<HostId> = known.map(|(other, _)| id(*other)).collect();
            let said = council.look(at(now), known);
            post.extend(
                said.into_iter().map(|(to, message)| (now, number_of(to), *number, message)),
            );
        }
        let mut late = Vec::new();
        for (due, to, from, message) in std::mem::take(&mut post) {
            let fate = if is_calm { 9 } else { dice.draw(10) };
            if due > now || fate == 1 {
                late.push((
                    due.max(now) + if fate == 1 { dice.draw(2_500) } else { 0 },
                    to,
                    from,
                    message,
                ));
                continue;
            }
            if fate == 0 {
                continue;
            }
            let receiver = world.iter_mut().find(|node| {
                node.council.as_ref().is_some_and(|(number, _)| *number == to)
                    && node.cluster.is_none()
            });
            if let Some((_, council)) = receiver.and_then(|node| node.council.as_mut()) {
                let said = council.hear(at(now), id(from), message);
                late.extend(
                    said.into_iter()
                        .map(|(back, message)| (now + 50, number_of(back), to, message)),
                );
            }
            if fate == 2 {
                late.push((now + dice.draw(1_000), to, from, message));
            }
        }
        post = late;
    }
    let clusters = world.iter().filter_map(|node| node.cluster).collect();
    (clusters, world.iter().filter(|node| node.cluster.is_some()).count())
}

fn number_of(host: HostId) -> u64 {
    u64::from_be_bytes(host.as_bytes()[8..].try_into().expect("eight bytes"))
}

/// KV-017: whatever happens while nodes start, they are never two clusters; and one, once it is calm.
#[test]
fn there_are_never_two_clusters_and_one_in_the_end() {
    for seed in 0..150 {
        for nodes in [2, 3, 5] {
            let (clusters, members) = run(seed, nodes, true);
            assert!(clusters.len() <= 1, "seed {seed}, {nodes} nodes: {clusters:?}");
            assert_eq!(members, nodes, "seed {seed}, {nodes} nodes");
        }
    }
}

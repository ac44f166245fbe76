//! What waits for a store, and what is lost.

use bytes::Bytes;
use ratatosk_store::log::GroupId;
use ratatosk_store::machine::Beat;
use ratatosk_store::snapshot::stream::SnapshotId;
use ratatosk_telemetry::metric::Registry;

use super::*;
use crate::metrics::Metrics;

fn queue(bytes_max: usize) -> (Arc<Queue>, Registry) {
    let registry = Registry::new(1);
    let metrics = Metrics::new(&registry).lane(7, Lane::Words);
    (Queue::new(bytes_max, metrics), registry)
}

fn beat(life: u64) -> Packet {
    Packet::Beat(Beat { life, ..Beat::default() })
}

fn urge(number: u64, bytes: usize) -> Packet {
    Packet::Urges { group: GroupId(number), order: vec![0; bytes] }
}

fn shown(packets: &[Packet]) -> Vec<String> {
    let name = |packet: &Packet| match packet {
        Packet::Urges { group, .. } => group.0.to_string(),
        Packet::Beat(Beat { life, .. }) => format!("beat {life}"),
        _ => panic!("{packet:?}"),
    };
    packets.iter().map(name).collect()
}

#[test]
fn the_word_that_a_store_lives_goes_before_all_that_waits_and_is_never_lost() {
    let (queue, registry) = queue(1_000);
    queue.push([urge(1, 900), urge(2, 900), urge(3, 1), beat(1)]);
    queue.push([beat(2)]);
    assert_eq!(shown(&queue.take()), ["beat 2", "1"]);
    let page = registry.render();
    let lost = page.lines().find(|line| line.contains("lost") && line.contains("\"full\""));
    assert!(lost.is_some_and(|line| line.ends_with(" 2")), "{page}");
    assert!(queue.take().is_empty());
}

#[test]
fn batches_keep_the_order_and_what_is_too_long_goes_alone() {
    let (queue, _registry) = queue(100 * FRAME_BYTES);
    let half = FRAME_BYTES / 2;
    queue.push([urge(1, 10), urge(2, half), urge(3, half), urge(4, 4 * FRAME_BYTES), urge(5, 1)]);
    let batches: Vec<_> = (0..5).map(|_| shown(&queue.take())).collect();
    assert_eq!(batches, [vec!["1", "2"], vec!["3"], vec!["4"], vec!["5"], vec![]]);
}

#[test]
fn one_that_is_longer_than_all_room_gets_through_alone() {
    let (queue, _registry) = queue(10);
    queue.push([urge(1, 1_000), urge(2, 1)]);
    assert_eq!(shown(&queue.take()), ["1"]);
}

#[test]
fn what_waited_for_a_way_that_broke_is_forgotten() {
    let (queue, registry) = queue(10_000);
    queue.push([urge(1, 10), beat(1)]);
    queue.clear();
    assert!(queue.take().is_empty());
    let page = registry.render();
    let lost = page.lines().find(|line| line.contains("lost") && line.contains("\"broken\""));
    assert!(lost.is_some_and(|line| line.ends_with(" 1")), "{page}");
    queue.push([urge(2, 10)]);
    assert_eq!(shown(&queue.take()), ["2"]);
}

#[test]
fn only_data_takes_the_way_of_data() {
    let id = SnapshotId { store: 1, number: 1 };
    let piece = Parcel::Piece { group: GroupId(1), id, data: Bytes::new() };
    assert_eq!(Lane::of(&Packet::Parcel(piece)), Lane::Data);
    assert_eq!(Lane::of(&beat(1)), Lane::Words);
    assert_eq!(Lane::of(&urge(1, 1)), Lane::Words);
}

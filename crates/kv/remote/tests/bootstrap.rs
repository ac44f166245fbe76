//! How a node finds its cluster.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use ratatosk_remote::Node;
use ratatosk_stores::PATIENCE;

use crate::support::{KEYSPACES, World};

fn ranges(node: &Node) -> usize {
    KEYSPACES.iter().map(|name| node.handle().ranges(name).len()).sum()
}

/// KV-017: who joins makes no cluster and no ranges, and says whom it asked in vain.
#[test]
fn who_joins_and_meets_nobody_makes_nothing() {
    let mut world = World::new("remote-nobody");
    let mut config = world.config(1);
    // Nothing listens there.
    config.host.seeds = vec!["127.0.0.1:1".to_owned()];
    config.patience = Duration::from_millis(300);
    let error = world.start_with(1, config).expect_err("nobody is there").to_string();
    assert!(error.starts_with("no seed answered: 127.0.0.1:1: "), "{error}");
    assert!(!world.folder(1).join("identity").exists());
}

/// KV-017: a node of one cluster does not come into another one.
#[test]
fn a_folder_of_another_cluster_is_refused() {
    let mut world = World::new("remote-foreign");
    world.start(1);
    let mut other = World::new("remote-foreign-other");
    other.start(2);
    assert!(other.take(2).stop(PATIENCE));
    let (ours, theirs) = (
        ratatosk_store::Identity::of(&other.folder(2)).expect("readable").expect("a store").cluster,
        world.member(1).node.host().cluster_id().expect("a cluster"),
    );
    let mut config = other.config(2);
    config.host.seeds = world.seeds();
    let error = other.start_with(2, config).expect_err("another cluster").to_string();
    assert!(error.contains(&format!("belongs to cluster {theirs}")), "{error}");
    assert!(error.contains(&format!("to cluster {ours:016x}")), "{error}");
    assert!(error.contains(&other.folder(2).display().to_string()), "{error}");
    world.sees(1, "itself alone", |seen| seen.stores.len() == 1);
}

/// KV-017: of three nodes that are started at once, one makes the cluster and the others join it.
#[test]
fn of_nodes_that_start_at_once_one_makes_the_cluster() {
    let mut world = World::new("remote-expect");
    // Each has to know of the others before it runs, so they get their ports beforehand.
    let ports = ratatosk_testkit::ports::free_many(3).expect("ports");
    let seeds: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let (told, tells) = mpsc::sync_channel(3);
    let configs: Vec<_> = (1..=3).map(|number| world.config(number)).collect();
    std::thread::scope(|scope| {
        for ((number, port), mut config) in (1..).zip(&ports).zip(configs) {
            config.host.bind = ([127, 0, 0, 1], *port).into();
            (config.host.seeds, config.expect) = (seeds.clone(), Some(3));
            let told = told.clone();
            scope.spawn(move || {
                let registry = config.registry.clone();
                told.send((number, Node::start(config), registry)).expect("it is taken");
            });
        }
    });
    let mut made = 0;
    for (number, node, registry) in tells.iter().take(3) {
        let node = node.unwrap_or_else(|error| panic!("node {number}: {error}"));
        made += usize::from(ranges(&node) > 0);
        world.add(number, node, registry);
    }
    let clusters = world.members().map(|(_, member)| member.node.handle().identity().cluster);
    assert_eq!(clusters.collect::<BTreeSet<_>>().len(), 1);
    assert!(made >= 1);
    world.spread(&[1, 2, 3]);
    assert_eq!(world.member(3).count("a", 0, 10), 10);
}

/// KV-017: with fewer nodes than are expected nobody makes a cluster.
#[test]
fn fewer_nodes_than_expected_make_nothing() {
    let mut world = World::new("remote-few");
    let mut config = world.config(1);
    config.expect = Some(2);
    config.patience = Duration::from_secs(3);
    let error = world.start_with(1, config).expect_err("too few").to_string();
    assert!(error.contains("1 of 2 nodes that are expected"), "{error}");
    assert!(!world.folder(1).join("identity").exists());
}

/// CLU-012: an address that other machines reach needs a key, or a word of the operator.
#[test]
fn an_address_that_others_reach_needs_a_key() {
    let mut world = World::new("remote-exposed");
    let mut config = world.config(1);
    config.host.bind = "0.0.0.0:0".parse().expect("an address");
    config.host.advertise = Some("127.0.0.1:0".parse().expect("an address"));
    let error = world.start_with(1, config).expect_err("it is open").to_string();
    assert!(error.contains("0.0.0.0:0 can be reached from other machines"), "{error}");
}

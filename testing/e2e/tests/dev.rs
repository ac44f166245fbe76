//! `ratatosk dev`: several processes of one cluster, and what their operator does with them.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use ratatosk_admin::cluster::{Following, Range, Reach, Standing};
use ratatosk_e2e::{Local, Place, Process, until};
use ratatosk_testkit::binary::ratatosk;

const PATIENCE: Duration = Duration::from_secs(90);

fn local(count: usize) -> Local {
    Local::start(count).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Fails with all that is told of it.
fn must<T>(outcome: anyhow::Result<T>) -> T {
    outcome.unwrap_or_else(|error| panic!("{error:#}"))
}

/// Whether just so many stores vote in a range, and all have what its leader has.
fn is_kept_by(range: &Range, count: usize) -> bool {
    range.keepers.voters.len() == count
        && range.goal.is_none()
        && range.following.values().all(|following| *following == Following::CaughtUp)
}

/// CLU-001, KV-022: from nothing to a message from one node to another in one command; all end with it.
#[test]
fn a_local_cluster_carries_messages_and_ends_in_good_order() {
    let mut local = local(3);
    must(local.deliver(1, 3, "first/last"));
    must(local.wait_for_ranges(1, |range| is_kept_by(range, 3)));
    let cluster = must(local.cluster(2));
    assert_eq!((cluster.hosts.len(), cluster.stores.len()), (3, 3), "{cluster:?}");
    assert!(cluster.quorum && cluster.clash.is_none(), "{cluster:?}");
    assert!(cluster.stores.iter().all(|store| store.reach == Reach::Up && store.votes > 0));
    let shown = must(local.order(3, &["cluster", "status"]));
    assert_eq!(shown.code, Some(0), "{}", shown.output);
    assert!(shown.output.starts_with("cluster dev "), "{}", shown.output);
    let shown = must(local.order(3, &["ranges"]));
    assert_eq!(shown.code, Some(0), "{}", shown.output);
    assert!(shown.output.contains("dist.route"), "{}", shown.output);
    local.dev().signal("TERM").expect("is told");
    let ended = must(local.dev().wait(PATIENCE));
    assert!(ended.success(), "{ended}: {}", local.dev().output().expect("reads"));
    let port: u16 = local.node(1).mqtt.parse().expect("a port");
    assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "nobody is left");
}

/// OPS-007: a store is emptied while the others serve, and has something again when that is taken back; a node
/// that leaves ends by itself, and nothing is missed.
#[test]
fn a_node_is_drained_and_leaves_while_the_others_serve() {
    let local = local(3);
    must(local.wait_for_ranges(1, |range| is_kept_by(range, 3)));
    let store = must(local.store(3));
    let drained = must(local.order(1, &["cluster", "drain", "--store", &store[..12]]));
    assert_eq!(drained.code, Some(0), "{}", drained.output);
    assert!(drained.output.ends_with("(draining) has nothing\n"), "{}", drained.output);
    must(local.wait_for_health(3, 4, "cluster drain --cancel"));
    must(local.deliver(1, 2, "while/drained"));
    let back = must(local.order(2, &["cluster", "drain", "--store", &store, "--cancel"]));
    assert_eq!(back.code, Some(0), "{}", back.output);
    must(local.wait_for_ranges(1, |range| is_kept_by(range, 3)));
    must(local.wait_for_health(3, 0, "ok"));
    let left = must(local.order(3, &["cluster", "leave"]));
    assert_eq!(left.code, Some(0), "{}", left.output);
    must(local.wait_for_ranges(1, |range| !range.keepers.all().any(|keeper| keeper == store)));
    let gone = until(PATIENCE, || {
        let cluster = local.cluster(2)?;
        let is_listed = cluster.stores.iter().any(|listed| listed.id == store);
        Ok((cluster.hosts.len() == 2 && !is_listed).then_some(()))
    });
    assert!(must(gone).is_some(), "{:?}", local.cluster(2));
    must(local.deliver(2, 1, "after/leave"));
    let refused = must(local.order(1, &["cluster", "drain", "--store", &store]));
    assert_eq!(refused.code, Some(1), "{}", refused.output);
    assert!(refused.output.contains("no store is known"), "{}", refused.output);
}

/// OPS-003, KV-020: a node that died with its disk is started with an empty one; its old store is given up,
/// and every range is kept by three again at once.
#[test]
fn a_dead_node_is_replaced_by_an_empty_one() {
    let mut local = local(3);
    must(local.wait_for_ranges(1, |range| is_kept_by(range, 3)));
    let store = must(local.store(3));
    let early = must(local.order(1, &["cluster", "replace", &store]));
    assert_eq!(early.code, Some(1), "{}", early.output);
    assert!(early.output.contains("answers"), "{}", early.output);
    kill(&local.node(3).process);
    local.dev().wait_for_output("node-3 has ended: killed by signal 9", PATIENCE).expect("is told");
    let output = local.dev().output().expect("reads");
    let start = output.lines().find(|line| line.trim_start().starts_with("ratatosk start"));
    let start = start.expect("dev says how to have it back").trim();
    fs::remove_dir_all(local.place().path("ratatosk-dev/node-3")).expect("was there");
    let log = local.place().path("again.log");
    let _again = Process::start(shell(&local, start), &log).expect("starts");
    let away = until(PATIENCE, || {
        let cluster = local.cluster(1)?;
        let listed = cluster.stores.iter().find(|listed| listed.id == store);
        Ok(listed.is_some_and(|listed| listed.reach == Reach::Away).then_some(()))
    });
    assert!(must(away).is_some(), "{:?}", local.cluster(1));
    let given_up = must(local.order(1, &["cluster", "replace", &store, "--format", "json"]));
    assert_eq!(given_up.code, Some(0), "{}", given_up.output);
    assert!(given_up.output.contains(r#""standing":"given_up""#), "{}", given_up.output);
    must(local.wait_for_ranges(2, |range| {
        is_kept_by(range, 3) && !range.keepers.all().any(|keeper| keeper == store)
    }));
    must(local.wait_for_health(3, 0, "ok"));
    must(local.deliver(1, 3, "to/the/new/one"));
}

/// KV-027: without a quorum a node stays up and names what it waits for; what would be lost is said first, and
/// once that is accepted it goes on.
#[test]
fn a_range_without_a_quorum_goes_on_when_the_loss_is_accepted() {
    let local = local(3);
    must(local.wait_for_ranges(1, |range| is_kept_by(range, 3)));
    let lost = [must(local.store(2)), must(local.store(3))];
    let refused = must(local.order(1, &["cluster", "recover"]));
    assert_eq!(refused.code, Some(1), "{}", refused.output);
    assert!(refused.output.contains("nothing to bring back"), "{}", refused.output);
    kill(&local.node(2).process);
    kill(&local.node(3).process);
    must(local.wait_for_health(1, 4, "no leader, for want of a quorum: "));
    let shown = until(PATIENCE, || {
        let shown = local.order(1, &["cluster", "recover"])?;
        let has_all = lost.iter().all(|store| shown.output.contains(store));
        Ok((shown.code == Some(4) && has_all).then_some(shown))
    });
    let shown = must(shown).expect("what would be lost is shown");
    assert!(shown.output.contains("Nothing was done."), "{}", shown.output);
    let half = must(local.order(1, &["cluster", "recover", "--accept-loss-of", &lost[0]]));
    assert_eq!(half.code, Some(1), "{}", half.output);
    assert!(half.output.contains("name exactly those"), "{}", half.output);
    let both = lost.join(",");
    let done = must(local.order(1, &["cluster", "recover", "--accept-loss-of", &both]));
    assert_eq!(done.code, Some(0), "{}", done.output);
    must(local.wait_for_health(1, 0, "ok"));
    must(local.deliver(1, 1, "alone"));
    let status = must(local.cluster(1));
    assert!(status.stores.iter().all(|store| store.standing == Standing::Member), "{status:?}");
}

/// What stands in the way is said before anything starts.
#[test]
fn a_port_in_use_is_named_before_anything_starts() {
    let place = Place::new().expect("a folder");
    // Whoever has it: this test, or something else on this machine.
    let _taken = TcpListener::bind("127.0.0.1:18091");
    let outcome = place.ratatosk(&["dev", "--nodes", "9"], "").expect("runs");
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert!(outcome.output.contains("127.0.0.1:18091, for the management API of node-9"));
    assert!(outcome.output.contains("--free-ports"), "{}", outcome.output);
    assert!(!place.path("ratatosk-dev").exists());
    let outcome = place.ratatosk(&["dev", "--nodes", "10"], "").expect("runs");
    assert_eq!(outcome.code, Some(2), "{}", outcome.output);
}

/// A line for a shell in the folder of a cluster, in which `ratatosk` is the binary under test.
fn shell(local: &Local, line: &str) -> Command {
    let program = ratatosk().expect("is built");
    let mut command = Command::new("sh");
    let script = format!("ratatosk() {{ exec \"$PROGRAM\" \"$@\"; }}\n{line}");
    command.args(["-c", &script]).env("PROGRAM", program.get_program());
    for (name, _) in program.get_envs().filter(|(_, value)| value.is_none()) {
        command.env_remove(name);
    }
    command.current_dir(local.place().path(""));
    command
}

fn kill(process: &str) {
    let status = Command::new("kill").args(["-KILL", process]).status().expect("kill");
    assert!(status.success());
}

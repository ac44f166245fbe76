//! Behaviour of routes that outlive the process.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_client::{Fate, Keyspace};
use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::{
    Call, ShardId,
    dist::{AddError, InboxRoute, Receiver, ReceiverKey},
    inbox::InboxId,
};
use ratatosk_engine::{Batch, KeyRange, MemoryEngine, Overlay, SpaceId};
use ratatosk_store::coprocessor::{Coprocessor, Position, SpaceReader, Writer};

use crate::{
    DistCoprocessor,
    coprocessor::Answer,
    durable_fixture::{Life, Process, Routes, filter},
    effect::{Draft, Effect, Name},
    schema::{Kept, TENANT_BYTES_MAX, key},
};

const ONE: Life = Life { member: 5, inbox: 64, incarnation: 1_000 };
const TWO: Life = Life { member: 5, inbox: 128, incarnation: 2_000 };

fn one(text: &str, number: u64, inbox: u64) -> Routes {
    Routes::from([(("t".to_owned(), text.to_owned(), number), (inbox, 1))])
}

/// DIST-001, DUR-002: also after a crash, once their command is durable.
#[test]
fn routes_of_persistent_sessions_come_back() {
    let process = Process::new();
    for text in ["a/+", "$share/g/a", "$oshare/g/a/#"] {
        process.add("t", text, ONE).unwrap();
    }
    process.add("", "a/+", ONE).unwrap();
    let routes = process.routes();
    assert_eq!(routes.len(), 4);
    assert!(process.crash().routes().is_empty(), "nothing was durable");
    process.keyspace.settle();
    assert_eq!(process.content(), routes);
    for again in [process.crash(), process.reopen()] {
        assert_eq!(again.routes(), routes);
        assert_eq!(again.keyspace.waiting(), 0, "what is as it should be is not written again");
        assert_eq!(again.repair(&routes), (0, 0));
        assert_eq!(again.keyspace.waiting(), 0);
        assert!(again.remove("t", "a/+", Life { incarnation: 1, ..ONE }));
        again.keyspace.settle();
        assert_eq!(again.content().len(), 3);
    }
}

/// They die with their node, so nothing is written.
#[test]
fn routes_of_transient_sessions_are_not_stored() {
    let process = Process::new();
    let routes = process.tenant("t");
    let shard = Receiver::Shard(ShardId(3));
    let route = routes.add(&filter("a"), shard).ready().unwrap().unwrap();
    routes.add(&filter("$share/g/a"), ONE.transient()).ready().unwrap().unwrap();
    assert!(process.remove("t", "$share/g/a", ONE));
    assert_eq!(routes.remove_route(route, &ReceiverKey::Shard(ShardId(3))), Call::Ready(true));
    assert_eq!(process.keyspace.waiting(), 0);
}

/// DIST-002: whichever comes later, in the table and in the data.
#[test]
fn an_earlier_life_neither_replaces_nor_removes_a_later_one_in_the_data() {
    let process = Process::new();
    let text = "$share/g/a";
    process.add("t", text, ONE).unwrap();
    process.add("t", text, TWO).unwrap();
    assert!(!process.remove("t", text, ONE));
    process.add_at("t", text, ONE, 2).unwrap();
    process.keyspace.settle();
    assert_eq!(process.content(), one(text, 5, 128));

    // Commands that are late, from another leader perhaps.
    let submit = |effect: &Effect<'_>| {
        let mut draft = Draft::of("t");
        draft.push(effect);
        let (key, command) = draft.finish();
        let is_done = |fate: Fate| assert_eq!(fate, Fate::Applied(Bytes::from_static(&[0])));
        process.keyspace.submit(&key, command, Box::new(is_done));
        process.keyspace.settle();
    };
    let options = SubscriptionOptions::new(Qos::ExactlyOnce);
    let (filter, member) = (filter(text), Some(5));
    let kept = Kept { inbox: InboxId(64), options, subscription_id: None };
    submit(&Effect::Added { filter, member, kept });
    submit(&Effect::Removed(Name { filter, member, inbox: InboxId(64) }));
    assert_eq!(process.content(), one(text, 5, 128));
    for _ in 0..2 {
        submit(&Effect::Removed(Name { filter, member, inbox: InboxId(128) }));
        assert!(process.content().is_empty());
    }
}

/// DIST-001: whoever subscribes again as he was makes no command, and is not kept out for want of
/// room; whoever brings anything new is. MQTT-077
#[test]
fn what_is_there_already_needs_no_room() {
    let process = Process::new();
    for text in ["a", "$share/g/a"] {
        process.add("t", text, ONE).unwrap();
    }
    process.keyspace.settle();
    process.keyspace.set_busy(true);
    let routes = process.tenant("t");
    let held = routes.group(routes.find(&filter("a")).unwrap(), "g", false).unwrap();
    let member = Receiver::Member { member: held.members[0].clone(), members_max: 1 };
    assert!(routes.add(&filter("$share/g/a"), member).ready().unwrap().is_ok());
    assert!(process.add("t", "a", ONE).is_ok());
    assert_eq!(process.keyspace.waiting(), 0);
    assert_eq!(process.add_at("t", "a", ONE, 2), Err(AddError::Busy));
    assert_eq!(process.add("t", "b", ONE), Err(AddError::Busy));
    assert_eq!(process.add("t", "$share/g/a", TWO), Err(AddError::Busy));
    assert_eq!(process.routes().len(), 2, "nothing was changed");
    // What nobody keeps, and what goes, is not asked for room.
    assert!(routes.add(&filter("b"), Receiver::Shard(ShardId(1))).ready().unwrap().is_ok());
    assert!(routes.add(&filter("$share/g/b"), ONE.transient()).ready().unwrap().is_ok());
    assert!(process.remove("t", "a", ONE));
    process.keyspace.settle();
    assert_eq!(process.content(), one("$share/g/a", 5, 64));
}

/// DIST-002: a client that comes back with a transient session, while the routes of the one that
/// ended are still to be removed; and the other way round.
#[test]
fn a_member_that_becomes_transient_is_stored_no_more() {
    let process = Process::new();
    let text = "$share/g/a";
    process.add("t", text, ONE).unwrap();
    process.tenant("t").add(&filter(text), TWO.transient()).ready().unwrap().unwrap();
    assert!(!process.remove("t", text, ONE));
    process.keyspace.settle();
    assert!(process.content().is_empty());
    let back = Life { inbox: 192, incarnation: 3_000, ..TWO };
    process.add("t", text, back).unwrap();
    assert!(!process.remove("t", text, TWO), "the transient one's end comes late");
    process.keyspace.settle();
    assert_eq!(process.content(), one(text, 5, 192));
}

/// DIST-014: the records of the sessions are right, whichever of the two a crash took.
#[test]
fn routes_are_repaired_from_the_sessions() {
    let process = Process::new();
    for text in ["stale", "changed", "$share/g/later", "kept"] {
        process.add("t", text, TWO).unwrap();
    }
    process.add("gone", "a", ONE).unwrap();
    process.keyspace.settle();
    let process = process.crash();
    let named = |text: &str, number: u64, inbox, qos| {
        (("t".to_owned(), text.to_owned(), number), (inbox, qos))
    };
    let truth = Routes::from([
        named("changed", 128, 128, 2),
        // The new life is gone with the crash: the one before is the one there is.
        named("$share/g/later", 5, 64, 1),
        named("kept", 128, 128, 1),
        named("missing", 64, 64, 0),
    ]);
    assert_eq!(process.repair(&truth), (3, 2));
    assert_eq!(process.routes(), truth);
    process.keyspace.settle();
    assert_eq!(process.content(), truth);
    assert_eq!(process.reopen().repair(&truth), (0, 0));
}

/// What belongs together goes together: a command for many, not one for each.
#[test]
fn routes_that_end_together_share_a_command() {
    let process = Process::new();
    let texts: Vec<_> = (0..5_000).map(|number| format!("some/long/filter/{number}")).collect();
    for text in &texts {
        process.add("t", text, ONE).unwrap();
    }
    process.keyspace.settle();
    let keys: Vec<_> = texts.iter().map(|text| (filter(text), ONE.key(text))).collect();
    assert_eq!(process.tenant("t").remove_each(&keys), 5_000);
    assert_eq!(process.tenant("t").remove_each(&keys), 0);
    assert!((2..6).contains(&process.keyspace.waiting()), "{}", process.keyspace.waiting());
    process.keyspace.settle();
    assert!(process.content().is_empty());
}

/// A plain route may be removed by its number, too; what is stored goes with it.
#[test]
fn a_route_that_is_removed_by_its_number_is_stored_no_more() {
    let process = Process::new();
    let route = process.add("t", "a/#", ONE).unwrap();
    let routes = process.tenant("t");
    assert_eq!(routes.remove_route(route, &ONE.key("a/#")), Call::Ready(true));
    assert_eq!(routes.remove_route(route, &ONE.key("a/#")), Call::Ready(false));
    process.keyspace.settle();
    assert!(process.content().is_empty());
}

#[test]
fn a_tenant_whose_name_fits_into_no_key_has_no_persistent_sessions() {
    let process = Process::new();
    let name = "t".repeat(TENANT_BYTES_MAX + 1);
    assert_eq!(process.add(&name, "a", ONE), Err(AddError::Busy));
    let shard = Receiver::Shard(ShardId(1));
    assert!(process.tenant(&name).add(&filter("a"), shard).ready().unwrap().is_ok());
    assert!(process.add(&name[1..], "a", ONE).is_ok());
    process.keyspace.settle();
    assert_eq!(process.reopen().routes().len(), 1);
}

/// Routes are shown page by page, whatever is between them.
#[test]
fn every_stored_route_is_shown_once() {
    let process = Process::new();
    let routes = process.tenant("t");
    for number in 0..10_000_u64 {
        let text = format!("a/{number}");
        match number % 3 {
            0 => process.add("t", &text, ONE).map(|_| ()).unwrap(),
            1 => process.add("t", &format!("$oshare/g/{text}"), ONE).map(|_| ()).unwrap(),
            _ => {
                let _ = routes.add(&filter(&text), Receiver::Shard(ShardId(1)));
            }
        }
    }
    assert_eq!(process.routes().len(), 6_667);
    let mut found = Vec::new();
    assert_eq!(routes.stored(0, &mut found), Some(4_096));
    assert!(found.len() < 4_096);
    assert_eq!(routes.stored(20_000, &mut found), None);
}

/// A range that ends between two routes of a command carries out its own part.
#[test]
fn what_lies_outside_the_range_is_left_out() {
    const SPACE: SpaceId = SpaceId(0);
    let mut draft = Draft::of("t");
    for text in ["a", "b/c", "b/d"] {
        let name = Name { filter: filter(text), member: None, inbox: InboxId(64) };
        draft.push(&Effect::Removed(name));
    }
    let (_, command) = draft.finish();
    let split = Bytes::from(key("t", filter("b/c"), 0));
    let left = KeyRange { end: Some(split.clone()), ..KeyRange::all() };
    let right = KeyRange { start: split, end: None };
    for (boundary, count) in [(left, 1), (right, 2), (KeyRange::all(), 3)] {
        let overlay = Overlay::new(MemoryEngine::new(1), 1);
        let mut coprocessor = DistCoprocessor::new();
        let reader = overlay.view();
        coprocessor.reset(&boundary, &SpaceReader::new(&reader, SPACE, &boundary)).unwrap();
        let mut changes = Batch::new();
        let mut writer = Writer::new(&overlay, SPACE, &boundary, &mut changes);
        let position = Position { index: 1, number: 0 };
        let answer = coprocessor.apply(position, &command, &mut writer).unwrap();
        assert_eq!((changes.len(), Answer::is_done(&answer)), (count, count == 3));
    }
}

/// The order of the log is that of the table, whoever writes at the same time. DIST-001
#[test]
fn the_data_follows_the_table_under_contention() {
    let process = Arc::new(Process::new());
    let threads = (0..4_u64).map(|number| {
        let process = Arc::clone(&process);
        std::thread::spawn(move || {
            let life = Life { member: 5, inbox: 64 * (number + 1), incarnation: number + 1 };
            for round in 0..300 {
                process.add("t", "$share/g/a", life).unwrap();
                if round % 3 == number % 3 {
                    process.remove("t", "$share/g/a", life);
                }
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    process.keyspace.settle();
    assert_eq!(process.content(), process.routes());
}

/// The subscription identifier is kept as well.
#[test]
fn a_route_comes_back_as_it_was() {
    let process = Process::new();
    let options =
        SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(Qos::ExactlyOnce) };
    let (inbox, subscription_id) = (InboxId(64), Some(268_435_455));
    let route = InboxRoute { inbox, incarnation: 9, options, subscription_id };
    let routes = process.tenant("t");
    assert!(routes.add(&filter("a"), Receiver::Inbox(route)).ready().unwrap().is_ok());
    process.keyspace.settle();
    let again = process.crash();
    let (restored, mut found) = (InboxRoute { incarnation: 1, ..route }, Vec::new());
    again.tenant("t").stored(0, &mut found);
    assert_eq!(found.iter().map(|held| held.route).collect::<Vec<_>>(), [restored]);
}

//! What is told of made-up landscapes, and what is refused.

use std::collections::BTreeMap;

use ratatosk_admin::cluster::{
    Following, RangeState, Reach as ReachView, Standing as StandingView,
};
use ratatosk_balance::landscape::{Leading, Lineage, LogEnd, Progress, Report};
use ratatosk_clock::Instant;
use ratatosk_engine::KeyRange;
use ratatosk_remote::{Roll, Seat};
use ratatosk_rpc::HostId;
use ratatosk_store::machine::Status;
use ratatosk_store::membership::{Membership, Target};
use ratatosk_store::range::Descriptor;

use super::*;

const NOW: Instant = Instant::from_millis(100_000);
const GROUP: GroupId = GroupId(0xc);

/// A range of some stores, by its keyspace.
fn descriptor(keyspace: &str, voters: &[u64]) -> Descriptor {
    let mut descriptor = Descriptor::whole(GROUP, keyspace.to_owned(), voters[0]);
    let target = Target { voters: voters.iter().copied().collect(), learners: [].into() };
    while let Ok(step) = descriptor.membership.toward(&target) {
        descriptor.membership = step.membership.left();
    }
    assert_ne!(descriptor.membership, Membership::alone(9));
    descriptor
}

/// Stores 1 to 3, of which some are away, with a range that the first one that is up leads if most are.
fn landscape(away: &[u64]) -> Landscape {
    let leader = (1..=3).find(|store| !away.contains(store)).filter(|_| away.len() < 2);
    let store = |number: u64| {
        let progress = (1..=3).filter(|other| *other != number);
        let progress = progress.map(|other| (other, Progress::CaughtUp)).collect();
        let leading = (leader == Some(number)).then(|| Leading { progress, ..Leading::default() });
        let report = Report {
            descriptor: descriptor("dist.route", &[1, 2, 3]),
            term: 4,
            log: LogEnd { term: 4, index: 10 + number },
            lineage: Lineage::default(),
            leading,
        };
        let reach = match away.contains(&number) {
            true => Reach::Away { since: Instant::from_millis(66_000) },
            false => Reach::Up,
        };
        let keyspaces = keyspaces().map(str::to_owned).collect();
        let replicas = [(GROUP, report)].into();
        ratatosk_balance::landscape::Store {
            reach,
            keyspaces,
            replicas,
            ..ratatosk_balance::landscape::Store::default()
        }
    };
    Landscape { stores: (1..=3).map(|number| (number, store(number))).collect() }
}

fn roll() -> Roll {
    let seat = |host: u128| Seat { host: HostId(host), address: "127.0.0.1:7884".parse().ok() };
    Roll { seats: [(1, seat(0xa1)), (2, seat(0xa2))].into(), foreign: BTreeMap::new() }
}

fn overview(landscape: &Landscape) -> Overview {
    Overview::of(&RuleBook::default(), landscape, NOW)
}

#[test]
fn stores_are_told_with_where_they_are_and_what_they_have() {
    let mut landscape = landscape(&[3]);
    landscape.stores.get_mut(&3).expect("it is there").standing = Standing::GivenUp;
    let overview = overview(&landscape);
    let told =
        |number: u64| sketch::store(number, &landscape.stores[&number], &overview, &roll(), NOW);
    let (first, last) = (told(1), told(3));
    assert_eq!(first.id, "0000000000000001");
    assert_eq!(first.host.as_deref(), Some("000000000000000000000000000000a1"));
    assert_eq!((first.reach, first.away_seconds), (ReachView::Up, None));
    assert_eq!((first.leads, first.votes, first.learns), (1, 1, 0));
    assert_eq!((&last.host, last.reach, last.away_seconds), (&None, ReachView::Away, Some(34)));
    assert_eq!(last.standing, StandingView::GivenUp);
    assert_eq!((last.leads, last.votes), (0, 1));
    assert!(!sketch::is_over(&last), "a range names it still");
    let emptied = Store { votes: 0, ..last };
    assert!(sketch::is_over(&emptied));
    assert!(!sketch::is_over(&Store { standing: StandingView::Member, ..emptied.clone() }));
    assert!(!sketch::is_over(&Store { reach: ReachView::Up, ..emptied }), "it may have more soon");
}

#[test]
fn ranges_are_told_with_printable_keys_and_who_follows() {
    let mut landscape = landscape(&[]);
    for held in landscape.stores.values_mut() {
        let report = held.replicas.get_mut(&GROUP).expect("it is there");
        report.descriptor.boundary =
            KeyRange { start: (&b"\0a\\\xff "[..]).into(), end: Some((&b"b"[..]).into()) };
    }
    let overview = overview(&landscape);
    let range = sketch::range(&overview.ranges[0], &roll());
    assert_eq!(range.keys.from, "\\x00a\\x5c\\xff ");
    assert_eq!(range.keys.to.as_deref(), Some("b"));
    assert_eq!(range.state, RangeState::Led);
    let leader = range.leader.expect("it is led");
    assert_eq!((leader.store.as_str(), leader.term), ("0000000000000001", 4));
    assert!(leader.host.is_some_and(|host| host.ends_with("a1")));
    assert_eq!(range.following["0000000000000002"], Following::CaughtUp);
    assert_eq!(range.keepers.voters.len(), 3);
}

/// KV-027: what would be lost is what those who are away alone have; the order has to name just them.
#[test]
fn a_loss_is_accepted_by_its_names_alone() {
    let landscape = landscape(&[1, 3]);
    let recovery = recovery(&landscape, GROUP).expect("two of three are away");
    let loss = sketch::loss(&recovery, &overview(&landscape)).expect("it is known");
    assert_eq!((loss.survivor.as_str(), loss.log_index), ("0000000000000002", 12));
    assert_eq!(loss.lost, ["0000000000000001", "0000000000000003"]);
    let judge = |accepted: &[&str]| {
        let accepted: Vec<_> = accepted.iter().map(|store| (*store).to_owned()).collect();
        judge_acceptance(std::slice::from_ref(&recovery), &accepted).err()
    };
    assert_eq!(judge(&["0000000000000003", "0000000000000001"]), None);
    for wrong in [&["0000000000000003"][..], &[], &["0000000000000002", "0000000000000003"]] {
        let Some(Refused::Conflict(said)) = judge(wrong) else { panic!("{wrong:?}") };
        assert!(said.contains("0000000000000001, 0000000000000003 alone has"), "{said}");
    }
    assert!(matches!(judge(&["three"]), Some(Refused::Senseless(_))));
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let said = |refused: Refused| refused.to_string();
    for wrong in ["12", "", "000000000000000g", "00000000000000001", "+000000000000001"] {
        let refused = said(number(wrong, "store").expect_err("it is none"));
        assert!(refused.contains("16 digits") && refused.contains("cluster status"), "{refused}");
    }
    assert_eq!(number("00000000000000aB", "range").ok(), Some(0xab));
    assert!(matches!(known(&landscape(&[]), 7), Err(Refused::Unknown(_))));
    let unknown = recovery(&landscape(&[]), GroupId(7)).expect_err("there is none");
    assert!(said(unknown).contains("`ratatosk ranges`"));
    let alive = recovery(&landscape(&[3]), GROUP).expect_err("two are up");
    assert!(said(alive).contains("0000000000000001, 0000000000000002 are up"));
    let nobody = recovery(&landscape(&[1, 2, 3]), GROUP).expect_err("nobody is up");
    assert!(said(nobody).contains("start one of 0000000000000001"));
}

#[test]
fn a_node_is_ready_when_what_it_keeps_is_led() {
    let status = |keyspace: &str, leader| Status {
        group: GROUP,
        descriptor: descriptor(keyspace, &[1]),
        term: 1,
        last: (1, 1),
        leader,
        is_asleep: false,
        followers: None,
    };
    assert_eq!(readiness::led(&[status("dist.route", Some(2))]), Ok(()));
    let mut groups = vec![status("dist.route", None), status("inbox.session", Some(1))];
    let said = readiness::led(&groups).expect_err("one is not");
    assert_eq!(said, "no leader, for want of a quorum: dist.route 000000000000000c");
    groups.extend((0..9).map(|_| status("retain.message", None)));
    let said = readiness::led(&groups).expect_err("ten are not");
    assert!(said.ends_with(" and 2 more"), "{said}");
    let said = readiness::covered(&overview(&landscape(&[]))).expect_err("two are not known");
    assert_eq!(said, "nobody is known to lead any range of inbox.session, retain.message");
}

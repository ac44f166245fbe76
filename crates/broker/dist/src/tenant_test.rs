//! Behaviour of the routes of one tenant, and of the tables of many.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use proptest::prelude::*;
use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::{
    Call, HostNumber, PublisherId, ShardId, TenantId,
    dist::{
        AddError, Dist, HostRoute, InboxRoute, Receiver, ReceiverKey, Resolution, RouteId,
        TenantRoutes,
    },
    group::{Group, Member, MemberTarget},
    inbox::InboxId,
};
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};

use crate::{
    DistService,
    tenant::{Home, Tenant},
};

fn tenant() -> Tenant {
    Tenant::new(TenantId::new("t"), 7, Arc::new(AtomicU32::new(0)), Home::Memory)
}

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::parse(text, &TopicLimits::PROTOCOL).unwrap()
}

fn topic(text: &str) -> TopicName<'_> {
    TopicName::parse(text, &TopicLimits::PROTOCOL).unwrap()
}

fn inbox(id: u64, incarnation: u64, qos: Qos) -> InboxRoute {
    let inbox = InboxId(id);
    InboxRoute { inbox, incarnation, options: SubscriptionOptions::new(qos), subscription_id: None }
}

fn member(id: u64, incarnation: u64, qos: Qos) -> Member {
    Member {
        id,
        incarnation,
        target: MemberTarget::Inbox(InboxId(id)),
        options: SubscriptionOptions::new(qos),
        subscription_id: None,
        state: Arc::default(),
    }
}

fn add(routes: &dyn TenantRoutes, text: &str, receiver: Receiver) -> Result<RouteId, AddError> {
    routes.add(&filter(text), receiver).ready().unwrap()
}

fn add_member(
    routes: &dyn TenantRoutes,
    text: &str,
    member: &Member,
    members_max: u32,
) -> Result<RouteId, AddError> {
    add(routes, text, Receiver::Member { member: member.clone(), members_max })
}

fn remove(routes: &dyn TenantRoutes, text: &str, receiver: ReceiverKey) -> bool {
    routes.remove(&filter(text), &receiver).ready().unwrap()
}

fn resolve(routes: &dyn TenantRoutes, text: &str) -> Resolution {
    let mut found = Resolution::default();
    routes.resolve(topic(text), &mut found);
    found
}

fn member_ids(group: &Group) -> Vec<u64> {
    group.members.iter().map(|member| member.id).collect()
}

const SHARD: Receiver = Receiver::Shard(ShardId(3));
const SHARD_KEY: ReceiverKey = ReceiverKey::Shard(ShardId(3));

/// DIST-001: a receiver that is added again changes nothing, and needs one removal.
#[test]
fn adding_a_receiver_twice_is_adding_it_once() {
    let routes = tenant();
    let member = member(5, 1, Qos::AtLeastOnce);
    let session = Receiver::Inbox(inbox(5, 1, Qos::AtLeastOnce));
    let first = add(&routes, "a/+", SHARD).unwrap();
    add(&routes, "a/+", session.clone()).unwrap();
    add_member(&routes, "$share/g/a/+", &member, 9).unwrap();
    let epoch = routes.epoch();
    assert_eq!(add(&routes, "a/+", SHARD), Ok(first));
    assert_eq!(add(&routes, "a/+", session), Ok(first));
    assert_eq!(add_member(&routes, "$share/g/a/+", &member, 9), Ok(first));
    assert_eq!(routes.epoch(), epoch, "nothing that a resolution could show has changed");
    let stats = routes.stats();
    assert_eq!((stats.shards, stats.inboxes, stats.groups, stats.members), (1, 1, 1, 1));

    for _ in 0..2 {
        let is_first = routes.len() == 1;
        assert_eq!(remove(&routes, "a/+", SHARD_KEY), is_first);
        let key = ReceiverKey::Inbox { inbox: InboxId(5), incarnation: 1 };
        assert_eq!(remove(&routes, "a/+", key), is_first);
        let key = ReceiverKey::Member { id: 5, incarnation: 1 };
        assert_eq!(remove(&routes, "$share/g/a/+", key), is_first);
        routes.check_invariants();
    }
    assert!(routes.is_empty());
    assert_eq!(routes.find(&filter("a/+")), None);
}

/// DIST-001, DIST-002: a later life replaces an earlier one and is not touched by its latecomers.
#[test]
fn an_earlier_life_neither_replaces_nor_removes_a_later_one() {
    let routes = tenant();
    let key = |incarnation| ReceiverKey::Inbox { inbox: InboxId(5), incarnation };
    for incarnation in [2, 4, 3] {
        let qos = if incarnation == 3 { Qos::AtMostOnce } else { Qos::ExactlyOnce };
        add(&routes, "a", Receiver::Inbox(inbox(5, incarnation, qos))).unwrap();
    }
    assert_eq!(resolve(&routes, "a").inboxes, [inbox(5, 4, Qos::ExactlyOnce)]);
    assert!(!remove(&routes, "a", key(3)));
    assert_eq!(resolve(&routes, "a").inboxes.len(), 1);
    assert!(remove(&routes, "a", key(4)));

    let key = |incarnation| ReceiverKey::Member { id: 5, incarnation };
    for incarnation in [2, 4, 3] {
        add_member(&routes, "$share/g/a", &member(5, incarnation, Qos::AtMostOnce), 9).unwrap();
    }
    assert_eq!(resolve(&routes, "a").groups[0].members[0].incarnation, 4);
    assert!(!remove(&routes, "$share/g/a", key(3)));
    assert!(remove(&routes, "$share/g/a", key(5)));
    assert!(routes.is_empty());
}

/// The options of a subscription are replaced in its place.
#[test]
fn subscribing_again_replaces_the_options() {
    let routes = tenant();
    let before = add(&routes, "a", Receiver::Inbox(inbox(1, 1, Qos::AtMostOnce)));
    let epoch = routes.epoch();
    let after = add(&routes, "a", Receiver::Inbox(inbox(1, 1, Qos::ExactlyOnce)));
    assert_eq!(before, after);
    assert!(routes.epoch() > epoch);
    assert_eq!(resolve(&routes, "a").inboxes, [inbox(1, 1, Qos::ExactlyOnce)]);
}

/// Who is not in the full group stays out, who is may change its options.
#[test]
fn a_full_group_takes_no_further_member() {
    let routes = tenant();
    assert_eq!(
        add_member(&routes, "$share/g/a", &member(1, 1, Qos::AtMostOnce), 0),
        Err(AddError::GroupFull { members_max: 0 })
    );
    assert!(routes.is_empty(), "a refused member leaves no filter behind");
    for id in [1, 2] {
        add_member(&routes, "$share/g/a", &member(id, 1, Qos::AtMostOnce), 2).unwrap();
    }
    let refused = Err(AddError::GroupFull { members_max: 2 });
    assert_eq!(add_member(&routes, "$share/g/a", &member(3, 1, Qos::AtMostOnce), 2), refused);
    add_member(&routes, "$share/g/a", &member(2, 1, Qos::ExactlyOnce), 2).unwrap();
    add_member(&routes, "$share/h/a", &member(3, 1, Qos::AtMostOnce), 2).unwrap();
    add_member(&routes, "$oshare/g/a", &member(3, 1, Qos::AtMostOnce), 2).unwrap();
    assert_eq!(resolve(&routes, "a").groups.len(), 3);
    routes.check_invariants();
}

/// DIST-013: groups of one name but another filter or order are others, too.
#[test]
fn removing_a_group_leaves_other_groups_and_plain_subscriptions() {
    let routes = tenant();
    let texts = ["$share/g/a", "$share/h/a", "$oshare/g/a", "$share/g/+"];
    for text in texts {
        add_member(&routes, text, &member(1, 1, Qos::AtMostOnce), 9).unwrap();
    }
    add(&routes, "a", SHARD).unwrap();
    add(&routes, "a", Receiver::Inbox(inbox(1, 1, Qos::AtMostOnce))).unwrap();
    let key = ReceiverKey::Member { id: 1, incarnation: 1 };
    assert!(remove(&routes, "$share/g/a", key));

    let found = resolve(&routes, "a");
    let mut left: Vec<_> =
        found.groups.iter().map(|group| (&*group.name, group.is_ordered)).collect();
    left.sort_unstable();
    assert_eq!(left, [("g", false), ("g", true), ("h", false)]);
    assert_eq!((found.transient.len(), found.inboxes.len()), (1, 1));
    routes.check_invariants();
}

/// DIST-011: the round goes on where it was when members come and go.
#[test]
fn a_group_that_changes_keeps_its_turn() {
    let routes = tenant();
    for id in 0..4 {
        add_member(&routes, "$share/g/a", &member(id, 1, Qos::AtMostOnce), 9).unwrap();
    }
    let held = resolve(&routes, "a").groups;
    let chosen = |group: &Group| group.choose(PublisherId(0), None).map(|member| member.id);
    assert_eq!((chosen(&held[0]), chosen(&held[0])), (Some(0), Some(1)));
    add_member(&routes, "$share/g/a", &member(9, 1, Qos::AtMostOnce), 9).unwrap();
    let route = held[0].route;
    let now = routes.group(route, "g", false).unwrap();
    assert_eq!(chosen(&now), Some(2));
    assert_eq!(
        (held[0].members.len(), now.members.len()),
        (4, 5),
        "who holds it sees it unchanged"
    );
    assert!(routes.group(route, "g", true).is_none());
}

/// DIST-009: all sessions of a shard, and of other shards, are under one route.
#[test]
fn transient_subscribers_of_one_filter_share_one_route() {
    let routes = tenant();
    let route = add(&routes, "a/#", SHARD).unwrap();
    assert_eq!(add(&routes, "a/#", Receiver::Shard(ShardId(63))), Ok(route));
    let found = resolve(&routes, "a/b");
    assert_eq!(found.transient.len(), 1);
    assert_eq!(found.transient[0].route, route);
    assert_eq!(found.transient[0].shards.iter().collect::<Vec<_>>(), [ShardId(3), ShardId(63)]);
}

#[test]
fn a_route_that_is_gone_is_not_mistaken_for_its_successor() {
    let routes = tenant();
    let old = add(&routes, "a", SHARD).unwrap();
    assert_eq!(routes.remove_route(old, &SHARD_KEY), Call::Ready(true));
    let new = add(&routes, "b", SHARD).unwrap();
    assert_eq!(old.index, new.index, "the place is used again");
    assert_ne!(old, new);
    assert_eq!(routes.remove_route(old, &SHARD_KEY), Call::Ready(false));
    let mut text = String::from("> ");
    assert!(!routes.filter_text(old, &mut text));
    assert!(routes.filter_text(new, &mut text));
    assert_eq!(text, "> b");
    let beyond = RouteId { index: u32::MAX, generation: 0 };
    assert_eq!(routes.remove_route(beyond, &SHARD_KEY), Call::Ready(false));
}

#[test]
fn members_are_not_removed_by_their_route() {
    let routes = tenant();
    let route = add_member(&routes, "$share/g/a", &member(1, 1, Qos::AtMostOnce), 9).unwrap();
    let key = ReceiverKey::Member { id: 1, incarnation: 1 };
    assert_eq!(routes.remove_route(route, &key), Call::Ready(false));
    assert_eq!(routes.find(&filter("$share/other/a")), Some(route), "the share has no say");
}

/// DIST-005: what was added is seen by whoever looks after the call, and outdates what is kept.
#[test]
fn changes_are_visible_to_other_threads_when_they_return() {
    let routes = Arc::new(tenant());
    let published = Arc::new(AtomicU32::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (routes, published, stop) = (routes.clone(), published.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut kept = resolve(&*routes, "a/1");
            let mut changes = 0;
            while !stop.load(Ordering::Acquire) {
                let expected = published.load(Ordering::Acquire) as usize;
                if routes.epoch() != kept.epoch {
                    kept = resolve(&*routes, "a/1");
                    changes += 1;
                }
                assert!(kept.inboxes.len() >= expected, "{} < {expected}", kept.inboxes.len());
            }
            changes
        })
    };
    for count in 1..=2_000 {
        let session = inbox(u64::from(count), 1, Qos::AtLeastOnce);
        add(&*routes, "a/+", Receiver::Inbox(session)).unwrap();
        published.store(count, Ordering::Release);
    }
    stop.store(true, Ordering::Release);
    reader.join().unwrap();
    assert_eq!(resolve(&*routes, "a/1").inboxes.len(), 2_000);
}

/// Equal filters of two tenants have nothing in common.
#[test]
fn tenants_do_not_see_each_other() {
    let service = DistService::new();
    let (one, two) = (TenantId::new("one"), TenantId::new("two"));
    add(&*service.tenant(&one), "#", SHARD).unwrap();
    assert!(resolve(&*service.tenant(&two), "a").is_empty());
    assert_eq!(resolve(&*service.tenant(&one), "a").transient.len(), 1);
    assert_eq!((service.stats().tenants, service.stats().routes), (2, 1));
    assert_eq!((service.tenant_stats(&one).shards, service.tenant_stats(&two).shards), (1, 0));
}

#[test]
fn tenants_without_routes_leave_nothing_behind() {
    let service = DistService::new();
    let held = service.tenant(&TenantId::new("held"));
    let used = TenantId::new("used");
    let route = add(&*service.tenant(&used), "a", SHARD).unwrap();
    for number in 0..10_000 {
        let routes = service.tenant(&TenantId::new(&format!("passing-{number}")));
        let passing = add(&*routes, "a", SHARD).unwrap();
        assert_ne!(passing, route);
        assert!(remove(&*routes, "a", SHARD_KEY));
    }
    assert!(service.stats().tenants <= 200, "{}", service.stats().tenants);
    assert_eq!(service.tenant(&used).find(&filter("a")), Some(route));
    add(&*held, "b", SHARD).unwrap();
    assert_eq!(service.tenant(&TenantId::new("held")).len(), 1, "who holds a table has the table");
}

/// DIST-009, DIST-014: a host is told of a message once, and when it is gone nothing of it is left, while
/// those of its identity here and at other hosts stay.
#[test]
fn a_host_is_found_once_and_goes_as_a_whole() {
    let routes = tenant();
    let [here, there] = [HostNumber(7), HostNumber(9)];
    let held = add(&routes, "a/+", SHARD).unwrap();
    for text in ["a/b", "a/+", "#", "c"] {
        add(&routes, text, Receiver::Host(there)).unwrap();
    }
    add(&routes, "a/#", Receiver::Host(here)).unwrap();
    for (target, incarnation) in [
        (MemberTarget::Inbox(InboxId(5)), 3),
        (MemberTarget::Host(here), 1),
        (MemberTarget::Host(there), 2),
    ] {
        let member = Member { target, ..member(5, incarnation, Qos::AtLeastOnce) };
        add_member(&routes, "$share/g/a/b", &member, 9).unwrap();
    }
    let found = resolve(&routes, "a/b");
    assert_eq!(found.hosts, [here, there]);
    assert_eq!(member_ids(&found.groups[0]), [5, 5, 5]);
    assert_eq!((routes.stats().hosts, routes.stats().members), (5, 3));

    let epoch = routes.epoch();
    assert!(routes.host_routes(HostNumber(8)).is_empty());
    let all = routes.host_routes(there);
    assert_eq!((all.len(), routes.host_routes_count(there)), (4, 4));
    assert_eq!(routes.retain_host(HostNumber(8), &all, &mut |_| false), 0);
    assert_eq!(routes.epoch(), epoch, "whoever has no routes leaves no trace");
    assert_eq!(routes.retain_host(there, &all, &mut |_| false), 5);
    assert_eq!(routes.host_routes_count(there), 0);
    assert!(routes.epoch() > epoch);
    routes.check_invariants();
    let found = resolve(&routes, "a/b");
    assert_eq!(found.hosts, [here]);
    assert_eq!((found.transient.len(), found.transient[0].route), (1, held));
    let hosts: Vec<_> = found.groups[0].members.iter().map(Member::host).collect();
    assert_eq!(hosts, [None, Some(here)]);
    assert_eq!(routes.find(&filter("c")), None, "what only it wanted is forgotten");
}

/// One change of the model.
#[derive(Clone, Debug)]
enum Change {
    Add(usize, Who, u64),
    Remove(usize, Who, u64),
    /// What remains of a host are its routes with an even number of a filter, or nothing.
    Retain(u32, bool),
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Shard(u8),
    Inbox(u64),
    Member(usize, u64),
    Host(u32),
    HostMember(usize, u64, u32),
}

const FILTERS: [&str; 10] = ["a", "a/b", "a/+", "+/b", "#", "a/#", "+", "$x/#", "a/b/+", "+/+/#"];
const TOPICS: [&str; 9] = ["a", "a/b", "a/c", "b/b", "$x", "$x/b", "a/b/c", "/", "b"];
const GROUPS: [(&str, bool); 3] = [("g", false), ("h", false), ("g", true)];

fn change() -> impl Strategy<Value = Change> {
    let who = prop_oneof![
        (0..4_u8).prop_map(Who::Shard),
        (0..6_u64).prop_map(Who::Inbox),
        (0..GROUPS.len(), 0..4_u64).prop_map(|(group, id)| Who::Member(group, id)),
        (0..4_u32).prop_map(Who::Host),
        (0..GROUPS.len(), 0..4_u64, 0..3_u32)
            .prop_map(|(group, id, host)| Who::HostMember(group, id, host)),
    ];
    (0..FILTERS.len(), who, 1..4_u64, 0..40_u8).prop_map(|(filter, who, incarnation, kind)| {
        match kind {
            0..24 => Change::Add(filter, who, incarnation),
            24 => Change::Retain(u32::try_from(filter % 4).unwrap(), incarnation == 1),
            _ => Change::Remove(filter, who, incarnation),
        }
    })
}

/// The filter with the group that `who` is a member of.
fn shared_text(filter: usize, who: Who) -> String {
    match who {
        Who::Member(group, _) | Who::HostMember(group, ..) => {
            let (name, is_ordered) = GROUPS[group];
            let prefix = if is_ordered { "$oshare" } else { "$share" };
            format!("{prefix}/{name}/{}", FILTERS[filter])
        }
        _ => FILTERS[filter].to_owned(),
    }
}

fn apply(routes: &Tenant, model: &mut Vec<(usize, Who, u64)>, change: &Change) {
    match *change {
        Change::Add(filter, who, incarnation) => {
            let receiver = match who {
                Who::Shard(shard) => Receiver::Shard(ShardId(shard)),
                Who::Inbox(id) => Receiver::Inbox(inbox(id, incarnation, Qos::AtLeastOnce)),
                Who::Host(host) => Receiver::Host(HostNumber(host)),
                Who::Member(_, id) | Who::HostMember(_, id, _) => {
                    let mut member = member(id, incarnation, Qos::AtLeastOnce);
                    if let Who::HostMember(.., host) = who {
                        member.target = MemberTarget::Host(HostNumber(host));
                    }
                    Receiver::Member { member, members_max: 100 }
                }
            };
            add(routes, &shared_text(filter, who), receiver).unwrap();
            match model.iter().position(|held| (held.0, held.1) == (filter, who)) {
                Some(at) => model[at].2 = model[at].2.max(incarnation),
                None => model.push((filter, who, incarnation)),
            }
        }
        Change::Remove(filter, who, incarnation) => {
            let key = match who {
                Who::Shard(shard) => ReceiverKey::Shard(ShardId(shard)),
                Who::Inbox(id) => ReceiverKey::Inbox { inbox: InboxId(id), incarnation },
                Who::Member(_, id) => ReceiverKey::Member { id, incarnation },
                Who::Host(host) => ReceiverKey::Host(HostNumber(host)),
                Who::HostMember(_, id, host) => {
                    ReceiverKey::HostMember { host: HostNumber(host), id }
                }
            };
            let is_guarded = matches!(who, Who::Inbox(_) | Who::Member(..));
            let is_it = |held: &(usize, Who, u64)| {
                (held.0, held.1) == (filter, who) && (!is_guarded || held.2 <= incarnation)
            };
            let removed = model.iter().position(is_it);
            assert_eq!(remove(routes, &shared_text(filter, who), key), removed.is_some());
            if let Some(at) = removed {
                model.swap_remove(at);
            }
        }
        Change::Retain(host, keeps_even) => {
            let number = |route: RouteId| {
                let mut text = String::new();
                assert!(routes.filter_text(route, &mut text));
                FILTERS.iter().position(|filter| *filter == text).unwrap()
            };
            let evens: Vec<RouteId> = FILTERS
                .iter()
                .filter_map(|text| routes.find(&filter(text)))
                .filter(|route| keeps_even && number(*route) % 2 == 0)
                .collect();
            let mut keep = |route: HostRoute<'_>| match route {
                HostRoute::Filter(route) => evens.contains(&route),
                HostRoute::Member { group, .. } => evens.contains(&group.route),
            };
            let before = model.len();
            model.retain(|(filter, who, _)| match who {
                Who::Host(at) | Who::HostMember(.., at) if *at == host => {
                    keeps_even && filter % 2 == 0
                }
                _ => true,
            });
            let host = HostNumber(host);
            let removed = routes.retain_host(host, &routes.host_routes(host), &mut keep);
            assert_eq!(removed, before - model.len());
        }
    }
}

/// What a resolution says, in the words of the model.
fn told(routes: &Tenant, found: &Resolution) -> Vec<(usize, Who, u64)> {
    let number = |route: RouteId| {
        let mut text = String::new();
        assert!(routes.filter_text(route, &mut text));
        FILTERS.iter().position(|filter| *filter == text).unwrap()
    };
    let mut told = Vec::new();
    for route in &found.transient {
        let shards = route.shards.iter();
        told.extend(shards.map(|shard| (number(route.route), Who::Shard(shard.0), 0)));
    }
    for group in &found.groups {
        let at = GROUPS.iter().position(|held| *held == (&*group.name, group.is_ordered)).unwrap();
        assert!(!member_ids(group).is_empty());
        let members = group.members.iter();
        told.extend(members.map(|held| {
            let who = match held.host() {
                Some(host) => Who::HostMember(at, held.id, host.0),
                None => Who::Member(at, held.id),
            };
            (number(group.route), who, held.incarnation)
        }));
    }
    // Inboxes are found without their route: the filter is left open.
    told.extend(
        found.inboxes.iter().map(|held| (usize::MAX, Who::Inbox(held.inbox.0), held.incarnation)),
    );
    // Hosts as well, and each is found once.
    told.extend(found.hosts.iter().map(|host| (usize::MAX, Who::Host(host.0), 0)));
    told.sort_unstable();
    told
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// DIST-003, DIST-014: after any changes each topic has the receivers that a look at each filter finds.
    #[test]
    fn resolutions_equal_those_of_brute_force(
        changes in prop::collection::vec(change(), 1..120),
    ) {
        let routes = tenant();
        let mut model = Vec::new();
        let mut found = Resolution::default();
        for (step, change) in changes.iter().enumerate() {
            apply(&routes, &mut model, change);
            routes.check_invariants();
            let text = TOPICS[step % TOPICS.len()];
            routes.resolve(topic(text), &mut found);
            prop_assert_eq!(found.epoch, routes.epoch());
            let mut expected: Vec<_> = model
                .iter()
                .filter(|held| ratatosk_topic::matches(FILTERS[held.0], text))
                .map(|&(filter, who, incarnation)| match who {
                    Who::Shard(_) => (filter, who, 0),
                    Who::Inbox(_) => (usize::MAX, who, incarnation),
                    Who::Member(..) | Who::HostMember(..) => (filter, who, incarnation),
                    Who::Host(_) => (usize::MAX, who, 0),
                })
                .collect();
            expected.sort_unstable();
            expected.dedup_by(|a, b| a == b && matches!(a.1, Who::Host(_)));
            prop_assert_eq!(told(&routes, &found), expected, "{}", text);
        }
    }
}

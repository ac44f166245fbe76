//! Behaviour of sessions that nobody uses: those that an operator orders to end, and those of a node
//! that died.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ratatosk_clock::Instant;
use ratatosk_codec::Qos;
use ratatosk_contract::{
    SessionIdentity, TenantId,
    inbox::{Attach, Attached, DueWill, Inbox, TooManyOrders},
};

use crate::{
    durable_fixture::{T0, node},
    fake::{Bench, bench, identity, message, owner, seconds, tenant},
    inactive::DUE_MAX,
    schema::Place,
};

fn attach_as(bench: &Bench, identity: &SessionIdentity, slot: u32, will: Option<&str>) -> Attached {
    let will = will.map(|payload| (Arc::new(message(payload, Qos::AtMostOnce).to_stored()), 0));
    let limits = bench.limits;
    let owner = owner(slot);
    let attach = Attach { identity, owner, is_clean: false, expiry_s: None, limits, will, now: T0 };
    bench.inbox.attach_owner(&attach, None).answer
}

fn expire(bench: &Bench, now: Instant) -> Vec<DueWill> {
    let mut wills = Vec::new();
    bench.inbox.expire(now, usize::MAX, &mut wills);
    bench.inbox.check_invariants();
    wills
}

/// INBOX-016: those of the tenant that are away, in bounded batches, with their wills and routes;
/// nobody who is connected, returned, left later, or is another tenant's.
#[test]
fn inactive_sessions_of_a_tenant_are_expired_at_a_bounded_rate() {
    const COUNT: usize = 2 * DUE_MAX + 10;
    let bench = bench();
    for number in 0..COUNT {
        let claim = bench.attach_as(&format!("c{number}"), T0, false, None).claim;
        bench.subscribe(claim, "a", Qos::AtLeastOnce);
        let will = (number == COUNT - 1).then_some(("w", 1_000_000));
        bench.detach_as(claim, seconds(10), None, will);
    }
    bench.append("1", Qos::AtLeastOnce);
    let live = bench.attach("live", T0).claim;
    bench.subscribe(live, "a", Qos::AtLeastOnce);
    let late = bench.attach("late", T0).claim;
    bench.detach(late, seconds(25));
    let foreign = SessionIdentity { tenant: TenantId::new("u"), ..identity("c0") };
    let claim = attach_as(&bench, &foreign, 7, None).claim;
    bench.detach(claim, seconds(10));

    let order = |away_s, now_s| {
        bench.inbox.expire_inactive(&tenant(), Duration::from_secs(away_s), seconds(now_s))
    };
    assert_eq!(order(30, 20), Ok(0), "before the first moment nobody was away");
    assert_eq!(order(11, 20), Ok(0));
    assert_eq!(order(20, 30), Ok(COUNT));
    let all = COUNT + 3;
    assert_eq!(bench.inbox.len(), all, "an order alone ends nothing");
    let mut wills = expire(&bench, seconds(30));
    assert_eq!(bench.inbox.len(), all - DUE_MAX);
    // Whoever returns before its turn keeps its session; who is due has none any more.
    let kept = (0..COUNT).map(|number| format!("c{number}"));
    let mut kept =
        kept.filter(|client| bench.attach_as(client, seconds(31), false, None).is_present);
    let back = kept.next().expect("most are there");
    drop(kept);
    for _ in 0..3 {
        wills.extend(expire(&bench, seconds(31)));
    }
    assert_eq!(bench.inbox.stats().expired_sessions, (COUNT - 1) as u64);
    for client in [back.as_str(), "live", "late"] {
        assert!(bench.attach(client, seconds(32)).is_present, "{client}");
    }
    assert!(bench.inbox.tenant_stats(&TenantId::new("u")).sessions == 1);
    assert_eq!(wills.len(), 1, "a will that waits is due with its session");
    assert_eq!(bench.routes.inboxes.lock().len(), 2, "of who returned and who never left");
    bench.check_conservation();
}

/// INBOX-016: each order has its turn, and there is no end of tenants but of orders.
#[test]
fn orders_have_turns_and_are_bounded() {
    let bench = bench();
    let tenants: Vec<_> = (0..65).map(|number| TenantId::new(&format!("t{number}"))).collect();
    for (slot, tenant) in (0..).zip(&tenants) {
        let identity = SessionIdentity { tenant: tenant.clone(), ..identity("c") };
        let claim = attach_as(&bench, &identity, slot, None).claim;
        bench.detach(claim, T0);
    }
    let order = |tenant| bench.inbox.expire_inactive(tenant, Duration::ZERO, seconds(1));
    for tenant in &tenants[..64] {
        assert_eq!((order(tenant), order(tenant)), (Ok(1), Ok(1)), "the same order again");
    }
    assert_eq!(order(&tenants[64]), Err(TooManyOrders));
    expire(&bench, seconds(1));
    assert_eq!(order(&tenants[64]), Ok(1));
    (0..64).for_each(|_| drop(expire(&bench, seconds(1))));
    assert!(bench.inbox.is_empty());
}

/// INBOX-016, DUR-002: what went is gone for ever, and what was not reached is not.
#[test]
fn the_end_of_an_inactive_session_is_durable() {
    let node = node();
    let claims = ["c", "d"].map(|client| node.session(client));
    claims.iter().for_each(|claim| node.bench.detach(*claim, T0));
    node.keyspace.settle();
    assert_eq!(node.bench.inbox.expire_inactive(&tenant(), Duration::ZERO, seconds(1)), Ok(2));
    assert_eq!(node.crash(seconds(1)).bench.inbox.len(), 2, "an order ends with the process");
    expire(&node.bench, seconds(1));
    node.keyspace.settle();
    assert!(node.crash(seconds(2)).bench.inbox.is_empty());
    for claim in claims {
        // The last number is noted for good.
        let places = node.places(claim.inbox);
        assert!(places.iter().all(|place| *place == Place::Mark), "{places:?}");
    }
    // How long somebody was away is known after a crash, too.
    let claim = node.session("e");
    node.bench.detach(claim, seconds(10));
    node.keyspace.settle();
    let after = node.crash(seconds(60));
    let order = |away_s| {
        let away_min = Duration::from_secs(away_s);
        after.bench.inbox.expire_inactive(&tenant(), away_min, seconds(70))
    };
    assert_eq!((order(61), order(60)), (Ok(0), Ok(1)));
}

/// INBOX-012, INBOX-013: after a crash whoever was connected is detached from then on, for good;
/// wills and ends come at a bounded rate, each once; who never returns is found and expired.
#[test]
fn sessions_of_a_node_that_died_are_detached_and_orphans_expire() {
    const COUNT: usize = 100;
    const RATE: usize = 9;
    let node = node();
    for number in 0..COUNT {
        let client = format!("c{number}");
        let (identity, limits) = (&identity(&client), node.bench.limits);
        let will = Some((Arc::new(message(&client, Qos::AtMostOnce).to_stored()), 0));
        let owner = owner(u32::try_from(number).unwrap());
        let expiry_s = Some(100);
        let attach = Attach { identity, owner, is_clean: false, expiry_s, limits, will, now: T0 };
        let claim = node.bench.inbox.attach_owner(&attach, None).answer.claim;
        node.bench.subscribe(claim, "a", Qos::AtLeastOnce);
    }
    node.keyspace.settle();
    let stats = |node: &Bench| (node.inbox.stats().sessions, node.inbox.stats().attached);
    assert_eq!(stats(&node.bench), (COUNT, COUNT));

    let died = node.crash(seconds(10));
    assert_eq!(stats(&died.bench), (COUNT, 0), "at once");
    died.keyspace.settle();
    // The second crash is not when they left.
    let again = died.crash(seconds(60));
    assert_eq!(stats(&again.bench), (COUNT, 0));
    let mut authors = BTreeSet::new();
    for taken in (RATE..).step_by(RATE) {
        let mut wills = Vec::new();
        again.bench.inbox.expire(seconds(60), RATE, &mut wills);
        assert!(wills.len() <= RATE);
        if wills.is_empty() {
            break;
        }
        authors.extend(wills.iter().map(|will| will.identity.client.to_string()));
        assert_eq!(authors.len(), taken.min(COUNT), "each once");
        wills.iter().for_each(|will| again.bench.inbox.will_sent(will.id));
    }
    assert_eq!(authors.len(), COUNT);
    assert!(again.bench.attach("c7", seconds(61)).is_present);
    again.bench.inbox.expire(seconds(109), usize::MAX, &mut Vec::new());
    assert_eq!(again.bench.inbox.len(), COUNT);
    let mut left = COUNT;
    while left > 1 {
        again.bench.inbox.expire(seconds(110), RATE, &mut Vec::new());
        assert_eq!(left - again.bench.inbox.len(), RATE.min(left - 1), "at a bounded rate");
        left = again.bench.inbox.len();
    }
    again.keyspace.settle();
    assert_eq!(stats(&again.crash(seconds(111)).bench), (1, 0), "who came back is left");
}

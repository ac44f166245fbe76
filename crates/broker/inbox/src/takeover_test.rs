//! Behaviour of messages that wait at members of a group who are away.

use std::sync::Arc;

use ratatosk_clock::Instant;
use ratatosk_codec::Qos;
use ratatosk_contract::{
    Message, PublisherId, SessionRef,
    dist::InboxRoute,
    group::{Group, Member, MemberTarget},
    inbox::{Attach, Claim, FetchBudget, Inbox, InboxId, Sequence, SharedRoute},
};

use crate::{
    durable_fixture::node,
    fake::{BUDGET, Bench, bench, identity, message, owner, payloads, seconds},
    partitions::partition_of,
};

const T0: Instant = Instant::ZERO;
const EVEN: &str = "$share/g/a";
const ORDERED: &str = "$oshare/g/a";

/// A client with what it read so far.
struct Client {
    name: &'static str,
    claim: Claim,
    owner: SessionRef,
    cursor: u64,
    got: Vec<String>,
}

impl Client {
    fn new(bench: &Bench, name: &'static str) -> Self {
        // The members have numbers below.
        let owner = owner(100 + u32::from(name.as_bytes()[0]));
        let attach = Attach {
            identity: &identity(name),
            owner,
            is_clean: false,
            expiry_s: Some(100),
            limits: bench.limits,
            will: None,
            now: T0,
        };
        let claim = bench.inbox.attach_owner(&attach, None).answer.claim;
        Client { name, claim, owner, cursor: 0, got: Vec::new() }
    }

    /// Reads what is there, confirms it, and goes on while it is told that there is more.
    fn read(&mut self, bench: &Bench, window: usize) {
        loop {
            let budget = FetchBudget { messages_max: window, ..BUDGET };
            let entries = bench.fetch(self.claim, Sequence(self.cursor), budget);
            self.got.extend(payloads(&entries).iter().map(|text| (*text).to_owned()));
            for entry in &entries {
                self.cursor = entry.sequence.0;
                bench.inbox.commit(self.claim, entry.sequence).unwrap();
            }
            if entries.is_empty() && !bench.sessions.take_ready().contains(&self.owner) {
                return;
            }
        }
    }
}

fn group(bench: &Bench, is_ordered: bool) -> Arc<Group> {
    let groups = bench.routes.groups.lock();
    Arc::clone(groups.iter().find(|group| group.is_ordered == is_ordered).unwrap())
}

/// As if the group had chosen this member.
fn shared(group: &Arc<Group>, member: &Member) -> SharedRoute {
    let MemberTarget::Inbox(inbox) = member.target else { panic!("no transient members here") };
    let route = InboxRoute {
        inbox,
        incarnation: member.incarnation,
        options: member.options,
        subscription_id: member.subscription_id,
    };
    SharedRoute { route, group: Arc::clone(group) }
}

fn append_to(bench: &Bench, claim: Claim, message: &Message<'_>) {
    let group = group(bench, false);
    let is_meant = |member: &&Member| member.target == MemberTarget::Inbox(claim.inbox);
    let member = group.members.iter().find(is_meant).unwrap();
    bench.append_shared(shared(&group, member), message);
}

/// To the member that the group chooses.
fn publish(bench: &Bench, is_ordered: bool, publisher: u64, payload: &str) {
    let group = group(bench, is_ordered);
    let publisher = PublisherId(publisher);
    let member = group.choose(publisher, None).unwrap();
    let message = Message { publisher, ..message(payload, Qos::AtLeastOnce) };
    bench.append_shared(shared(&group, member), &message);
}

fn texts(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Members `c`, `d` and `e`, that were there once and are away.
fn all_away(bench: &Bench, filter: &str) {
    for client in ["c", "d", "e"] {
        let claim = bench.attach(client, T0).claim;
        bench.subscribe(claim, filter, Qos::ExactlyOnce);
    }
    for client in ["c", "d", "e"] {
        let id = bench.attach(client, T0).claim;
        bench.detach(id, T0);
    }
    bench.sessions.take_ready();
}

/// MQTT-087, DIST-011: whoever comes back gets what waits for all, each message once.
#[test]
fn what_waits_for_all_goes_to_the_one_that_comes_back() {
    for filter in [EVEN, ORDERED] {
        let bench = bench();
        all_away(&bench, filter);
        for number in texts(0..100) {
            publish(&bench, filter == ORDERED, number.parse().unwrap(), &number);
        }
        let mut d = Client::new(&bench, "d");
        d.read(&bench, 10);
        d.got.sort_by_key(|text| text.parse::<u32>().unwrap());
        assert_eq!(d.got, texts(0..100), "{filter}");
        let mut c = Client::new(&bench, "c");
        c.read(&bench, 10);
        assert!(c.got.is_empty(), "{filter}");
        assert_eq!(bench.inbox.stranded().contents(), [], "{filter}");
        bench.check_conservation();
    }
}

/// DIST-011: nobody takes more than about a window of it.
#[test]
fn those_that_come_back_share_what_waits() {
    let bench = bench();
    all_away(&bench, EVEN);
    texts(0..90).iter().for_each(|number| publish(&bench, false, 1, number));
    let claims = ["c", "d"].map(|client| bench.attach(client, T0).claim);
    let window = FetchBudget { messages_max: 20, ..BUDGET };
    for claim in claims {
        assert_eq!(bench.fetch(claim, Sequence(0), window).len(), 20);
        // There is room for twenty more, and of its own there are ten.
        assert_eq!(bench.fetch(claim, Sequence(20), window).len(), 10);
    }
    let taken = claims.map(|claim| bench.fetch(claim, Sequence(30), BUDGET).len());
    assert_eq!(taken, [16, 14], "all of the third's");
    bench.check_conservation();
}

/// A queue that others emptied, or whose messages expired, has nothing unsent.
#[test]
fn a_member_that_lost_its_messages_takes_over_those_of_others() {
    let bench = bench();
    all_away(&bench, EVEN);
    let claim = bench.attach("c", T0).claim;
    bench.detach(claim, T0);
    let brief = Message { deadline: Some(seconds(5)), ..message("brief", Qos::AtLeastOnce) };
    (0..40).for_each(|_| append_to(&bench, claim, &message("taken", Qos::AtLeastOnce)));
    let mut d = Client::new(&bench, "d");
    d.read(&bench, 10);
    assert_eq!(d.got.len(), 40);
    bench.detach(d.claim, T0);
    (0..40).for_each(|_| append_to(&bench, claim, &brief));
    append_to(&bench, d.claim, &message("waits", Qos::AtLeastOnce));
    let claim = bench.attach("c", seconds(10)).claim;
    let one = FetchBudget { messages_max: 1, now: seconds(10), ..BUDGET };
    assert!(bench.fetch(claim, Sequence(0), one).is_empty());
    assert_eq!(payloads(&bench.fetch(claim, Sequence(0), one)), ["waits"]);
    bench.check_conservation();
}

/// DIST-012: publishers that come and go, and whose messages expire, leave nothing behind.
#[test]
fn the_index_of_what_waits_is_bounded_by_what_waits() {
    let mut bench = bench();
    bench.limits.messages_max = 10;
    all_away(&bench, ORDERED);
    let group = group(&bench, true);
    for number in 0..1_000 {
        let (publisher, now) = (PublisherId(number), seconds(number));
        let deadline = Some(now + std::time::Duration::from_secs(5));
        let message = message("brief", Qos::AtLeastOnce);
        let message = Message { publisher, accepted: now, deadline, ..message };
        bench.append_shared(shared(&group, &group.members[0]), &message);
        bench.inbox.check_invariants();
    }
    assert!(bench.inbox.stranded().contents().len() < 100);
    bench.check_conservation();
}

/// A client whose window is closed takes nothing that another could have at once.
#[test]
fn a_member_with_a_closed_window_takes_nothing() {
    let bench = bench();
    all_away(&bench, EVEN);
    let c = bench.attach("c", T0).claim;
    append_to(&bench, c, &message("own", Qos::AtLeastOnce));
    let e = bench.attach("e", T0).claim;
    bench.detach(e, T0);
    append_to(&bench, e, &message("waits", Qos::AtLeastOnce));
    let one = FetchBudget { messages_max: 1, ..BUDGET };
    assert_eq!(payloads(&bench.fetch(c, Sequence(0), one)), ["own"]);
    assert_eq!(bench.inbox.stats().moved, 0);
    bench.inbox.commit(c, Sequence(1)).unwrap();
    assert!(bench.fetch(c, Sequence(1), one).is_empty());
    assert_eq!(payloads(&bench.fetch(c, Sequence(1), one)), ["waits"]);
    bench.check_conservation();
}

/// Whoever joins is a member like others.
#[test]
fn a_member_that_joins_gets_what_waits() {
    let bench = bench();
    all_away(&bench, EVEN);
    publish(&bench, false, 1, "waits");
    let mut new = Client::new(&bench, "new");
    new.read(&bench, 10);
    assert!(new.got.is_empty());
    bench.subscribe(new.claim, EVEN, Qos::AtMostOnce);
    new.read(&bench, 10);
    assert!(new.got.is_empty(), "what waits is to arrive, so not at QoS 0");
    bench.subscribe(new.claim, EVEN, Qos::AtLeastOnce);
    assert_eq!(bench.sessions.take_ready(), [new.owner], "who waits is told");
    new.read(&bench, 10);
    assert_eq!(new.got, ["waits"], "{}", new.name);
    bench.check_conservation();
}

/// MQTT-087: [MQTT-4.8.2-4] as when their member goes, but later.
#[test]
fn qos_1_in_flight_is_taken_over_and_qos_2_waits_for_its_member() {
    let bench = bench();
    all_away(&bench, EVEN);
    let c = bench.attach("c", T0).claim;
    for (payload, qos) in [
        ("sent-1", Qos::AtLeastOnce),
        ("sent-2", Qos::ExactlyOnce),
        ("unsent-1", Qos::AtLeastOnce),
        ("unsent-2", Qos::ExactlyOnce),
    ] {
        append_to(&bench, c, &message(payload, qos));
    }
    bench.fetch(c, Sequence(0), FetchBudget { messages_max: 2, ..BUDGET });
    bench.detach(c, T0);
    let mut d = Client::new(&bench, "d");
    d.read(&bench, 10);
    assert_eq!(d.got, ["sent-1", "unsent-1", "unsent-2"], "in their order");
    let mut c = Client::new(&bench, "c");
    c.read(&bench, 10);
    assert_eq!(c.got, ["sent-2"]);
    bench.check_conservation();
}

/// A publisher chose a member that left in this moment.
#[test]
fn who_waits_for_a_message_is_told_of_one_that_comes_to_a_member_that_is_away() {
    for filter in [EVEN, ORDERED] {
        let bench = bench();
        all_away(&bench, filter);
        let mut d = Client::new(&bench, "d");
        d.read(&bench, 10);
        let group = group(&bench, filter == ORDERED);
        let away = group.members.iter().find(|member| !member.is_online()).unwrap();
        for payload in ["1", "2"] {
            bench.append_shared(shared(&group, away), &message(payload, Qos::AtLeastOnce));
            assert_eq!(bench.sessions.take_ready(), [d.owner], "{filter}");
            d.read(&bench, 10);
        }
        assert_eq!(d.got, ["1", "2"], "{filter}");
        bench.check_conservation();
    }
}

/// INBOX-006, INBOX-009: a queue takes over what it has room for, and more once it has room again.
#[test]
fn nothing_is_dropped_by_taking_over() {
    for filter in [EVEN, ORDERED] {
        let mut bench = bench();
        all_away(&bench, filter);
        for number in texts(0..30) {
            publish(&bench, filter == ORDERED, number.parse().unwrap(), &number);
        }
        bench.limits.messages_max = 4;
        let mut d = Client::new(&bench, "d");
        let own = bench.inbox.stats().moved;
        // It reads, and confirms nothing until its queue is full.
        let mut held = Vec::new();
        for _ in 0..20 {
            let entries = bench.fetch(d.claim, Sequence(d.cursor), BUDGET);
            d.cursor = entries.last().map_or(d.cursor, |last| last.sequence.0);
            held.extend(entries.iter().map(|entry| entry.sequence));
            d.got.extend(payloads(&entries).iter().map(|text| (*text).to_owned()));
        }
        assert_eq!(own, bench.inbox.stats().moved, "{filter}: it had more than it may");
        bench.sessions.take_ready();
        held.iter().for_each(|sequence| bench.inbox.commit(d.claim, *sequence).unwrap());
        assert_eq!(bench.sessions.take_ready(), [d.owner], "{filter}: there is room");
        d.read(&bench, 3);
        d.got.sort_by_key(|text| text.parse::<u32>().unwrap());
        assert_eq!(d.got, texts(0..30), "{filter}");
        assert_eq!(bench.inbox.stats().dropped.sum(), 0, "{filter}");
        bench.check_conservation();
    }
}

/// [MQTT-3.3.2-5]
#[test]
fn what_expired_while_it_waited_is_not_delivered() {
    let bench = bench();
    all_away(&bench, EVEN);
    let claim = bench.attach("c", T0).claim;
    bench.detach(claim, T0);
    let brief = Message { deadline: Some(seconds(5)), ..message("brief", Qos::AtLeastOnce) };
    append_to(&bench, claim, &brief);
    append_to(&bench, claim, &message("lasting", Qos::AtLeastOnce));
    let d = bench.attach("d", seconds(10)).claim;
    let now = FetchBudget { now: seconds(10), ..BUDGET };
    assert!(bench.fetch(d, Sequence(0), now).is_empty());
    assert_eq!(payloads(&bench.fetch(d, Sequence(0), now)), ["lasting"]);
    assert_eq!(bench.inbox.stats().dropped.expired, 1);
    bench.check_conservation();
}

fn inbox_of(bench: &Bench, client: &str) -> InboxId {
    let number = partition_of(&identity(client));
    bench.inbox.partitions.lock_one(number).at(number).find(&identity(client)).unwrap()
}

/// MQTT-085, DIST-012: what is published meanwhile waits behind what waits, also where that fills a
/// queue.
#[test]
fn a_publisher_s_messages_keep_their_order_in_an_ordered_group() {
    for older in [1, 9] {
        let mut bench = bench();
        bench.limits.messages_max = 10;
        all_away(&bench, ORDERED);
        texts(0..older).iter().for_each(|text| publish(&bench, true, 7, text));
        let holder = bench.inbox.stranded().contents()[0].1.inbox;
        let other = ["c", "d"].into_iter().find(|client| inbox_of(&bench, client) != holder);
        // It is the publisher's member now, but has not looked for anything yet.
        let mut other = Client::new(&bench, other.unwrap());
        texts(older..older + 3).iter().for_each(|text| publish(&bench, true, 7, text));
        other.read(&bench, 2);
        assert_eq!(other.got, texts(0..older + 3), "{older}");
        assert_eq!(bench.inbox.stats().dropped.sum(), 0, "{older}");
        bench.check_conservation();
    }
}

/// MQTT-085: the messages of one are never parted, those of others stay where they are.
#[test]
fn only_publishers_of_the_member_are_taken_over_in_an_ordered_group() {
    let bench = bench();
    all_away(&bench, ORDERED);
    for round in 0..3 {
        (0..20).for_each(|id| publish(&bench, true, id, &format!("{id}/{round}")));
    }
    let (mut c, mut d) = (Client::new(&bench, "c"), Client::new(&bench, "d"));
    let group = group(&bench, true);
    d.read(&bench, 5);
    c.read(&bench, 5);
    assert_eq!(c.got.len() + d.got.len(), 60);
    for client in [&c, &d] {
        let me = identity(client.name).publisher().0;
        let mut next = std::collections::BTreeMap::<u64, u32>::new();
        for text in &client.got {
            let (id, round) = text.split_once('/').unwrap();
            let id: u64 = id.parse().unwrap();
            assert_eq!(group.choose(PublisherId(id), None).unwrap().id, me, "{text}");
            let next = next.entry(id).or_default();
            assert_eq!(round.parse(), Ok(*next), "{text}");
            *next += 1;
        }
    }
    bench.check_conservation();
}

/// DIST-012: whoever becomes a publisher's member is told to look for what waits of it.
#[test]
fn heirs_of_an_ordered_group_take_over_what_waits() {
    for way in 0..3 {
        let bench = bench();
        all_away(&bench, ORDERED);
        (0..20).for_each(|id| publish(&bench, true, id, &id.to_string()));
        let (mut c, d) = (Client::new(&bench, "c"), Client::new(&bench, "d"));
        // Its window is as wide as what it has itself, so it takes over nothing.
        let own =
            bench.inbox.partitions.lock_of(d.claim.inbox).sessions[&d.claim.inbox].queue.len();
        let entries =
            bench.fetch(d.claim, Sequence(0), FetchBudget { messages_max: own, ..BUDGET });
        entries.iter().for_each(|entry| bench.inbox.commit(d.claim, entry.sequence).unwrap());
        c.read(&bench, 5);
        assert!(c.got.len() + own < 20, "some that wait are of publishers of d");
        bench.sessions.take_ready();
        match way {
            0 => bench.detach(d.claim, T0),
            1 => assert!(bench.inbox.unsubscribe(d.claim, ORDERED, None).is_ok()),
            _ => drop(bench.inbox.discard_session(&identity("d"), T0, None)),
        }
        assert_eq!(bench.sessions.take_ready(), [c.owner], "{way}");
        c.read(&bench, 5);
        assert_eq!(c.got.len() + own, 20, "{way}");
        bench.check_conservation();
    }
}

/// DUR-002, DUR-009: at each moment a message is in one queue, and nobody sees it before that lasts.
#[test]
fn what_is_taken_over_is_in_one_queue_wherever_the_node_stops() {
    for filter in [EVEN, ORDERED] {
        let node = node();
        let bench = &node.bench;
        all_away(bench, filter);
        texts(0..6).iter().for_each(|text| publish(bench, filter == ORDERED, 1, text));
        node.keyspace.settle();
        let mut d = Client::new(bench, "d");
        node.keyspace.settle();
        while bench.fetch(d.claim, Sequence(0), BUDGET).len() < 6 {
            loop {
                let after = node.crash(T0);
                let mut all = Vec::new();
                for client in ["c", "d", "e"] {
                    let mut back = Client::new(&after.bench, client);
                    after.keyspace.settle();
                    back.read(&after.bench, 10);
                    after.keyspace.settle();
                    back.read(&after.bench, 10);
                    all.extend(back.got);
                }
                all.sort();
                assert_eq!(all, texts(0..6), "{filter}");
                if node.keyspace.waiting() == 0 {
                    break;
                }
                node.keyspace.settle_some(1);
            }
        }
        d.read(bench, 10);
        node.keyspace.settle();
        assert_eq!(node.crash(T0).bench.inbox.stats().queued, 0, "{filter}");
    }
}

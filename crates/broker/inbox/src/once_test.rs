//! Messages of QoS 2 for several ranges that are brought again.

use ratatosk_clock::Instant;
use ratatosk_codec::Qos;
use ratatosk_contract::{
    Call,
    call::Settlement,
    inbox::{Claim, Detach, Inbox as _, InboxId, StaleClaim, Targets},
    serving::{GroupMark, Once, Serving as _, Terms, Wish},
};
use ratatosk_telemetry::memory::Share;

use crate::{
    durable_fixture::{id, node, reply},
    fake::{Bench, message, owner, payloads, seconds, tenant},
    notes::NOTE_LIFE,
    partitions::partition_number,
    reign_fixture::{GROUP, World, apart, route_to},
    schema::Place,
};

const T0: Instant = Instant::ZERO;
const DONE: Settlement = Settlement::Done;
const MARK: u64 = 70;

/// Two nodes, and two sessions in two ranges that the first leads. The first session publishes.
struct Stage {
    world: World,
    claims: [Claim; 2],
    right: ratatosk_store::log::GroupId,
}

fn stage() -> Stage {
    let (low, high, place) = apart();
    let mut world = World::served(2);
    let claims = [low, high].map(|client| world.nodes[0].bench.attach(client, T0).claim);
    world.settle(T0);
    let right = world.split(GROUP, place);
    world.settle(T0);
    let inbox = &world.nodes[0].bench.inbox;
    claims.iter().for_each(|claim| drop(inbox.resume(*claim, owner(9)).expect("his")));
    Stage { world, claims, right }
}

impl Stage {
    fn bench(&self, node: usize) -> &Bench {
        &self.world.nodes[node].bench
    }

    /// Begins a message at a node, durably.
    fn begin(&mut self, node: usize, packet_id: u16, mark: u64) -> Once {
        let exchange = (self.claims[0], id(packet_id));
        let begun = self.bench(node).inbox.begin(exchange, mark, &[], reply(900)).expect("his");
        assert!(!begun.is_durable);
        self.world.settle(T0);
        assert!(self.settled(node).contains(&(900, DONE)));
        begun.answer.once
    }

    fn append(
        &self,
        node: usize,
        claims: &[Claim],
        (exchange, once): (Option<u16>, Once),
        ticket: u64,
    ) -> Call<Settlement> {
        let routes: Vec<_> = claims.iter().map(|claim| route_to(*claim)).collect();
        let targets = Targets { tenant: &tenant(), routes: &routes, shared: &[] };
        let exchange = exchange.map(|packet_id| (self.claims[0], id(packet_id)));
        let terms = Terms { exchange, once: Some(once), reply_to: reply(ticket) };
        let payload = once.number.to_string();
        let message = message(&payload, Qos::ExactlyOnce);
        self.bench(node).inbox.append_on(targets, &message, terms, &mut Vec::new())
    }

    fn settled(&self, node: usize) -> Vec<(u64, Settlement)> {
        self.bench(node).sessions.take_settled()
    }

    /// What the session of a claim has, at a node that serves it.
    fn queue(&self, node: usize, claim: Claim) -> Vec<String> {
        let bench = self.bench(node);
        bench.inbox.resume(claim, owner(9)).expect("he is the owner");
        payloads(&bench.fetch_all(claim)).into_iter().map(str::to_owned).collect()
    }

    /// What a partition has noted.
    fn notes(&self, claim: Claim) -> Vec<u64> {
        let number_of = |place: &Place| match place {
            Place::Note { publisher, number } if *publisher == self.claims[0].inbox => {
                Some(*number)
            }
            _ => None,
        };
        let at = InboxId(partition_number(claim.inbox.0) as u64);
        self.world.keys_of(at).iter().filter_map(number_of).collect()
    }
}

/// DUR-010, DUR-003: a node dies when one range has a message and another has not. Brought again, by whoever
/// serves its publisher then, each has it once.
#[test]
fn what_is_brought_again_is_queued_once_in_each_range() {
    let mut stage = stage();
    let claims = stage.claims;
    let once = stage.begin(0, 1, MARK);
    assert_eq!((once.publisher, once.number, once.low), (claims[0].inbox, 1, 1));
    let begun = [Place::Session, Place::Begun(id(1)), Place::Turn];
    assert_eq!(stage.world.keys_of(claims[0].inbox), begun);
    assert_eq!(stage.append(0, &claims, (Some(1), once), 1), Call::Pending);
    // The right range carries it out, the left one never does.
    stage.world.carry_out(stage.right, usize::MAX);
    stage.world.lead(GROUP, 1, 0);
    stage.world.settle(T0);
    assert_eq!(stage.settled(0), [(1, Settlement::Unknown)]);
    assert_eq!(stage.queue(0, claims[1]), ["1"]);
    assert_eq!(stage.queue(1, claims[0]), Vec::<String>::new());
    // Its publisher is served by the other node, and so is the other range now.
    stage.world.lead(stage.right, 1, 0);
    stage.world.settle(T0);
    assert_eq!(stage.queue(1, claims[1]), ["1"]);
    let attached = stage.bench(1).inbox.resume(claims[0], owner(9)).expect("his");
    assert!(attached.inbound.is_empty(), "it comes again, and goes the whole way");
    assert_eq!(stage.begin(1, 1, MARK), once, "it is the same one");
    for ticket in [2, 3] {
        assert_eq!(stage.append(1, &claims[1..], (None, once), ticket), Call::Pending);
    }
    assert_eq!(stage.append(1, &claims[..1], (Some(1), once), 4), Call::Pending);
    stage.world.settle(T0);
    assert_eq!(stage.settled(1), [(4, DONE), (2, DONE), (3, DONE)]);
    claims.iter().for_each(|claim| assert_eq!(stage.queue(1, *claim), ["1"]));
    let inbound = [Place::Session, Place::Inbound(id(1))];
    assert_eq!(stage.world.keys_of(claims[0].inbox)[..2], inbound, "it is begun no longer");
    let attached = stage.bench(1).inbox.resume(claims[0], owner(9)).expect("his");
    assert_eq!(attached.inbound, [id(1)]);
    assert_eq!(claims.map(|claim| stage.notes(claim)), [[1], [1]]);
    // The next one is another one, and the note of the first is not needed any more.
    let once = stage.begin(1, 2, MARK);
    assert_eq!((once.number, once.low), (2, 2));
    assert_eq!(stage.append(1, &claims, (Some(2), once), 5), Call::Pending);
    stage.world.settle(T0);
    assert_eq!(stage.settled(1), [(5, DONE)]);
    claims.iter().for_each(|claim| assert_eq!(stage.queue(1, *claim), ["1", "2"]));
    assert_eq!(claims.map(|claim| stage.notes(claim)), [[2], [2]]);
}

/// DUR-010: what was on its way for long, while its publisher went on, comes to nothing.
#[test]
fn a_part_that_comes_late_is_not_queued() {
    let mut stage = stage();
    let claims = stage.claims;
    let first = stage.begin(0, 1, MARK);
    let _ = stage.append(0, &claims, (Some(1), first), 1);
    stage.world.settle(T0);
    let second = stage.begin(0, 2, MARK);
    let _ = stage.append(0, &claims[1..], (None, second), 2);
    stage.world.settle(T0);
    assert_eq!(stage.settled(0), [(2, DONE)]);
    assert_eq!(stage.notes(claims[1]), [2]);
    assert_eq!(stage.append(0, &claims[1..], (None, first), 3), Call::Pending);
    stage.world.settle(T0);
    assert_eq!(stage.settled(0), [(3, DONE)]);
    // So it is where it is read back.
    stage.world.lead(stage.right, 1, 0);
    stage.world.settle(T0);
    assert_eq!(stage.append(1, &claims[1..], (None, first), 4), Call::Pending);
    stage.world.settle(T0);
    assert_eq!(stage.queue(1, claims[1]), ["1", "2"]);
}

/// DUR-010: an identifier that its publisher gave up and uses for another message is that of another message,
/// and what was begun under it before is accepted no more.
#[test]
fn another_message_under_an_identifier_has_another_number() {
    let mut stage = stage();
    let claims = stage.claims;
    let given_up = stage.begin(0, 1, MARK);
    let _ = stage.append(0, &claims[1..], (None, given_up), 1);
    let once = stage.begin(0, 1, MARK + 1);
    assert_eq!((once.number, once.low), (2, 2));
    let unknown = Call::Ready(Settlement::Unknown);
    assert_eq!(stage.append(0, &claims[..1], (Some(1), given_up), 2), unknown);
    assert_eq!(stage.append(0, &claims, (Some(1), once), 3), Call::Pending);
    stage.world.settle(T0);
    assert_eq!(stage.queue(0, claims[0]), ["2"]);
    assert_eq!(stage.queue(0, claims[1]), ["1", "2"]);
    let stale = Claim { version: claims[0].version - 1, ..claims[0] };
    assert_eq!(stage.bench(0).inbox.begin((stale, id(3)), MARK, &[], None), Err(StaleClaim));
}

/// DUR-010, DIST-011: whom a message goes to of its groups is stored with it, and read back where its publisher
/// is served next; whoever is chosen for one that is gone has a number that is known there, too.
#[test]
fn what_was_chosen_is_read_back() {
    let mut stage = stage();
    let claims = stage.claims;
    let wish = |group, claim: Claim, instead_of| Wish {
        group: GroupMark(group),
        inbox: claim.inbox,
        instead_of,
    };
    let exchange = (claims[0], id(1));
    let begin = |stage: &mut Stage, node: usize, wished: &[Wish]| {
        let begun = stage.bench(node).inbox.begin(exchange, MARK, wished, None).expect("his");
        stage.world.settle(T0);
        let numbers = begun.answer.choices.iter().map(|it| (it.group.0, it.inbox, it.number));
        (numbers.collect::<Vec<_>>(), begun.answer.others)
    };
    let first = [wish(5, claims[0], None), wish(6, claims[1], None)];
    let kept = vec![(5, claims[0].inbox, 1), (6, claims[1].inbox, 1)];
    assert_eq!(begin(&mut stage, 0, &first), (kept.clone(), 1));
    assert!(stage.bench(0).inbox.is_begun(exchange));
    let move_to = |stage: &mut Stage, node| {
        stage.world.lead(GROUP, node, 0);
        stage.world.settle(T0);
        stage.bench(node).inbox.resume(claims[0], owner(9)).expect("his");
    };
    move_to(&mut stage, 1);
    assert!(!stage.bench(0).inbox.is_begun(exchange), "it is served elsewhere");
    assert!(stage.bench(1).inbox.is_begun(exchange));
    assert_eq!(begin(&mut stage, 1, &[wish(5, claims[1], None)]), (kept, 1));
    let instead = [wish(5, claims[1], Some(claims[0].inbox))];
    let kept = vec![(5, claims[1].inbox, 2), (6, claims[1].inbox, 1)];
    assert_eq!(begin(&mut stage, 1, &instead), (kept.clone(), 2));
    move_to(&mut stage, 0);
    assert_eq!(begin(&mut stage, 0, &[]), (kept, 1));
    let begun = stage.bench(0).inbox.begin((claims[0], id(2)), MARK, &[], None).expect("his");
    assert_eq!(begun.answer.once.number, 3, "no number is given twice");
}

/// KV-013, DUR-010: what is noted goes with its partition where ranges are parted and joined.
#[test]
fn notes_stay_with_their_partition() {
    let mut stage = stage();
    let claims = stage.claims;
    let once = stage.begin(0, 1, MARK);
    let _ = stage.append(0, &claims, (None, once), 1);
    stage.world.settle(T0);
    stage.world.merge(GROUP, stage.right);
    stage.world.settle(T0);
    claims.iter().for_each(|claim| assert_eq!(stage.queue(0, *claim), ["1"]));
    assert_eq!(stage.append(0, &claims, (Some(1), once), 2), Call::Pending);
    let place = partition_number(claims[1].inbox.0);
    stage.world.settle(T0);
    let right = stage.world.split(GROUP, place);
    stage.world.lead(right, 1, 0);
    stage.world.settle(T0);
    assert_eq!(stage.append(1, &claims[1..], (None, once), 3), Call::Pending);
    stage.world.settle(T0);
    assert_eq!(stage.queue(0, claims[0]), ["1"]);
    assert_eq!(stage.queue(1, claims[1]), ["1"]);
}

/// MEM-001, DUR-010: what a session began goes with it, and what is noted of it after a day.
#[test]
fn notes_go_after_a_day_and_what_was_begun_with_its_session() {
    let mut stage = stage();
    let claims = stage.claims;
    let once = stage.begin(0, 1, MARK);
    let _ = stage.append(0, &claims[1..], (None, once), 1);
    stage.world.settle(T0);
    let charged = |stage: &Stage| {
        ratatosk_telemetry::memory::post_changes();
        let account = stage.bench(0).inbox.memory.account("");
        account.charged().charged[Share::Queues.index()].bytes()
    };
    assert!(charged(&stage) > 0);
    let detach = Detach { expiry_s: Some(0), will: None, now: T0 };
    let _ = stage.bench(0).inbox.detach(claims[0], detach, None).expect("he is the owner");
    stage.world.settle(T0);
    assert_eq!(stage.world.keys_of(claims[0].inbox), [Place::Mark]);
    assert_eq!(stage.notes(claims[1]), [1]);
    let day = NOTE_LIFE.as_secs();
    stage.bench(0).expire(seconds(day - 1));
    stage.world.settle(T0);
    assert_eq!(stage.notes(claims[1]), [1]);
    stage.bench(0).expire(seconds(day));
    stage.world.settle(T0);
    assert_eq!(stage.notes(claims[1]), Vec::<u64>::new());
    assert_eq!(charged(&stage), 0);
}

/// DUR-010: a node that stands alone has one range: its messages of QoS 2 are one command, and nothing else is
/// stored of them.
#[test]
fn a_node_that_stands_alone_notes_nothing_beside_the_exchange() {
    let node = node();
    let claims = ["a", "b"].map(|client| node.session(client));
    let routes = claims.map(|claim| node.route(claim));
    let targets = Targets { tenant: &tenant(), routes: &routes, shared: &[] };
    let exchange = Some((claims[0], id(1)));
    let inbox = &node.bench.inbox;
    let message = message("m", Qos::ExactlyOnce);
    let before = node.keyspace.content().len();
    let call = inbox.append(targets, &message, exchange, reply(1), &mut Vec::new());
    assert_eq!(call, Call::Pending);
    node.keyspace.settle();
    assert_eq!(node.settled(), [(1, DONE)]);
    // Two entries with one message, and the exchange.
    assert_eq!(node.keyspace.content().len() - before, 4);
    assert!(node.places(claims[0].inbox).contains(&Place::Inbound(id(1))));
    assert_eq!(inbox.range(0), inbox.range(63));
}

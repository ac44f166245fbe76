//! The inbox over reigns that move, under a seed: several nodes, ranges that part and join, leaders that do
//! not know yet that they are none.
//!
//! Publishers bring each message once. What was acknowledged to one is in its queue until the session is
//! done with it; a place of a queue has one message for ever; what a session has durably committed does not
//! come again; and what comes to pass for a claim does so at the leader alone.

use std::collections::{BTreeMap, BTreeSet};

use ratatosk_clock::Instant;
use ratatosk_codec::Qos;
use ratatosk_contract::{
    Call,
    call::Settlement,
    inbox::{Attach, Claim, Inbox as _, InboxId, QueueLimits, Sequence, Targets},
};
use ratatosk_testkit::dice::Dice;

use crate::{
    durable_fixture::{id, reply},
    fake::{BUDGET, identity, message, owner, tenant},
    partitions::partition_of,
    reign_fixture::{World, route_to, text},
};

const T0: Instant = Instant::ZERO;
const NODES: usize = 3;
const CLIENTS: [&str; 5] = ["a", "b", "c", "d", "e"];
const STEPS: usize = 700;

/// A client's connection, as whoever has it knows it.
#[derive(Clone, Debug)]
struct Link {
    claim: Claim,
    is_ready: bool,
    cursor: Sequence,
    taken: BTreeSet<u64>,
}

/// What a ticket is for.
#[derive(Clone, Debug)]
enum Ticket {
    Attach {
        client: usize,
        claim: Claim,
    },
    Append(Vec<(InboxId, String)>),
    /// What was committed before is durable.
    Fence(Vec<(InboxId, u64)>),
    /// Asked of a node that does not lead.
    Ghost,
}

struct Model {
    dice: Dice,
    world: World,
    links: [Option<Link>; CLIENTS.len()],
    /// The session of each client, as it was last known.
    known: [Option<Claim>; CLIENTS.len()],
    number: u64,
    tickets: BTreeMap<u64, Ticket>,
    acknowledged: BTreeSet<(InboxId, String)>,
    seen: BTreeMap<(InboxId, u64), String>,
    places: BTreeMap<(InboxId, String), u64>,
    given_up: BTreeSet<(InboxId, u64)>,
    /// Committed since the last fence of each session.
    unfenced: BTreeMap<InboxId, Vec<u64>>,
    committed: BTreeSet<(InboxId, u64)>,
    counts: Counts,
}

/// What happened, so that nobody takes a test for a proof in which nothing did.
#[derive(Debug, Default)]
struct Counts {
    moves: usize,
    resumed: usize,
    fetched: usize,
    ghosts: usize,
    doubts: usize,
    parted: usize,
}

fn place(client: usize) -> usize {
    partition_of(&identity(CLIENTS[client]))
}

impl Model {
    fn new(seed: u64) -> Self {
        Model {
            dice: Dice::new(seed, 1),
            world: World::served(NODES),
            links: Default::default(),
            known: Default::default(),
            number: 0,
            tickets: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            seen: BTreeMap::new(),
            places: BTreeMap::new(),
            given_up: BTreeSet::new(),
            unfenced: BTreeMap::new(),
            committed: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    fn ticket(&mut self, ticket: Ticket) -> u64 {
        self.number += 1;
        self.tickets.insert(self.number, ticket);
        self.number
    }

    /// The node that serves a client now, as the landscape has it: it may not have read it yet.
    fn seat(&self, client: usize) -> usize {
        self.world.leader_of(place(client)).1
    }

    fn attach(&mut self, client: usize) {
        let node = self.seat(client);
        let number = self.number + 1;
        let bench = &self.world.nodes[node].bench;
        let attach = Attach {
            identity: &identity(CLIENTS[client]),
            owner: owner(u32::try_from(client).expect("few")),
            is_clean: false,
            expiry_s: None,
            limits: QueueLimits { messages_max: 10_000, ..bench.limits },
            will: None,
            now: T0,
        };
        let Ok(promised) = bench.inbox.attach_here(&attach, reply(number)) else { return };
        let claim = promised.answer.claim;
        self.ticket(Ticket::Attach { client, claim });
        let (cursor, taken) = (Sequence(0), BTreeSet::new());
        self.links[client] = Some(Link { claim, is_ready: false, cursor, taken });
    }

    /// The connection is there, and so is its session, elsewhere perhaps.
    fn resume(&mut self, client: usize) {
        let node = self.seat(client);
        let Some(link) = self.links[client].as_mut().filter(|link| link.is_ready) else { return };
        let resumed = self.world.nodes[node].bench.inbox.resume(link.claim, owner(9));
        match resumed {
            Ok(attached) => {
                assert_eq!(attached.claim, link.claim);
                (link.cursor, link.taken) = (Sequence(0), BTreeSet::new());
                self.counts.resumed += 1;
            }
            Err(crate::ResumeError::NotServed) => {}
            Err(crate::ResumeError::Stale) => {
                panic!("nobody else attached, and its attachment was durable: {link:?}")
            }
        }
    }

    fn append(&mut self) {
        let first = self.dice.below(CLIENTS.len());
        let chosen: Vec<_> = (0..CLIENTS.len())
            .filter(|client| *client == first || self.dice.once_in(3))
            .filter_map(|client| self.known[client])
            .collect();
        if chosen.is_empty() {
            return;
        }
        let node = self.seat(first);
        let payload = format!("m{}", self.number + 1);
        let places = chosen.iter().map(|claim| (claim.inbox, payload.clone())).collect();
        let number = self.ticket(Ticket::Append(places));
        let routes: Vec<_> = chosen.iter().map(|claim| route_to(*claim)).collect();
        let targets = Targets { tenant: &tenant(), routes: &routes, shared: &[] };
        let message = message(&payload, Qos::AtLeastOnce);
        let inbox = &self.world.nodes[node].bench.inbox;
        match inbox.append(targets, &message, None, reply(number), &mut Vec::new()) {
            Call::Pending => {}
            Call::Ready(settlement) => {
                assert_ne!(settlement, Settlement::Done, "a leader knows that it is one");
                self.settled(number, settlement);
            }
        }
    }

    fn fetch(&mut self, client: usize) {
        let node = self.seat(client);
        let Some(link) = self.links[client].as_mut().filter(|link| link.is_ready) else { return };
        let (mut entries, inbox) = (Vec::new(), link.claim.inbox);
        let budget = ratatosk_contract::inbox::FetchBudget { messages_max: 3, ..BUDGET };
        let service = &self.world.nodes[node].bench.inbox;
        if service.fetch(link.claim, link.cursor, budget, &mut entries).is_err() {
            return self.resume(client);
        }
        for entry in entries {
            let (sequence, payload) = (entry.sequence.0, text(&entry.message.payload));
            assert!(sequence > link.cursor.0, "in order");
            link.cursor = entry.sequence;
            link.taken.insert(sequence);
            let is_done = self.committed.contains(&(inbox, sequence));
            assert!(!is_done, "{payload:?} was committed for good");
            let known = self.seen.entry((inbox, sequence)).or_insert_with(|| payload.clone());
            assert_eq!(*known, payload, "a place has one message");
            let at = *self.places.entry((inbox, payload)).or_insert(sequence);
            assert_eq!(at, sequence, "a message has one place");
            self.counts.fetched += 1;
        }
    }

    fn commit(&mut self, client: usize) {
        let node = self.seat(client);
        let Some(link) = self.links[client].as_mut().filter(|link| link.is_ready) else { return };
        let taken: Vec<_> = link.taken.iter().copied().collect();
        let Some(sequence) = self.dice.pick(&taken).copied() else { return };
        let (claim, inbox) = (link.claim, link.claim.inbox);
        let service = &self.world.nodes[node].bench.inbox;
        if service.commit(claim, Sequence(sequence)).is_err() {
            return self.resume(client);
        }
        link.taken.remove(&sequence);
        self.given_up.insert((inbox, sequence));
        self.unfenced.entry(inbox).or_default().push(sequence);
        if self.dice.once_in(2) {
            let done = std::mem::take(self.unfenced.entry(inbox).or_default());
            let done = done.into_iter().map(|sequence| (inbox, sequence)).collect();
            let number = self.ticket(Ticket::Fence(done));
            let service = &self.world.nodes[node].bench.inbox;
            let fence = service.inbound(claim, id(1), true, reply(number));
            assert!(fence.is_ok(), "nothing happened between");
        }
    }

    /// Somebody shows a claim to a node that does not lead: it may not know, but it comes to nothing.
    fn haunt(&mut self, client: usize) {
        let Some(link) = self.links[client].clone().filter(|link| link.is_ready) else { return };
        let node = self.dice.below(NODES);
        if node == self.seat(client) {
            return;
        }
        let number = self.ticket(Ticket::Ghost);
        let service = &self.world.nodes[node].bench.inbox;
        if service.inbound(link.claim, id(2), false, reply(number)).is_err() {
            self.tickets.remove(&number);
        } else {
            self.counts.ghosts += 1;
        }
    }

    fn move_range(&mut self) {
        let groups = self.world.groups();
        let group = *self.dice.pick(&groups).expect("there is one");
        let (to, kept) = (self.dice.below(NODES), self.dice.below(4));
        match self.dice.once_in(2) {
            true => self.world.lead(group, to, kept),
            false => {
                self.world.lead_silently(group, to, kept);
                (0..CLIENTS.len()).for_each(|client| self.haunt(client));
            }
        }
        self.unfenced.clear();
        self.counts.moves += 1;
    }

    fn reshape(&mut self) {
        let client = self.dice.below(CLIENTS.len());
        let (group, leader) = self.world.leader_of(place(client));
        let first = place(client);
        let is_parted = first == 0 || self.world.leader_of(first - 1).0 != group;
        self.unfenced.clear();
        self.counts.parted += 1;
        if !is_parted {
            self.world.split(group, first);
        } else if first > 0 {
            let (left, other) = self.world.leader_of(first - 1);
            if other == leader {
                self.world.merge(left, group);
            }
        }
    }

    fn settled(&mut self, number: u64, settlement: Settlement) {
        let Some(ticket) = self.tickets.remove(&number) else {
            panic!("ticket {number} is settled twice")
        };
        let is_done = settlement == Settlement::Done;
        self.counts.doubts += usize::from(settlement == Settlement::Unknown);
        match ticket {
            Ticket::Append(places) if is_done => self.acknowledged.extend(places),
            Ticket::Fence(done) if is_done => self.committed.extend(done),
            Ticket::Ghost => assert!(!is_done, "only a leader carries anything out"),
            Ticket::Append(_) | Ticket::Fence(_) => {}
            Ticket::Attach { client, claim } => {
                if let Some(link) = self.links[client].as_mut().filter(|link| link.claim == claim) {
                    match is_done {
                        true => link.is_ready = true,
                        false => self.links[client] = None,
                    }
                }
                if is_done {
                    self.known[client] = Some(claim);
                }
            }
        }
    }

    fn hear(&mut self) {
        for node in 0..NODES {
            for (number, settlement) in self.world.nodes[node].bench.sessions.take_settled() {
                self.settled(number, settlement);
            }
        }
    }

    fn step(&mut self) {
        let client = self.dice.below(CLIENTS.len());
        match self.dice.below(44) {
            0..10 => self.append(),
            10..17 => self.fetch(client),
            17..22 => self.commit(client),
            22..27 => {
                let groups = self.world.groups();
                let group = *self.dice.pick(&groups).expect("there is one");
                let count = 1 + self.dice.below(3);
                self.world.carry_out(group, count);
            }
            27..34 => {
                let node = self.dice.below(NODES);
                let seated = self.world.nodes[node].bench.inbox.seat_next(T0);
                seated.expect("it reads what was written");
            }
            34..38 => self.haunt(client),
            38 => self.move_range(),
            39 => self.reshape(),
            40 if self.dice.once_in(2) => {
                let node = self.dice.below(NODES);
                self.world.wake(node);
            }
            _ if self.links[client].is_none() => self.attach(client),
            _ => self.resume(client),
        }
        self.hear();
    }

    /// All is well again: everybody gets what is his.
    fn heal(&mut self) {
        self.world.settle(T0);
        self.hear();
        let left: Vec<_> = self.tickets.values().collect();
        assert!(left.is_empty(), "everybody is told: {left:?}");
        for client in 0..CLIENTS.len() {
            let Some(claim) = self.known[client] else { continue };
            if self.links[client].is_none() {
                self.attach(client);
                self.world.settle(T0);
                self.hear();
            }
            self.resume(client);
            let link = self.links[client].as_ref().expect("it is connected");
            assert_eq!(link.claim.inbox, claim.inbox, "it is the session that was there");
            let mut before = usize::MAX;
            while self.counts.fetched != before {
                before = self.counts.fetched;
                self.fetch(client);
            }
            let taken = self.links[client].as_ref().map(|link| link.taken.clone());
            let taken = taken.unwrap_or_default();
            let its = self.acknowledged.iter().filter(|held| held.0 == claim.inbox);
            for held in its {
                let at = self.places.get(held).copied();
                let is_there = at.is_some_and(|at| taken.contains(&at));
                let is_done = at.is_some_and(|at| self.given_up.contains(&(claim.inbox, at)));
                assert!(is_there || is_done, "{held:?} was acknowledged");
            }
        }
        let kept = self.world.nodes.iter().map(|node| node.bench.inbox.len()).sum::<usize>();
        assert_eq!(kept, self.known.iter().flatten().count());
        self.world.nodes.iter().for_each(|node| node.bench.check_conservation());
    }
}

/// INBOX-002, DUR-001, DUR-003: whoever leads, and whoever believes to.
#[test]
fn queues_are_whole_wherever_their_range_is_led() {
    let mut sum = Counts::default();
    for seed in 0..60 {
        let mut model = Model::new(seed);
        (0..STEPS).for_each(|_| model.step());
        model.heal();
        let Counts { moves, resumed, fetched, ghosts, doubts, parted } = model.counts;
        sum.moves += moves;
        sum.resumed += resumed;
        sum.fetched += fetched;
        sum.ghosts += ghosts;
        sum.doubts += doubts;
        sum.parted += parted;
    }
    let happened = [sum.moves, sum.resumed, sum.fetched, sum.doubts, sum.parted];
    assert!(happened.iter().all(|count| *count >= 500) && sum.ghosts >= 20, "{sum:?}");
}

//! Publishers of QoS 2 whose messages go to several ranges, while these move, and are parted and joined, answers
//! are lost, publishers come back, and what they sent long ago arrives.

use std::collections::{BTreeMap, BTreeSet};

use ratatosk_clock::Instant;
use ratatosk_codec::{PacketId, Qos};
use ratatosk_contract::{
    Call,
    call::Settlement,
    inbox::{Attach, Claim, Inbox as _, QueueLimits, Targets},
    serving::{Once, Serving as _, Terms},
};
use ratatosk_testkit::dice::Dice;

use crate::{
    durable_fixture::{id, reply},
    fake::{identity, message, owner, tenant},
    partitions::partition_of,
    reign_fixture::{World, route_to, text},
};

const T0: Instant = Instant::ZERO;
const NODES: usize = 3;
const CLIENTS: [&str; 5] = ["a", "b", "c", "d", "e"];
const STEPS: usize = 700;
/// Packet identifiers of a publisher, and so what it has under way.
const PACKET_IDS: u16 = 3;

/// A message as the connection of its publisher has it.
#[derive(Clone, Debug)]
struct Flight {
    packet_id: PacketId,
    /// The message.
    number: u64,
    targets: Vec<usize>,
    once: Option<Once>,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    /// It is to be begun.
    Idle,
    Begins(u64, Once),
    /// For whom it is to be sent, or sent again, and for whom it is under way.
    Sends {
        due: Vec<usize>,
        under_way: BTreeMap<u64, Vec<usize>>,
    },
    Accepts(u64),
}

/// What a ticket is for.
#[derive(Clone, Debug)]
enum Ticket {
    Attach(usize, Claim),
    Work(usize),
    Release(usize, Claim, PacketId),
}

/// A publisher's connection.
#[derive(Clone, Debug)]
struct Link {
    claim: Claim,
    is_ready: bool,
    inbound: Vec<PacketId>,
}

struct Model {
    dice: Dice,
    world: World,
    links: [Option<Link>; CLIENTS.len()],
    known: [Option<Claim>; CLIENTS.len()],
    flights: [Vec<Flight>; CLIENTS.len()],
    tickets: BTreeMap<u64, Ticket>,
    number: u64,
    accepted: Vec<(u64, Vec<usize>)>,
    /// What connections that are gone had on their way.
    late: Vec<(Once, u64, usize)>,
    counts: Counts,
}

/// What happened, so that nobody takes a test for a proof in which nothing did.
#[derive(Debug, Default)]
struct Counts {
    accepted: usize,
    repeated: usize,
    late: usize,
    came_back: usize,
    given_up: usize,
    moves: usize,
    parted: usize,
}

fn place(client: usize) -> usize {
    partition_of(&identity(CLIENTS[client]))
}

impl Model {
    fn new(seed: u64) -> Self {
        Model {
            dice: Dice::new(seed, 2),
            world: World::served(NODES),
            links: Default::default(),
            known: Default::default(),
            flights: Default::default(),
            tickets: BTreeMap::new(),
            number: 0,
            accepted: Vec::new(),
            late: Vec::new(),
            counts: Counts::default(),
        }
    }

    fn ticket(&mut self, client: usize) -> u64 {
        self.number += 1;
        self.tickets.insert(self.number, Ticket::Work(client));
        self.number
    }

    fn seat(&self, client: usize) -> usize {
        self.world.leader_of(place(client)).1
    }

    /// A client connects, anew perhaps: what it has not heard of it brings again, or gives up.
    fn attach(&mut self, client: usize) {
        let (node, number) = (self.seat(client), self.ticket(client));
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
        let Ok(promised) = bench.inbox.attach_here(&attach, reply(number)) else {
            self.tickets.remove(&number);
            return;
        };
        let (claim, inbound) = (promised.answer.claim, promised.answer.inbound);
        self.tickets.insert(number, Ticket::Attach(client, claim));
        self.links[client] = Some(Link { claim, is_ready: false, inbound });
        for flight in &mut self.flights[client] {
            let once = flight.once.take();
            let late = once.iter().flat_map(|once| {
                flight.targets.iter().map(|target| (*once, flight.number, *target))
            });
            self.late.extend(late);
            flight.stage = Stage::Idle;
        }
    }

    /// The connection is accepted: what was accepted before, its publisher knows now.
    fn attached(&mut self, client: usize, inbound: &[PacketId]) {
        self.counts.came_back += 1;
        for flight in std::mem::take(&mut self.flights[client]) {
            match inbound.contains(&flight.packet_id) {
                true => self.accept(client, flight),
                false if self.dice.once_in(8) => self.counts.given_up += 1,
                false => self.flights[client].push(flight),
            }
        }
    }

    fn accept(&mut self, client: usize, flight: Flight) {
        self.counts.accepted += 1;
        self.accepted.push((flight.number, flight.targets));
        if let Some(link) = &mut self.links[client] {
            link.inbound.push(flight.packet_id);
        }
    }

    fn resume(&self, client: usize) {
        let node = self.seat(client);
        if let Some(link) = self.links[client].as_ref().filter(|link| link.is_ready) {
            let _ = self.world.nodes[node].bench.inbox.resume(link.claim, owner(9));
        }
    }

    fn publish(&mut self, client: usize) {
        let Some(link) = self.links[client].as_ref().filter(|link| link.is_ready) else { return };
        let is_free = |packet_id: &PacketId| {
            let mut flights = self.flights[client].iter();
            !link.inbound.contains(packet_id) && flights.all(|it| it.packet_id != *packet_id)
        };
        let Some(packet_id) = (1..=PACKET_IDS).map(id).find(is_free) else { return };
        let first = self.dice.below(CLIENTS.len());
        let targets: Vec<usize> = (0..CLIENTS.len())
            .filter(|target| *target == first || self.dice.once_in(2))
            .filter(|target| self.known[*target].is_some())
            .collect();
        self.number += 1;
        let (number, once, stage) = (self.number, None, Stage::Idle);
        self.flights[client].push(Flight { packet_id, number, targets, once, stage });
    }

    /// The client ends an exchange that was accepted.
    fn release(&mut self, client: usize) {
        let (node, number) = (self.seat(client), self.number + 1);
        let Some(link) = self.links[client].as_ref().filter(|link| link.is_ready) else { return };
        let Some(packet_id) = self.dice.pick(&link.inbound).copied() else { return };
        let (claim, inbox) = (link.claim, &self.world.nodes[node].bench.inbox);
        if inbox.inbound(claim, packet_id, true, reply(number)).is_ok() {
            self.number = number;
            self.tickets.insert(number, Ticket::Release(client, claim, packet_id));
        }
    }

    fn append(
        &self,
        node: usize,
        targets: &[usize],
        number: u64,
        terms: Terms,
    ) -> Call<Settlement> {
        let claims = targets.iter().filter_map(|target| self.known[*target]);
        let routes: Vec<_> = claims.map(route_to).collect();
        let targets = Targets { tenant: &tenant(), routes: &routes, shared: &[] };
        let payload = number.to_string();
        let message = message(&payload, Qos::ExactlyOnce);
        self.world.nodes[node].bench.inbox.append_on(targets, &message, terms, &mut Vec::new())
    }

    /// Does the next thing that is due for a message.
    fn drive(&mut self, client: usize) {
        let Some(link) = self.links[client].clone().filter(|link| link.is_ready) else { return };
        if self.flights[client].is_empty() {
            return;
        }
        let at = self.dice.below(self.flights[client].len());
        let mut flight = self.flights[client][at].clone();
        let (node, exchange) = (self.seat(client), (link.claim, flight.packet_id));
        let inbox = std::sync::Arc::clone(&self.world.nodes[node].bench.inbox);
        match &mut flight.stage {
            Stage::Idle => {
                let number = self.ticket(client);
                match inbox.begin(exchange, flight.number, &[], reply(number)) {
                    Ok(begun) => flight.stage = Stage::Begins(number, begun.answer.once),
                    Err(_) => {
                        self.tickets.remove(&number);
                        self.resume(client);
                    }
                }
            }
            Stage::Begins(..) | Stage::Accepts(_) => {}
            Stage::Sends { due, under_way } if !due.is_empty() => {
                let first = *self.dice.pick(due).expect("one is due");
                let seat = self.seat(first);
                let (meant, kept) = due.iter().partition(|target| self.seat(**target) == seat);
                *due = kept;
                let (meant, number): (Vec<usize>, u64) = (meant, self.ticket(client));
                let (once, reply_to) = (flight.once, reply(number));
                let terms = Terms { exchange: None, once, reply_to };
                match self.append(seat, &meant, flight.number, terms) {
                    Call::Pending => drop(under_way.insert(number, meant)),
                    Call::Ready(_) => {
                        self.tickets.remove(&number);
                        due.extend(meant);
                    }
                }
            }
            Stage::Sends { under_way, .. } if !under_way.is_empty() => {}
            Stage::Sends { .. } => {
                let (number, once) = (self.ticket(client), flight.once);
                let (exchange, reply_to) = (Some(exchange), reply(number));
                // Some sessions are where the publisher's is.
                let targets = flight.targets.iter().copied();
                let near: Vec<usize> = targets.filter(|it| self.seat(*it) == node).collect();
                let terms = Terms { exchange, once, reply_to };
                match self.append(node, &near, flight.number, terms) {
                    Call::Pending => flight.stage = Stage::Accepts(number),
                    Call::Ready(_) => {
                        self.tickets.remove(&number);
                        self.resume(client);
                    }
                }
            }
        }
        self.flights[client][at] = flight;
    }

    /// Something arrives that a connection sent before it was lost.
    fn arrive_late(&mut self) {
        let Some((once, number, target)) = self.dice.pick(&self.late).copied() else { return };
        let ticket = self.ticket(target);
        let terms = Terms { exchange: None, once: Some(once), reply_to: reply(ticket) };
        match self.append(self.seat(target), &[target], number, terms) {
            Call::Pending => self.counts.late += 1,
            Call::Ready(_) => drop(self.tickets.remove(&ticket)),
        }
    }

    fn settled(&mut self, client: usize, number: u64, is_done: bool) {
        let (mut accepted, mut is_lost) = (None, false);
        for (at, flight) in self.flights[client].iter_mut().enumerate() {
            match &mut flight.stage {
                Stage::Begins(ticket, once) if *ticket == number => {
                    flight.once = is_done.then_some(*once);
                    let due = flight.targets.clone();
                    let under_way = BTreeMap::new();
                    flight.stage =
                        if is_done { Stage::Sends { due, under_way } } else { Stage::Idle };
                }
                Stage::Sends { due, under_way } => {
                    if let Some(meant) = under_way.remove(&number).filter(|_| !is_done) {
                        self.counts.repeated += 1;
                        due.extend(meant);
                    }
                }
                Stage::Accepts(ticket) if *ticket == number => {
                    accepted = is_done.then_some(at);
                    // Whether it was accepted is known when the client comes back.
                    is_lost = !is_done;
                }
                Stage::Idle | Stage::Begins(..) | Stage::Accepts(_) => {}
            }
        }
        if is_lost {
            self.links[client] = None;
        }
        if let Some(at) = accepted {
            let flight = self.flights[client].remove(at);
            self.accept(client, flight);
        }
    }

    fn settled_as(&mut self, number: u64, settlement: Settlement) {
        let is_done = settlement == Settlement::Done;
        let Some(ticket) = self.tickets.remove(&number) else { panic!("{number} settles once") };
        match ticket {
            Ticket::Work(client) => self.settled(client, number, is_done),
            Ticket::Attach(client, claim) => {
                let link = self.links[client].as_mut().filter(|link| link.claim == claim);
                let Some(link) = link else { return };
                link.is_ready = true;
                let inbound = link.inbound.clone();
                match is_done {
                    true => {
                        self.known[client] = Some(claim);
                        self.attached(client, &inbound);
                    }
                    false => self.links[client] = None,
                }
            }
            Ticket::Release(client, claim, packet_id) => {
                let link = self.links[client].as_mut().filter(|link| link.claim == claim);
                let Some(link) = link else { return };
                match is_done {
                    true => link.inbound.retain(|held| *held != packet_id),
                    false => self.links[client] = None,
                }
            }
        }
    }

    fn hear(&mut self) {
        for node in 0..NODES {
            for (number, settlement) in self.world.nodes[node].bench.sessions.take_settled() {
                self.settled_as(number, settlement);
            }
        }
    }

    fn move_range(&mut self) {
        let groups = self.world.groups();
        let group = *self.dice.pick(&groups).expect("there is one");
        let (to, kept) = (self.dice.below(NODES), self.dice.below(4));
        match self.dice.once_in(2) {
            true => self.world.lead(group, to, kept),
            false => self.world.lead_silently(group, to, kept),
        }
        self.counts.moves += 1;
    }

    fn reshape(&mut self) {
        let first = place(self.dice.below(CLIENTS.len()));
        let (group, leader) = self.world.leader_of(first);
        let is_parted = first == 0 || self.world.leader_of(first - 1).0 != group;
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

    fn step(&mut self) {
        let client = self.dice.below(CLIENTS.len());
        match self.dice.below(60) {
            0..6 => self.publish(client),
            6..26 => self.drive(client),
            26..30 => self.release(client),
            30..38 => {
                let groups = self.world.groups();
                let group = *self.dice.pick(&groups).expect("there is one");
                let count = 1 + self.dice.below(3);
                self.world.carry_out(group, count);
            }
            38..46 => {
                let node = self.dice.below(NODES);
                let seated = self.world.nodes[node].bench.inbox.seat_next(T0);
                seated.expect("it reads what was written");
            }
            46..49 => self.arrive_late(),
            49 => self.move_range(),
            50 if self.dice.once_in(2) => self.reshape(),
            51 => {
                let node = self.dice.below(NODES);
                self.world.wake(node);
            }
            52 => self.attach(client),
            _ if self.links[client].is_none() => self.attach(client),
            _ => self.resume(client),
        }
        self.hear();
    }

    /// All is well again: what is not given up is accepted.
    fn heal(&mut self) {
        let settle = |model: &mut Self| {
            model.world.settle(T0);
            model.hear();
        };
        settle(self);
        for _ in 0..60 {
            for client in 0..CLIENTS.len() {
                match self.links[client] {
                    Some(_) => self.resume(client),
                    None => self.attach(client),
                }
                (0..4).for_each(|_| self.drive(client));
            }
            settle(self);
        }
        assert!(self.flights.iter().all(Vec::is_empty), "{:?}", self.flights);
        (0..self.late.len()).for_each(|_| self.arrive_late());
        settle(self);
        let mut counts: BTreeMap<(usize, String), usize> = BTreeMap::new();
        for client in 0..CLIENTS.len() {
            self.resume(client);
            let Some(claim) = self.known[client] else { continue };
            for entry in self.world.nodes[self.seat(client)].bench.fetch_all(claim) {
                *counts.entry((client, text(&entry.message.payload))).or_default() += 1;
            }
        }
        let twice: BTreeSet<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "{twice:?}");
        for (number, targets) in &self.accepted {
            for target in targets {
                let is_there = counts.contains_key(&(*target, number.to_string()));
                assert!(is_there, "{number} for {target} was accepted");
            }
        }
    }
}

/// DUR-010, DUR-003: whoever leads, and whoever brings it again: of what was accepted each has one.
#[test]
fn what_comes_again_over_moves_is_queued_once() {
    let mut sum = Counts::default();
    for seed in 0..60 {
        let mut model = Model::new(seed);
        (0..STEPS).for_each(|_| model.step());
        model.heal();
        let Counts { accepted, repeated, late, came_back, given_up, moves, parted } = model.counts;
        sum.accepted += accepted;
        sum.repeated += repeated;
        sum.late += late;
        sum.came_back += came_back;
        sum.given_up += given_up;
        sum.moves += moves;
        sum.parted += parted;
    }
    let happened = [sum.accepted, sum.repeated, sum.late, sum.came_back, sum.moves, sum.parted];
    assert!(happened.iter().all(|count| *count >= 80) && sum.given_up >= 20, "{sum:?}");
}

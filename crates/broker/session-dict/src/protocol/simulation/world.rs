//! A made-up cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ratatosk_clock::{Instant, Timestamp};
use ratatosk_contract::{ClientId, SessionIdentity, TenantId};

use super::oracle::{Connection, Oracle};
use crate::protocol::{
    Directory, Effect, Effects, Host, Meeting, Question, Reply, Roster, Time, Tuning, Verdict, View,
};

pub(super) const MS: u64 = 1_000_000;
/// Faults and clients go on for so long.
pub(super) const STORM: u64 = 5_000 * MS;
/// What was said last has arrived, everybody sees everybody.
pub(super) const CALM: u64 = STORM + 1_500 * MS;
/// All is well.
pub(super) const END: u64 = CALM + 5_000 * MS;
pub(super) const CLIENTS: u32 = 6;

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// Calls that fail at once, of which half had arrived.
    pub(super) breaks_percent: u64,
    /// Calls of which nothing is heard until their time is over.
    pub(super) silences_percent: u64,
    /// Servers and nodes come, and servers go.
    pub(super) churn: bool,
    pub(super) partitions: bool,
    pub(super) deaths: bool,
}

pub(super) struct Node {
    pub(super) host: Host,
    pub(super) roster: Roster,
    pub(super) directory: Directory,
    pub(super) is_up: bool,
    pub(super) is_server: bool,
    pub(super) accepts: bool,
    /// Nodes that it sees, and whether as servers.
    pub(super) sees: BTreeMap<usize, bool>,
    pub(super) skew_ms: u64,
    /// When what it says to a server arrives at the earliest, so that it arrives in order.
    pub(super) arrival: BTreeMap<usize, u64>,
    pub(super) asked: BTreeMap<u64, (usize, u64)>,
}

#[derive(Debug)]
pub(super) enum Event {
    Tick(usize),
    Connect(u32),
    Disconnect(Connection, u32),
    Asked { from: usize, to: usize, question: Question, is_answered: bool },
    Replied { from: usize, to: usize, question: Question, reply: Option<Reply> },
    Meet { from: usize, to: usize, call: u64 },
    Met { call: u64, verdict: Option<Verdict> },
    See { node: usize, other: usize },
    Part,
    Heal,
    Die,
    Churn,
    Sweep,
}

/// See the module.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) number: u64,
    pub(super) random: u64,
    pub(super) faults: Faults,
    pub(super) nodes: Vec<Node>,
    pub(super) queue: BTreeMap<(u64, u64), Event>,
    /// Nodes of the same side reach each other.
    pub(super) sides: Vec<u8>,
    pub(super) calls: BTreeMap<u64, (usize, usize, Meeting)>,
    pub(super) connections: u32,
    pub(super) oracle: Oracle,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        let is_strict = !faults.partitions && !faults.deaths && faults.silences_percent == 0;
        let mut world = Self {
            now: MS,
            number: 0,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            faults,
            nodes: Vec::new(),
            queue: BTreeMap::new(),
            sides: Vec::new(),
            calls: BTreeMap::new(),
            connections: 0,
            oracle: Oracle::new(is_strict),
        };
        let count = 2 + world.below(4);
        for _ in 0..count {
            let is_server = world.nodes.is_empty() || world.below(4) > 0;
            world.add_node(is_server);
        }
        // The first ones have met before the first client comes.
        for node in 0..world.nodes.len() {
            world.nodes[node].accepts = true;
            for other in 0..world.nodes.len() {
                let how = world.nodes[other].is_server;
                world.nodes[node].sees.insert(other, how);
            }
            world.refresh(node);
        }
        world
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.now < STORM && self.below(100) < percent
    }

    pub(super) fn at(&mut self, when: u64, event: Event) {
        self.number += 1;
        self.queue.insert((when.max(self.now), self.number), event);
    }

    pub(super) fn after_ms(&mut self, from: u64, to: u64) -> u64 {
        self.now + from * MS + self.below((to - from) * MS)
    }

    pub(super) fn add_node(&mut self, is_server: bool) -> usize {
        let index = self.nodes.len();
        let host = Host(u128::from(self.below(1 << 30)) << 40 | index as u128);
        self.nodes.push(Node {
            host,
            roster: Roster::new(host, Tuning::default()),
            directory: Directory::new(host),
            is_up: true,
            is_server,
            accepts: false,
            sees: BTreeMap::from([(index, is_server)]),
            skew_ms: 0,
            arrival: BTreeMap::new(),
            asked: BTreeMap::new(),
        });
        self.nodes[index].skew_ms = self.below(3_000);
        self.sides.push(0);
        let first = self.after_ms(0, 20);
        self.at(first, Event::Tick(index));
        index
    }

    pub(super) fn time(&self, node: usize) -> Time {
        Time {
            now: Instant::from_nanos(self.now),
            wall: Timestamp::from_millis(1_000_000 + self.nodes[node].skew_ms + self.now / MS),
        }
    }

    pub(super) fn index(&self, host: Host) -> Option<usize> {
        self.nodes.iter().position(|node| node.host == host)
    }

    pub(super) fn reach(&self, one: usize, other: usize) -> bool {
        self.nodes[one].is_up && self.nodes[other].is_up && self.sides[one] == self.sides[other]
    }

    /// A node takes what it sees to heart.
    pub(super) fn refresh(&mut self, node: usize) {
        let hosts = |is_wanted: &dyn Fn(bool) -> bool| -> BTreeSet<Host> {
            let seen = self.nodes[node].sees.iter().filter(|(_, how)| is_wanted(**how));
            seen.map(|(other, _)| self.nodes[*other].host).collect()
        };
        let (servers, all) = (hosts(&|how| how), hosts(&|_| true));
        let view = View::new(&servers, &all);
        let mut effects = Effects::new();
        let time = self.time(node);
        self.nodes[node].directory.set_members(view.clone(), &all);
        self.nodes[node].roster.set_members(time, view, &all, &mut effects);
        self.perform(node, effects);
    }

    /// The others see how it is after a while, itself at once.
    pub(super) fn announce(&mut self, of: usize, slowest_ms: u64) {
        for node in 0..self.nodes.len() {
            if node == of {
                self.at(self.now, Event::See { node, other: of });
                continue;
            }
            let when = self.after_ms(20, slowest_ms).min(CALM - 200 * MS);
            self.at(when, Event::See { node, other: of });
        }
    }

    pub(super) fn perform(&mut self, node: usize, mut effects: Effects) {
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Ask(server, question) => self.ask(node, server, question, &mut effects),
                Effect::Meet(host, meeting) => self.meet(node, host, meeting),
                Effect::Answer(ticket, verdict) => {
                    if let Some((_, call)) = self.nodes[node].asked.remove(&ticket) {
                        let when = self.after_ms(0, 20);
                        self.at(when, Event::Met { call, verdict: Some(verdict) });
                    }
                }
                Effect::End(session) => {
                    let connection = (node, session.slot);
                    self.oracle.told_to_end(self.now, connection);
                    let when = self.after_ms(0, 60);
                    self.at(when, Event::Disconnect(connection, session.generation));
                }
                Effect::Grant(session) => self.oracle.granted(self.now, (node, session.slot)),
            }
        }
        self.nodes[node].roster.check_invariants();
    }

    fn ask(&mut self, from: usize, server: Host, question: Question, effects: &mut Effects) {
        let to = self.index(server).expect("hosts are known");
        if from == to {
            let time = self.time(from);
            let Node { roster, directory, host, .. } = &mut self.nodes[from];
            let reply = directory.step(time, *host, &question);
            roster.replied(time, server, &question, Some(reply), effects);
            return;
        }
        let breaks = self.percent(self.faults.breaks_percent);
        let is_silent = self.percent(self.faults.silences_percent) || !self.reach(from, to);
        let arrives = self.reach(from, to) && (!(breaks || is_silent) || self.below(2) == 0);
        let earliest = self.nodes[from].arrival.get(&to).copied().unwrap_or_default();
        let when = self.after_ms(0, 15).max(earliest);
        self.nodes[from].arrival.insert(to, when);
        let is_answered = !(breaks || is_silent);
        if !is_answered {
            let late = if is_silent { self.now + 1_000 * MS } else { when + 5 * MS };
            let question = question.clone();
            self.at(late, Event::Replied { from, to, question, reply: None });
        }
        if arrives {
            self.at(when, Event::Asked { from, to, question, is_answered });
        }
    }

    fn meet(&mut self, from: usize, host: Host, meeting: Meeting) {
        self.number += 1;
        let call = self.number;
        let to = self.index(host).expect("hosts are known");
        self.calls.insert(call, (from, to, meeting));
        // What is not seen cannot be called.
        if !self.nodes[from].sees.contains_key(&to) {
            return self.at(self.now + MS, Event::Met { call, verdict: None });
        }
        let is_silent = self.percent(self.faults.silences_percent) || !self.reach(from, to);
        let breaks = self.percent(self.faults.breaks_percent);
        let is_lost = !self.reach(from, to) || (breaks || is_silent) && self.below(2) == 0;
        if breaks {
            let when = self.after_ms(1, 20);
            self.at(when, Event::Met { call, verdict: None });
        }
        self.at(self.now + 1_500 * MS, Event::Met { call, verdict: None });
        let when = self.after_ms(0, 15);
        if !is_lost {
            self.at(when, Event::Meet { from, to, call });
        }
    }
}

pub(super) fn identity(client: u32) -> Arc<SessionIdentity> {
    let client = ClientId::new(&format!("c{client}"));
    Arc::new(SessionIdentity { tenant: TenantId::new("t"), user: None, client })
}

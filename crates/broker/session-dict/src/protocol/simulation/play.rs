//! What happens in a made-up cluster, one thing after the other, and what must hold in the end.

use ratatosk_contract::{SessionRef, ShardId, TenantId};

use super::oracle::Connection;
use super::world::{CLIENTS, END, Event, MS, STORM, World, identity};
use crate::protocol::Effects;

impl World {
    /// Runs to the end, and checks what must hold then.
    pub(super) fn run(mut self) {
        for client in 0..CLIENTS {
            let when = self.after_ms(0, 200);
            self.at(when, Event::Connect(client));
        }
        let faults = self.faults.clone();
        for _ in 0..4 {
            let when = self.after_ms(300, 3_500);
            if faults.churn {
                self.at(when, Event::Churn);
            }
            let when = self.after_ms(300, 4_500);
            if faults.deaths && self.below(2) == 0 {
                self.at(when, Event::Die);
            }
        }
        if faults.partitions {
            let when = self.after_ms(300, 2_000);
            self.at(when, Event::Part);
        }
        self.at(100 * MS, Event::Sweep);
        while let Some(((when, _), event)) = self.queue.pop_first() {
            if when > END {
                break;
            }
            self.now = when;
            self.step(event);
        }
        self.check();
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Tick(node) if self.nodes[node].is_up => {
                let time = self.time(node);
                let mut effects = Effects::new();
                self.nodes[node].roster.tick(time, &mut effects);
                self.perform(node, effects);
                self.at(self.now + 50 * MS, Event::Tick(node));
            }
            Event::Connect(client) if self.now < STORM => self.connect(client),
            Event::Disconnect(connection, client) => self.disconnect(connection, client),
            Event::Asked { from, to, question, is_answered } if self.nodes[to].is_up => {
                let time = self.time(to);
                let host = self.nodes[from].host;
                let reply = self.nodes[to].directory.step(time, host, &question);
                if is_answered {
                    let is_lost = !self.reach(from, to);
                    let when = if is_lost { self.now + 1_000 * MS } else { self.after_ms(0, 15) };
                    let reply = Some(reply).filter(|_| !is_lost);
                    self.at(when, Event::Replied { from, to, question, reply });
                }
            }
            // Its process is gone.
            Event::Asked { from, to, question, is_answered: true } => {
                self.at(self.now + MS, Event::Replied { from, to, question, reply: None });
            }
            Event::Replied { from, to, question, reply } if self.nodes[from].is_up => {
                let (time, server) = (self.time(from), self.nodes[to].host);
                let mut effects = Effects::new();
                let roster = &mut self.nodes[from].roster;
                roster.replied(time, server, &question, reply, &mut effects);
                self.perform(from, effects);
            }
            Event::Meet { from, to, call } if self.nodes[to].is_up => {
                let (time, host) = (self.time(to), self.nodes[from].host);
                let Some((_, _, meeting)) = self.calls.get(&call).cloned() else { return };
                self.nodes[to].asked.insert(call, (from, call));
                let mut effects = Effects::new();
                self.nodes[to].roster.asked(time, host, call, &meeting, &mut effects);
                self.perform(to, effects);
            }
            Event::Met { call, verdict } => {
                let Some((from, to, _)) = self.calls.get(&call) else { return };
                let (from, to) = (*from, *to);
                if verdict.is_some() && !self.reach(from, to) {
                    return;
                }
                let Some((_, _, meeting)) = self.calls.remove(&call) else { return };
                if self.nodes[from].is_up {
                    let (time, host) = (self.time(from), self.nodes[to].host);
                    let mut effects = Effects::new();
                    self.nodes[from].roster.met(time, host, &meeting, verdict, &mut effects);
                    self.perform(from, effects);
                }
            }
            Event::See { node, other } if self.nodes[node].is_up => {
                let is_seen = self.reach(node, other);
                let is_server = self.nodes[other].is_server;
                let sees = &mut self.nodes[node].sees;
                if is_seen {
                    sees.insert(other, is_server);
                } else {
                    sees.remove(&other);
                }
                self.refresh(node);
            }
            Event::Part => self.part(),
            Event::Heal => self.heal(),
            Event::Die => self.die(),
            Event::Churn => self.churn(),
            Event::Sweep => {
                for node in self.nodes.iter_mut().filter(|node| node.is_up) {
                    node.directory.sweep(64);
                }
                self.at(self.now + 50 * MS, Event::Sweep);
            }
            _ => {}
        }
    }

    fn connect(&mut self, client: u32) {
        let next = self.after_ms(5, 300);
        self.at(next, Event::Connect(client));
        let open: Vec<usize> = (0..self.nodes.len())
            .filter(|at| self.nodes[*at].is_up && self.nodes[*at].accepts)
            .collect();
        if open.is_empty() {
            return;
        }
        // Twice at once, now and then.
        for _ in 0..=u32::from(self.below(3) == 0) {
            let pick = self.below(open.len() as u64);
            let node = open[usize::try_from(pick).expect("it is small")];
            self.connections += 1;
            let slot = self.connections;
            let session = SessionRef { shard: ShardId(0), slot, generation: client };
            self.oracle.claimed(self.now, client, (node, slot));
            let (time, mut effects) = (self.time(node), Effects::new());
            let roster = &mut self.nodes[node].roster;
            roster.claim(time, &identity(client), session, &mut effects);
            self.perform(node, effects);
            if self.below(3) == 0 && self.now + 700 * MS < STORM {
                let when = self.after_ms(0, 600);
                self.at(when, Event::Disconnect((node, slot), client));
            }
        }
    }

    fn disconnect(&mut self, connection: Connection, client: u32) {
        let (node, slot) = connection;
        if !self.nodes[node].is_up || self.oracle.has_ended(connection) {
            return;
        }
        self.oracle.removed(self.now, connection);
        let session = SessionRef { shard: ShardId(0), slot, generation: client };
        let (time, mut effects) = (self.time(node), Effects::new());
        let roster = &mut self.nodes[node].roster;
        assert!(roster.remove(time, &identity(client), session, &mut effects));
        self.perform(node, effects);
    }

    fn up(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].is_up).collect()
    }

    fn pick_up(&mut self) -> usize {
        let up = self.up();
        let pick = self.below(up.len() as u64);
        up[usize::try_from(pick).expect("it is small")]
    }

    /// A server more, or less, or a node more.
    fn churn(&mut self) {
        let node = self.pick_up();
        match self.below(3) {
            0 if self.nodes.len() < 8 => {
                let is_server = self.below(2) == 0;
                let new = self.add_node(is_server);
                // It sees the others before it lets anybody in, and they see it some time later.
                for other in self.up() {
                    let how = self.nodes[other].is_server;
                    self.nodes[new].sees.insert(other, how);
                }
                self.nodes[new].accepts = true;
                self.refresh(new);
                self.announce(new, 2_000);
            }
            _ => {
                let is_server = !self.nodes[node].is_server;
                let servers = self.nodes.iter().filter(|node| node.is_up && node.is_server).count();
                if is_server || servers > 1 {
                    self.nodes[node].is_server = is_server;
                    self.announce(node, 2_000);
                }
            }
        }
    }

    fn die(&mut self) {
        if self.up().len() < 2 {
            return;
        }
        let node = self.pick_up();
        self.nodes[node].is_up = false;
        self.oracle.died(self.now, node);
        self.announce(node, 4_000);
        if self.below(2) == 0 {
            let is_server = self.nodes[node].is_server;
            let again = self.add_node(is_server);
            for other in self.up() {
                let how = self.nodes[other].is_server;
                self.nodes[again].sees.insert(other, how);
            }
            self.nodes[again].accepts = true;
            self.sides[again] = self.sides[node];
            self.refresh(again);
            self.announce(again, 2_000);
        }
    }

    fn part(&mut self) {
        for node in 0..self.nodes.len() {
            self.sides[node] = u8::from(self.below(2) == 0);
        }
        for node in 0..self.nodes.len() {
            for other in 0..self.nodes.len() {
                if self.sides[node] != self.sides[other] && self.below(4) > 0 {
                    let when = self.after_ms(500, 3_000);
                    self.at(when, Event::See { node, other });
                }
            }
        }
        let when = self.after_ms(1_000, 3_000).min(STORM - 500 * MS);
        self.at(when, Event::Heal);
    }

    fn heal(&mut self) {
        self.sides.fill(0);
        for other in self.up() {
            for node in self.up() {
                let when = self.after_ms(0, 1_000);
                self.at(when, Event::See { node, other });
            }
        }
    }

    /// All has been well for long enough.
    fn check(&self) {
        assert!(self.oracle.granted > 5, "{} were granted", self.oracle.granted);
        let waiting = self.oracle.waiting();
        assert!(waiting.is_empty(), "{waiting:?} wait for ever");
        let up = self.up();
        let view = self.nodes[up[0]].roster.view();
        for node in &up {
            assert_eq!(self.nodes[*node].roster.view(), view, "node {node} sees other servers");
            assert!(self.nodes[*node].roster.is_synced(), "node {node} has told all");
        }
        let mut owned = 0;
        for (client, owners) in self.oracle.owners() {
            assert!(owners.len() <= 1, "{owners:?} have {client}");
            let server = view.server(&identity(client)).and_then(|server| self.index(server));
            let Some(server) = server else { continue };
            let directory = &self.nodes[server].directory;
            let found = directory.find(&identity(client));
            let found =
                found.map(|found| (self.index(found.host).expect("known"), found.session.slot));
            assert_eq!(found.as_ref(), owners.first(), "{client} is not found as it is");
            owned += owners.len();
        }
        let directories = up.iter().map(|node| &self.nodes[*node].directory);
        let tenant = TenantId::new("t");
        let listed = directories.map(|directory| directory.list(&tenant, None, 99).0.len());
        if !view.servers().is_empty() {
            assert_eq!(listed.sum::<usize>(), owned, "every session is listed once");
            let servers = self.nodes.iter().filter(|node| node.is_up && node.is_server);
            let kept: usize = servers.map(|node| node.directory.len()).sum();
            assert_eq!(kept, owned, "nothing is left of others");
        }
    }
}

//! Random histories of several nodes: what each shows is what the log has as far as it has applied it, but for
//! what it has asked for itself; and in the end all show the same.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use ratatosk_client::{Done, Fate};
use ratatosk_contract::Call;
use ratatosk_contract::retain::StoreOutcome;

use crate::durable_fixture::message;
use crate::effect::{Command, Effect};
use crate::replicated_fixture::{World, after, at, text};
use crate::schema::message::{Record, TopicHash, key};
use crate::schema::stamp::Stamp;

const NODES: usize = 3;
const TENANTS: [&str; 2] = ["a", "ab"];
const TOPICS: [&str; 4] = ["a", "a/b", "/", "ab"];
/// Longer than an expired message is left alone.
const LONG_MS: u64 = 60_000;

#[derive(Copy, Clone, Debug)]
enum Step {
    Set {
        node: usize,
        place: usize,
        until_ms: Option<u64>,
    },
    Clear {
        node: usize,
        place: usize,
    },
    /// What a node submitted first is in the log.
    Commit {
        node: usize,
    },
    /// Nobody knows what became of it.
    Lose {
        node: usize,
        is_in_log: bool,
    },
    /// A node hears of its first command in the log that it has not heard of.
    Tell {
        node: usize,
    },
    Apply {
        node: usize,
        count: usize,
    },
    /// A node gets the data as they are, without the log.
    Jump {
        node: usize,
    },
    /// Time passes, and a node looks for what has expired.
    Collect {
        node: usize,
        after_ms: u64,
    },
    /// A node is ordered to end all that a tenant has.
    End {
        node: usize,
        tenant: usize,
    },
    /// It goes on with its orders.
    GoOn {
        node: usize,
    },
    Lead {
        node: usize,
    },
    Split {
        node: usize,
        place: usize,
    },
    Merge {
        node: usize,
        range: usize,
    },
    Leave {
        node: usize,
        range: usize,
    },
    Come {
        node: usize,
        range: usize,
    },
    Restart {
        node: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    let place = || 0..TENANTS.len() * TOPICS.len();
    let range = || 0..6_usize;
    prop_oneof![
        8 => (node(), place(), prop::option::weighted(0.4, 0..2_000_u64))
            .prop_map(|(node, place, until_ms)| Step::Set { node, place, until_ms }),
        3 => (node(), place()).prop_map(|(node, place)| Step::Clear { node, place }),
        8 => node().prop_map(|node| Step::Commit { node }),
        2 => (node(), any::<bool>()).prop_map(|(node, is_in_log)| Step::Lose { node, is_in_log }),
        6 => node().prop_map(|node| Step::Tell { node }),
        8 => (node(), 1..4_usize).prop_map(|(node, count)| Step::Apply { node, count }),
        1 => node().prop_map(|node| Step::Jump { node }),
        3 => (node(), 0..9_000_u64).prop_map(|(node, after_ms)| Step::Collect { node, after_ms }),
        1 => (node(), 0..TENANTS.len()).prop_map(|(node, tenant)| Step::End { node, tenant }),
        2 => node().prop_map(|node| Step::GoOn { node }),
        1 => node().prop_map(|node| Step::Lead { node }),
        1 => (node(), place()).prop_map(|(node, place)| Step::Split { node, place }),
        1 => (node(), range()).prop_map(|(node, range)| Step::Merge { node, range }),
        1 => (node(), range()).prop_map(|(node, range)| Step::Leave { node, range }),
        2 => (node(), range()).prop_map(|(node, range)| Step::Come { node, range }),
        1 => node().prop_map(|node| Step::Restart { node }),
    ]
}

/// A message: its payload, and until when it is there.
type Shown = (String, Option<u64>);

/// A change that a node asked for and that it shows.
#[derive(Debug)]
struct Own {
    place: usize,
    stamp: Stamp,
    change: Option<Shown>,
    is_told: bool,
}

/// The naive side of a node.
#[derive(Default)]
struct Naive {
    own: Vec<Own>,
    /// In the log, with where, and who is told.
    committed: Vec<(usize, Option<Stamp>, Done)>,
}

struct History {
    world: World,
    naive: Vec<Naive>,
    now_ms: u64,
    number: u64,
    /// So much of the log was told to somebody.
    acked: usize,
    /// What was there when an order came to end it.
    ordered: BTreeSet<String>,
}

fn tenant(place: usize) -> &'static str {
    TENANTS[place / TOPICS.len()]
}

fn topic(place: usize) -> &'static str {
    TOPICS[place % TOPICS.len()]
}

fn key_of(place: usize) -> Vec<u8> {
    key(tenant(place), TopicHash::of(topic(place)))
}

fn shown(record: &Record<'_>) -> Shown {
    (text(record.payload), record.deadline.map(after))
}

/// The stamp of a change, if the command is one.
fn stamp_of(command: &Bytes) -> Option<Stamp> {
    let command = Command::decode(command).expect("it was written");
    match &command.effects[0] {
        Effect::Put { record, .. } => record.stamp,
        Effect::Cleared { stamp, .. } => Some(*stamp),
        Effect::Removed(_) | Effect::Ended { .. } => None,
    }
}

impl Naive {
    /// Whatever this node changed of a topic up to a change is over.
    fn forget_to(&mut self, stamp: Stamp) {
        let Some(last) = self.own.iter().position(|own| own.stamp == stamp) else { return };
        let place = self.own[last].place;
        let mut index = 0;
        self.own.retain(|own| {
            index += 1;
            own.place != place || index > last + 1
        });
    }
}

impl History {
    fn new() -> Self {
        let naive = (0..NODES).map(|_| Naive::default()).collect();
        let (world, ordered) = (World::new(NODES as u64), BTreeSet::new());
        let history = Self { world, naive, now_ms: 0, number: 0, acked: 0, ordered };
        history.sync();
        history
    }

    /// Whether a node's replicas have all that was told to anybody.
    fn may(&self, node: usize) -> bool {
        let node = &self.world.nodes[node];
        node.at >= self.acked && node.ranges.iter().all(|range| range.here.is_some())
    }

    /// What the data of a node say of a topic.
    fn applied(&self, node: usize, place: usize) -> Option<Shown> {
        let (node, key) = (&self.world.nodes[node], key_of(place));
        let value = self.world.states[node.at].get(&key).filter(|_| node.covers(&key))?;
        Some(shown(&Record::decode(value).expect("a record")))
    }

    /// What a node is to show of a topic, expired or not.
    fn expected(&self, node: usize, place: usize) -> Option<Shown> {
        let own = self.naive[node].own.iter().rev().find(|own| own.place == place);
        own.map_or_else(|| self.applied(node, place), |own| own.change.clone())
    }

    fn store(&mut self, node: usize, place: usize, change: Option<Shown>) {
        let (payload, until) = change.clone().unwrap_or_default();
        let message = message(topic(place), &payload, until.map(at));
        let retained = self.world.nodes[node].tenant(tenant(place));
        let is_known = self.expected(node, place).is_none()
            && self.may(node)
            && self.naive[node].own.iter().all(|own| own.place != place);
        let waiting = || self.world.nodes[node].way.waiting.lock().back().map(|it| it.0.clone());
        match retained.store(&message, None) {
            Call::Ready(StoreOutcome::Cleared) => assert!(is_known && change.is_none()),
            Call::Pending => {
                assert!(change.is_some() || !is_known, "what is known to be clear is not written");
                let stamp = stamp_of(&waiting().expect("it was submitted")).expect("a change");
                self.naive[node].own.push(Own { place, stamp, change, is_told: false });
            }
            other => panic!("there is room: {other:?}"),
        }
    }

    /// What a node submitted first is in the log. Nothing ends that is not over.
    fn commit(&mut self, node: usize) -> Option<(Bytes, Done)> {
        let before = self.world.states.last().expect("the first").clone();
        let (command, done) = self.world.commit(node)?;
        let read = Command::decode(&command).expect("it was written");
        for effect in &read.effects {
            if let Effect::Ended { topic, stamp } = effect
                && let Some(value) = before.get(&key(read.tenant, *topic))
            {
                let held = Record::decode(value).expect("a record");
                let (payload, until) = shown(&held);
                let is_over = until.is_some_and(|until| until <= self.now_ms);
                let is_meant = is_over || self.ordered.contains(&payload);
                assert!(held.stamp != *stamp || is_meant, "{payload} was not to end");
            }
        }
        Some((command, done))
    }

    fn apply(&mut self, node: usize) {
        let at = self.world.nodes[node].at;
        if !self.world.apply(node) {
            return;
        }
        let command = Command::decode(&self.world.log[at]).expect("it was written");
        let effect = &command.effects[0];
        let is_here = self.world.nodes[node].covers(&key(command.tenant, effect.topic()));
        if let Some(stamp) = stamp_of(&self.world.log[at]).filter(|_| is_here) {
            self.naive[node].forget_to(stamp);
        }
    }

    /// A node got data of some keys: its changes that are there are over.
    fn loaded(&mut self, node: usize, was_here: impl Fn(&[u8]) -> bool) {
        for place in 0..TENANTS.len() * TOPICS.len() {
            let (held, key) = (&self.world.nodes[node], key_of(place));
            let value = self.world.states[held.at].get(&key);
            let value = value.filter(|_| held.covers(&key) && !was_here(&key));
            let stamp = value.and_then(|value| Record::decode(value).expect("a record").stamp);
            if let Some(stamp) = stamp {
                self.naive[node].forget_to(stamp);
            }
        }
    }

    /// A node looks: if it may answer, what it was told is in what it has.
    fn look(&mut self, node: usize) {
        if self.may(node) {
            let told = self.naive[node].own.iter().filter(|own| own.is_told);
            let told: Vec<_> = told.map(|own| own.stamp).collect();
            told.into_iter().for_each(|stamp| self.naive[node].forget_to(stamp));
        }
    }

    fn tell(&mut self, node: usize) {
        if self.naive[node].committed.is_empty() {
            return;
        }
        let (index, stamp, done) = self.naive[node].committed.remove(0);
        // Whoever may answer has it before anybody is told.
        self.acked = self.acked.max(index + 1);
        self.sync();
        done(Fate::Applied(Bytes::from_static(&[0])));
        let own = &mut self.naive[node].own;
        own.iter_mut().filter(|own| Some(own.stamp) == stamp).for_each(|own| own.is_told = true);
    }

    fn sync(&self) {
        (0..NODES).for_each(|node| self.world.nodes[node].hands.set(self.may(node)));
    }

    fn check(&mut self) {
        self.sync();
        for node in 0..NODES {
            self.world.nodes[node].service.check_invariants();
            self.check_shown(node);
            let messages = TENANTS.map(|tenant| {
                self.world.nodes[node].messages(tenant, at(self.now_ms)).map(|held| held.len())
            });
            let is_current = messages.iter().all(Option::is_some);
            assert_eq!(is_current, self.may(node), "node {node}");
            if is_current {
                self.look(node);
                self.check_shown(node);
            }
            let data = self.world.nodes[node].data();
            let state = self.world.states[self.world.nodes[node].at].iter();
            let state = state.filter(|(key, _)| self.world.nodes[node].covers(key));
            assert!(data.iter().eq(state), "the data of node {node}");
        }
    }

    fn check_shown(&self, node: usize) {
        let mut topics = 0;
        for (number, name) in TENANTS.iter().enumerate() {
            let places = number * TOPICS.len()..(number + 1) * TOPICS.len();
            let all: Vec<_> =
                places.filter_map(|place| Some((place, self.expected(node, place)?))).collect();
            topics += all.len();
            let live = all.iter().filter(|(_, (_, until))| until.is_none_or(|it| it > self.now_ms));
            let live: BTreeSet<_> =
                live.map(|(place, (text, _))| (topic(*place).to_owned(), text.clone())).collect();
            let shown = self.world.nodes[node].shown(name, at(self.now_ms));
            assert_eq!(shown.into_iter().collect::<BTreeSet<_>>(), live, "{name} at node {node}");
        }
        assert_eq!(self.world.nodes[node].service.stats().topics, topics, "node {node}");
    }

    fn end_all(&mut self, node: usize, number: usize) {
        let name = TENANTS[number];
        let places = || number * TOPICS.len()..(number + 1) * TOPICS.len();
        let own = self.naive[node].own.iter().filter(|own| places().contains(&own.place));
        let own = own.filter_map(|own| own.change.clone());
        let applied = places().filter_map(|place| self.applied(node, place));
        let all: Vec<_> = own.chain(applied).map(|(payload, _)| payload).collect();
        self.ordered.extend(all);
        let _ = self.world.nodes[node].tenant(name).expire_all();
    }

    fn take(&mut self, step: Step) {
        self.number += 1;
        match step {
            Step::Set { node, place, until_ms } => {
                let until = until_ms.map(|until_ms| self.now_ms + until_ms);
                self.store(node, place, Some((self.number.to_string(), until)));
            }
            Step::Clear { node, place } => self.store(node, place, None),
            Step::Commit { node } => {
                if let Some((command, done)) = self.commit(node) {
                    let index = self.world.log.len() - 1;
                    self.naive[node].committed.push((index, stamp_of(&command), done));
                }
            }
            Step::Lose { node, is_in_log } => self.lose(node, is_in_log),
            Step::Tell { node } => self.tell(node),
            Step::Apply { node, count } => (0..count).for_each(|_| self.apply(node)),
            Step::Jump { node } => {
                self.world.jump(node);
                self.loaded(node, |_| false);
            }
            Step::Collect { node, after_ms } => {
                self.now_ms += after_ms;
                self.world.nodes[node].service.collect(at(self.now_ms), 100);
                self.look(node);
            }
            Step::End { node, tenant } => self.end_all(node, tenant),
            Step::GoOn { node } => drop(self.world.nodes[node].service.expire_ordered(3)),
            Step::Lead { node } => self.world.lead(node),
            Step::Split { node, place } => self.world.nodes[node].split(&key_of(place)),
            Step::Merge { node, range } => {
                let range = range % self.world.nodes[node].ranges.len();
                self.world.nodes[node].merge(range);
            }
            Step::Leave { node, range } => {
                let range = range % self.world.nodes[node].ranges.len();
                self.world.nodes[node].leave(range);
            }
            Step::Come { node, range } => {
                let range = range % self.world.nodes[node].ranges.len();
                let held = &self.world.nodes[node].ranges[range];
                let (keys, was_here) = (held.keys.clone(), held.here.is_some());
                self.world.come(node, range);
                self.loaded(node, |key| was_here || !keys.contains(key));
            }
            Step::Restart { node } => {
                self.naive[node] = Naive::default();
                self.world.restart(node);
            }
        }
    }

    fn lose(&mut self, node: usize, is_in_log: bool) {
        // What is told is told in order.
        if !self.naive[node].committed.is_empty() {
            return;
        }
        let lost = match is_in_log {
            true => self.commit(node),
            false => self.world.nodes[node].way.waiting.lock().pop_front(),
        };
        let Some((command, done)) = lost else { return };
        self.sync();
        done(Fate::Unknown);
        let stamp = stamp_of(&command);
        self.naive[node].own.retain(|own| Some(own.stamp) != stamp);
    }

    /// All comes to an end, and what has expired goes.
    fn settle(&mut self) {
        for node in 0..NODES {
            while !self.naive[node].committed.is_empty() {
                self.tell(node);
            }
            let ranges = self.world.nodes[node].ranges.len();
            (0..ranges).for_each(|range| self.world.come(node, range));
        }
        for _ in 0..2 {
            self.now_ms += LONG_MS;
            for node in 0..NODES {
                self.world.nodes[node].service.collect(at(self.now_ms), 100);
            }
            self.world.settle();
        }
        self.acked = self.world.log.len();
        self.naive.iter_mut().for_each(|naive| naive.own.clear());
        self.check();
        let data = self.world.nodes[0].data();
        for node in &self.world.nodes {
            assert_eq!(node.data(), data);
            assert!(
                TENANTS
                    .iter()
                    .all(|name| node.shown(name, at(0)) == node.shown(name, at(self.now_ms)))
            );
            assert_eq!(node.service.stats().topics, data.len(), "nothing is left of what expired");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// RET-001, RET-004, RET-006: against a naive reader of the log, with messages that are stored, cleared,
    /// lost, expired and ordered to end at several nodes, and ranges that part, join, go and come.
    #[test]
    fn each_node_shows_the_log_and_what_it_asked_for(steps in prop::collection::vec(step(), 0..80)) {
        let mut history = History::new();
        for step in steps {
            history.take(step);
            history.check();
        }
        history.settle();
    }
}

//! Several nodes over the same ranges, in one thread: who leads, what is carried out, and who hears of it
//! when, is for the test to say.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_client::{Answer, Outcome, Read, Realm, ReignHook, Reigns};
use ratatosk_clock::{Clock, Instant};
use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::dist::{InboxRoute, RESTORED_LIFE};
use ratatosk_contract::inbox::{Claim, InboxId};
use ratatosk_engine::{Batch, Error, KeyRange, MemoryEngine, Overlay, SpaceId};
use ratatosk_store::command::{Order, parse};
use ratatosk_store::coprocessor::{Coprocessor as _, Position, Reign, SpaceReader, Writer};
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::range::Descriptor;
use ratatosk_telemetry::{ByteCount, memory::Accountant};

use crate::InboxCoprocessor;
use crate::durable_fixture::epoch;
use crate::fake::{Bench, bench_of, identity};
use crate::partitions::partition_of;
use crate::schema::partition_keys;
use crate::seating::Step;

const SPACE: SpaceId = SpaceId(0);
pub(crate) const GROUP: GroupId = GroupId(1);
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// See the file's head.
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    state: Arc<Mutex<State>>,
    groups: u64,
}

/// A node with a service of its own.
pub(crate) struct Node {
    pub(crate) bench: Bench,
    hooks: BTreeMap<GroupId, ReignHook>,
    /// What it does not hear yet: that a reign is over, and what became of entries.
    late: Vec<GroupId>,
    late_answers: Vec<(Answer, Outcome)>,
}

struct State {
    overlay: Overlay<MemoryEngine>,
    ranges: BTreeMap<GroupId, Range>,
    /// For ranges that are no more.
    astray: VecDeque<Answer>,
}

struct Range {
    descriptor: Descriptor,
    applier: InboxCoprocessor,
    leader: Option<usize>,
    term: u64,
    index: u64,
    log: VecDeque<Proposal>,
}

struct Proposal {
    node: usize,
    term: u64,
    data: Vec<u8>,
    answer: Answer,
}

struct FakeRealm {
    state: Arc<Mutex<State>>,
    node: usize,
}

struct Still;

impl Clock for Still {
    fn now(&self) -> Instant {
        Instant::ZERO
    }
}

impl Realm for FakeRealm {
    fn propose_in(&self, term: u64, group: GroupId, data: Vec<u8>, answer: Answer) {
        let mut state = self.state.lock();
        let proposal = Proposal { node: self.node, term, data, answer };
        match state.ranges.get_mut(&group) {
            Some(range) => range.log.push_back(proposal),
            None => state.astray.push_back(proposal.answer),
        }
    }

    fn read_whole(
        &self,
        group: GroupId,
        keys: &KeyRange,
        read: &mut Read<'_>,
    ) -> Result<bool, Error> {
        let state = self.state.lock();
        let Some(range) = state.ranges.get(&group) else { return Ok(false) };
        if range.descriptor.boundary.intersection(keys) != *keys {
            return Ok(false);
        }
        let view = state.overlay.view();
        read(&SpaceReader::new(&view, SPACE, keys)).map(|()| true)
    }

    fn is_short(&self) -> bool {
        false
    }
}

impl Range {
    fn new(descriptor: Descriptor, overlay: &Overlay<MemoryEngine>, leader: Option<usize>) -> Self {
        let mut range = Range {
            descriptor,
            applier: InboxCoprocessor::new(),
            leader,
            term: 1,
            index: 0,
            log: VecDeque::new(),
        };
        range.reset(overlay);
        range
    }

    fn reset(&mut self, overlay: &Overlay<MemoryEngine>) {
        let (view, boundary) = (overlay.view(), &self.descriptor.boundary);
        let reader = SpaceReader::new(&view, SPACE, boundary);
        self.applier.reset(boundary, &reader).expect("it reads what it wrote");
    }

    fn reign(&self) -> Reign {
        Reign { term: self.term, range: self.descriptor.clone() }
    }

    fn carry_out(&mut self, overlay: &Overlay<MemoryEngine>, data: Vec<u8>) -> Outcome {
        let (version, order) = parse(&data.into()).expect("an entry");
        if version != self.descriptor.version {
            return Outcome::Refused(Refusal::Version(Box::new(self.descriptor.clone())));
        }
        let Order::Commands { commands, .. } = order else { panic!("{order:?}") };
        self.index += 1;
        let mut changes = Batch::new();
        let mut answers = Vec::new();
        for (number, command) in (0..).zip(&commands) {
            let position = Position { index: self.index, number };
            let boundary = &self.descriptor.boundary;
            let mut writer = Writer::new(overlay, SPACE, boundary, &mut changes);
            let answer = self.applier.apply(position, command, &mut writer);
            let answer = answer.expect("the engine in memory does not fail");
            assert!(answer.is_empty(), "it reads what the service writes");
            answers.push(answer);
        }
        overlay.apply(changes);
        Outcome::Applied(answers)
    }
}

impl World {
    /// So many nodes, and one range that the first one leads. Nothing is read yet.
    pub(crate) fn new(count: usize) -> Self {
        let overlay = Overlay::new(MemoryEngine::new(1), 1);
        let whole = Descriptor::whole(GROUP, "inbox.session".to_owned(), 1);
        let range = Range::new(whole, &overlay, None);
        let (ranges, astray) = (BTreeMap::from([(GROUP, range)]), VecDeque::new());
        let state = Arc::new(Mutex::new(State { overlay, ranges, astray }));
        let mut world = World { nodes: Vec::new(), state, groups: GROUP.0 };
        for node in 0..count {
            let memory = Accountant::new(ByteCount::mebibytes(1));
            let bench = bench_of(|inbox| inbox.charged_to(&memory).reigning(epoch(), GRACE));
            let reigns = Reigns::new(Still);
            let realm = FakeRealm { state: Arc::clone(&world.state), node };
            bench.inbox.follow(&reigns, Arc::new(realm));
            let hooks = (1..64).map(|group| (GroupId(group), reigns.hook())).collect();
            let (late, late_answers) = (Vec::new(), Vec::new());
            world.nodes.push(Node { bench, hooks, late, late_answers });
        }
        world.lead(GROUP, 0, 0);
        world
    }

    /// The same, all of it served.
    pub(crate) fn served(count: usize) -> Self {
        let mut world = Self::new(count);
        world.settle(Instant::ZERO);
        world
    }

    pub(crate) fn groups(&self) -> Vec<GroupId> {
        self.state.lock().ranges.keys().copied().collect()
    }

    /// Who leads the range of a partition.
    pub(crate) fn leader_of(&self, partition: usize) -> (GroupId, usize) {
        let state = self.state.lock();
        let key = partition_keys(partition).start;
        let (group, range) = state
            .ranges
            .iter()
            .find(|(_, range)| range.descriptor.boundary.contains(&key))
            .expect("each key is in a range");
        (*group, range.leader.expect("somebody leads"))
    }

    /// Another node leads, and knows of the first `kept` entries that were on their way; of the others
    /// none is ever carried out. The node that led hears of it at once.
    pub(crate) fn lead(&mut self, group: GroupId, to: usize, kept: usize) {
        self.lead_silently(group, to, kept);
        (0..self.nodes.len()).for_each(|node| self.wake(node));
    }

    /// The same, where the node that led does not hear of it before it [wakes](Self::wake).
    pub(crate) fn lead_silently(&mut self, group: GroupId, to: usize, kept: usize) {
        self.wake(to);
        let mut state = self.state.lock();
        let State { overlay, ranges, .. } = &mut *state;
        let range = ranges.get_mut(&group).expect("a range");
        let (from, term) = (range.leader, range.term);
        let (mut outcomes, mut left) = (Vec::new(), kept);
        for Proposal { node, term: its, data, answer } in std::mem::take(&mut range.log) {
            let is_kept = its == term && Some(node) == from && left > 0;
            left -= usize::from(is_kept);
            let outcome = match is_kept {
                true => range.carry_out(overlay, data),
                false if its == term => Outcome::Refused(Refusal::Lost),
                false => Outcome::Refused(Refusal::NotLeader),
            };
            outcomes.push((node, answer, outcome));
        }
        range.leader = Some(to);
        range.term += 2;
        let reign = range.reign();
        drop(state);
        for (node, answer, outcome) in outcomes {
            self.nodes[node].late_answers.push((answer, outcome));
        }
        if let Some(from) = from {
            self.nodes[from].late.push(group);
        }
        if from == Some(to) {
            self.wake(to);
        }
        self.nodes[to].hook(group).lead(Some(&reign));
    }

    /// A node hears what it has not heard.
    pub(crate) fn wake(&mut self, node: usize) {
        let late = std::mem::take(&mut self.nodes[node].late);
        late.into_iter().for_each(|group| self.nodes[node].hook(group).lead(None));
        for (answer, outcome) in std::mem::take(&mut self.nodes[node].late_answers) {
            answer(outcome);
        }
    }

    /// The first entries of a range that are on their way are carried out, or refused.
    pub(crate) fn carry_out(&self, group: GroupId, count: usize) {
        for _ in 0..count {
            let mut state = self.state.lock();
            let State { overlay, ranges, .. } = &mut *state;
            let Some(range) = ranges.get_mut(&group) else { return };
            let Some(Proposal { node, term, data, answer }) = range.log.pop_front() else { return };
            let outcome = match (range.leader, range.term) == (Some(node), term) {
                true => range.carry_out(overlay, data),
                false => Outcome::Refused(Refusal::NotLeader),
            };
            drop(state);
            answer(outcome);
        }
    }

    /// Parts a range before a partition; both parts have the same leader. Answers the new group.
    pub(crate) fn split(&mut self, group: GroupId, partition: usize) -> GroupId {
        self.groups += 1;
        let right = GroupId(self.groups);
        let key = partition_keys(partition).start;
        let (leader, left_reign, right_reign) = {
            let mut state = self.state.lock();
            let State { overlay, ranges, .. } = &mut *state;
            let range = ranges.get_mut(&group).expect("a range");
            let parting = range.applier.parting(&range.descriptor.boundary, &key);
            assert_eq!(parting, Some(key.clone()), "it may be parted there");
            let leader = range.leader.expect("somebody leads");
            let mut other = Descriptor { group: right, ..range.descriptor.clone() };
            other.boundary.start = key.clone();
            other.version.boundary += 1;
            range.descriptor.boundary.end = Some(key);
            range.descriptor.version.boundary += 1;
            range.reset(overlay);
            let (reign, other) = (range.reign(), Range::new(other, overlay, Some(leader)));
            let right_reign = other.reign();
            ranges.insert(right, other);
            (leader, reign, right_reign)
        };
        self.wake(leader);
        self.nodes[leader].hook(group).lead(None);
        self.nodes[leader].hook(group).lead(Some(&left_reign));
        self.nodes[leader].hook(right).lead(Some(&right_reign));
        right
    }

    /// A range takes in its right neighbour, which the same node leads.
    pub(crate) fn merge(&mut self, left: GroupId, right: GroupId) {
        let mut state = self.state.lock();
        let State { overlay, ranges, astray } = &mut *state;
        let other = ranges.remove(&right).expect("a range");
        let range = ranges.get_mut(&left).expect("a range");
        assert_eq!(
            (range.leader, &range.descriptor.boundary.end),
            (other.leader, &Some(other.descriptor.boundary.start.clone()))
        );
        let leader = range.leader.expect("somebody leads");
        astray.extend(other.log.into_iter().map(|proposal| proposal.answer));
        range.descriptor.boundary.end = other.descriptor.boundary.end;
        range.descriptor.version.boundary += other.descriptor.version.boundary + 1;
        range.reset(overlay);
        let reign = range.reign();
        drop(state);
        self.wake(leader);
        self.nodes[leader].hook(right).lead(None);
        self.nodes[leader].hook(left).lead(None);
        self.nodes[leader].hook(left).lead(Some(&reign));
    }

    /// Everybody hears everything, what is on its way is carried out, and what can be served is.
    pub(crate) fn settle(&mut self, now: Instant) {
        loop {
            (0..self.nodes.len()).for_each(|node| self.wake(node));
            let astray = std::mem::take(&mut self.state.lock().astray);
            astray.into_iter().for_each(|answer| answer(Outcome::Refused(Refusal::NotLeader)));
            let mut is_idle = true;
            for group in self.groups() {
                is_idle &= self.state.lock().ranges[&group].log.is_empty();
                self.carry_out(group, usize::MAX);
            }
            for node in &self.nodes {
                while node.bench.inbox.seat_next(now).expect("it reads what was written")
                    != Step::Idle
                {
                    is_idle = false;
                }
                node.bench.inbox.check_invariants();
            }
            if is_idle {
                return;
            }
        }
    }

    /// Every key that there is, of an inbox.
    pub(crate) fn keys_of(&self, inbox: InboxId) -> Vec<crate::schema::Place> {
        let state = self.state.lock();
        let (view, mut found) = (state.overlay.view(), Vec::new());
        let all = KeyRange::all();
        ratatosk_store::coprocessor::scan_all(
            &SpaceReader::new(&view, SPACE, &all),
            &all,
            |key, _| {
                let key = crate::schema::Key::parse(key).expect("a key");
                found.extend((key.inbox == inbox).then_some(key.place));
                Ok(())
            },
        )
        .expect("the engine in memory does not fail");
        found
    }
}

impl Node {
    fn hook(&mut self, group: GroupId) -> &mut ReignHook {
        self.hooks.get_mut(&group).expect("few groups")
    }
}

/// A route to a session, as whoever read it back has it.
pub(crate) fn route_to(claim: Claim) -> InboxRoute {
    InboxRoute {
        inbox: claim.inbox,
        incarnation: RESTORED_LIFE,
        options: SubscriptionOptions::new(Qos::ExactlyOnce),
        subscription_id: None,
    }
}

/// Clients in two partitions: the first is in the lower one, and what parts them is the second's.
pub(crate) fn apart() -> (&'static str, &'static str, usize) {
    let place = |client: &&str| partition_of(&identity(client));
    let mut clients = ["a", "b", "c", "d", "e", "f"];
    clients.sort_by_key(place);
    let (low, high) = (clients[0], clients[5]);
    assert!(place(&low) < place(&high));
    (low, high, place(&high))
}

/// A payload that says which message it is.
pub(crate) fn text(payload: &Bytes) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

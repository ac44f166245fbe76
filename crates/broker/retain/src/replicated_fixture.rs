//! Several nodes with one log in the hands of the test: what is submitted is in it when the test says so, each
//! node applies it when the test says so, and ranges come, go, part and join.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_client::{Busy, Done, Fate, Keyspace, Loan, Read, Replica, Replicas};
use ratatosk_clock::{Epoch, Instant, Timestamp};
use ratatosk_contract::retain::{Cursor, Page, Retain, RetainLimits, TenantRetained};
use ratatosk_contract::{StoredMessage, TenantId};
use ratatosk_engine::{Batch, Error, KeyRange, MemoryEngine, Overlay, SpaceId};
use ratatosk_store::coprocessor::{Coprocessor, Position, Reign, SpaceReader, Writer, scan_all};
use ratatosk_store::log::GroupId;
use ratatosk_store::range::Descriptor;
use ratatosk_telemetry::memory::Accountant;
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::durable_fixture::Told;
use crate::effect::{Command, Effect};
use crate::schema::message::{Record, key};
use crate::{RetainCoprocessor, RetainService};

const SPACE: SpaceId = SpaceId(0);
/// When all processes begin, by the wall clock.
const BEGINNING_MS: u64 = 1_000_000_000;

/// What the data are after some of the log.
pub(crate) type Data = BTreeMap<Vec<u8>, Bytes>;

/// What a node submitted that is not in the log.
#[derive(Default)]
pub(crate) struct Way {
    pub(crate) waiting: Mutex<VecDeque<(Bytes, Done)>>,
    pub(crate) is_busy: Mutex<bool>,
}

impl Keyspace for Way {
    fn check(&self) -> Result<(), Busy> {
        if *self.is_busy.lock() { Err(Busy) } else { Ok(()) }
    }

    fn submit(&self, _key: &[u8], command: Bytes, done: Done) {
        self.waiting.lock().push_back((command, done));
    }

    fn read(&self, _read: &mut Read<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// A node's replicas.
#[derive(Clone, Default)]
pub(crate) struct Hands(Arc<Mutex<InHands>>);

#[derive(Default)]
struct InHands {
    keys: Vec<KeyRange>,
    may: bool,
    /// How often the ranges have changed.
    turn: u64,
    waiting: Vec<Box<dyn FnOnce() + Send>>,
}

struct Lent {
    hands: Hands,
    turn: u64,
}

impl Replicas for Hands {
    fn look(&self) -> Vec<Replica> {
        let hands = self.0.lock();
        let keys = hands.keys.iter().cloned();
        let lent = || Box::new(Lent { hands: self.clone(), turn: hands.turn });
        keys.map(|keys| Replica { keys, loan: lent() }).collect()
    }
}

impl Loan for Lent {
    fn may_answer(&self) -> bool {
        let hands = self.hands.0.lock();
        hands.may && hands.turn == self.turn
    }

    fn wait(&self, told: Box<dyn FnOnce() + Send>) {
        self.hands.0.lock().waiting.push(told);
    }
}

impl Hands {
    /// Says whether the node may answer; who waits is told if it may.
    pub(crate) fn set(&self, may: bool) {
        let mut hands = self.0.lock();
        hands.may = may;
        let told = if may { std::mem::take(&mut hands.waiting) } else { Vec::new() };
        drop(hands);
        told.into_iter().for_each(|told| told());
    }

    fn change(&self, keys: Vec<KeyRange>) {
        let mut hands = self.0.lock();
        hands.turn += u64::from(hands.keys != keys);
        hands.keys = keys;
    }
}

/// A range; without a coprocessor if it is not here.
pub(crate) struct Range {
    pub(crate) keys: KeyRange,
    pub(crate) here: Option<RetainCoprocessor>,
}

/// A node.
pub(crate) struct Node {
    pub(crate) service: Arc<RetainService>,
    pub(crate) way: Arc<Way>,
    pub(crate) told: Arc<Told>,
    pub(crate) hands: Hands,
    pub(crate) memory: Accountant,
    pub(crate) ranges: Vec<Range>,
    /// How much of the log it has applied.
    pub(crate) at: usize,
    is_leader: bool,
    overlay: Overlay<MemoryEngine>,
}

/// The nodes and their log.
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) log: Vec<Bytes>,
    /// After each command; the first is before all of them.
    pub(crate) states: Vec<Data>,
    origins: u64,
}

impl World {
    /// All with one range that has all keys; the first one leads.
    pub(crate) fn new(count: u64) -> Self {
        let mut nodes: Vec<_> = (0..count).map(|number| Node::new(number + 1)).collect();
        nodes.iter_mut().for_each(Node::begin);
        let states = vec![Data::new()];
        let mut world = Self { nodes, log: Vec::new(), states, origins: count };
        world.lead(0);
        world
    }

    /// What a node submitted first is in the log; whoever waits for it is answered.
    pub(crate) fn commit(&mut self, node: usize) -> Option<(Bytes, Done)> {
        let (command, done) = self.nodes[node].way.waiting.lock().pop_front()?;
        let mut state = self.states.last().expect("the first").clone();
        change(&mut state, &command);
        self.states.push(state);
        self.log.push(command.clone());
        Some((command, done))
    }

    /// A node applies the next command, if there is one.
    pub(crate) fn apply(&mut self, node: usize) -> bool {
        let Node { ranges, overlay, at, .. } = &mut self.nodes[node];
        let Some(command) = self.log.get(*at) else { return false };
        for Range { keys, here } in ranges {
            let Some(coprocessor) = here else { continue };
            let mut changes = Batch::new();
            let mut writer = Writer::new(overlay, SPACE, keys, &mut changes);
            let position = Position { index: *at as u64 + 1, number: 0 };
            coprocessor.apply(position, command, &mut writer).expect("memory");
            overlay.apply(changes);
        }
        *at += 1;
        true
    }

    /// All is in the log, applied and told.
    pub(crate) fn settle(&mut self) {
        loop {
            let mut told = Vec::new();
            for node in 0..self.nodes.len() {
                while let Some((_, done)) = self.commit(node) {
                    told.push(done);
                }
            }
            for node in 0..self.nodes.len() {
                while self.apply(node) {}
                self.nodes[node].hands.set(true);
            }
            if told.is_empty() {
                return;
            }
            told.into_iter().for_each(|done| done(Fate::Applied(Bytes::from_static(&[0]))));
        }
    }

    /// A node leads all ranges that it has.
    pub(crate) fn lead(&mut self, leader: usize) {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            node.is_leader = number == leader;
            node.rule();
        }
    }

    /// A node starts again: what it had not submitted to the log is gone.
    pub(crate) fn restart(&mut self, node: usize) {
        self.origins += 1;
        let fresh = Node::new(self.origins);
        let Node { ranges, at, is_leader, overlay, .. } =
            std::mem::replace(&mut self.nodes[node], fresh);
        let node = &mut self.nodes[node];
        (node.at, node.is_leader, node.overlay) = (at, is_leader, overlay);
        node.ranges = ranges;
        node.begin();
    }

    /// A node has a range from now on, with what the data are where it is in the log.
    pub(crate) fn come(&mut self, node: usize, range: usize) {
        let state = self.states[self.nodes[node].at].clone();
        let node = &mut self.nodes[node];
        if node.ranges[range].here.is_none() {
            node.write(range, Some(&state));
            node.open(range);
            node.rule();
        }
    }

    /// A node takes over what all is in the log, without applying it.
    pub(crate) fn jump(&mut self, node: usize) {
        let held: Vec<_> =
            self.nodes[node].ranges.iter().map(|range| range.here.is_some()).collect();
        (0..held.len()).for_each(|range| self.nodes[node].leave(range));
        self.nodes[node].at = self.log.len();
        for range in (0..held.len()).filter(|range| held[*range]) {
            self.come(node, range);
        }
    }
}

impl Node {
    fn new(origin: u64) -> Self {
        let epoch = Epoch::new(Instant::ZERO, Timestamp::from_millis(BEGINNING_MS));
        let (memory, told) = (Accountant::default(), Arc::<Told>::default());
        let service = RetainService::replicated(RetainLimits::default(), epoch, origin << 40);
        Self {
            service: Arc::new(service.charged_to(&memory)),
            way: Arc::default(),
            told,
            hands: Hands::default(),
            memory,
            ranges: vec![Range { keys: KeyRange::all(), here: Some(RetainCoprocessor::new()) }],
            at: 0,
            is_leader: false,
            overlay: Overlay::new(MemoryEngine::new(1), 1),
        }
    }

    /// The store opens, and then there is a way to it.
    fn begin(&mut self) {
        for at in 0..self.ranges.len() {
            if self.ranges[at].here.is_some() {
                self.open(at);
            }
        }
        let (way, told) = (Arc::clone(&self.way), Arc::clone(&self.told));
        self.service.connect(way, told, Box::new(self.hands.clone()));
        self.rule();
    }

    pub(crate) fn tenant(&self, name: &str) -> Arc<dyn TenantRetained> {
        self.service.tenant(&TenantId::new(name))
    }

    /// The messages of a tenant; none at all if what is here may not be current.
    pub(crate) fn messages(&self, tenant: &str, now: Instant) -> Option<Vec<Arc<StoredMessage>>> {
        let filter = TopicFilter::parse("#", &TopicLimits::PROTOCOL).expect("a filter");
        let (mut page, mut cursor) =
            (Page { messages_max: 3, bytes_max: usize::MAX, ..Page::default() }, Cursor::Start);
        let mut found = Vec::new();
        while cursor != Cursor::End {
            if !self.tenant(tenant).scan_current(now, &filter, &mut cursor, &mut page) {
                assert!(page.messages.is_empty());
                return None;
            }
            found.append(&mut page.messages);
        }
        Some(found)
    }

    /// Topics and payloads of a tenant, whether they are current or not.
    pub(crate) fn shown(&self, tenant: &str, now: Instant) -> Vec<(String, String)> {
        let filter = TopicFilter::parse("#", &TopicLimits::PROTOCOL).expect("a filter");
        let mut page = Page { messages_max: usize::MAX, bytes_max: usize::MAX, ..Page::default() };
        let mut cursor = Cursor::Start;
        while cursor != Cursor::End {
            self.tenant(tenant).scan(now, &filter, &mut cursor, &mut page);
        }
        page.messages.iter().map(|held| (held.topic.to_string(), text(&held.payload))).collect()
    }

    fn open(&mut self, at: usize) {
        self.ranges[at].here = Some(RetainCoprocessor::feeding(&Arc::downgrade(&self.service)));
        self.reset(at);
    }

    fn reset(&mut self, at: usize) {
        let Range { keys, here } = &mut self.ranges[at];
        let view = self.overlay.view();
        let reader = SpaceReader::new(&view, SPACE, keys);
        here.as_mut().expect("it is here").reset(keys, &reader).expect("it was written");
        self.look();
    }

    /// The replicas are those of the ranges that are here.
    fn look(&self) {
        let here = self.ranges.iter().filter(|range| range.here.is_some());
        self.hands.change(here.map(|range| range.keys.clone()).collect());
    }

    fn rule(&mut self) {
        for Range { keys, here } in &mut self.ranges {
            let Some(here) = here else { continue };
            here.lead(None);
            if self.is_leader {
                let whole = Descriptor::whole(GroupId(1), String::new(), 1);
                let range = Descriptor { boundary: keys.clone(), ..whole };
                here.lead(Some(&Reign { term: 1, range }));
            }
        }
    }

    pub(crate) fn leave(&mut self, at: usize) {
        let Some(mut here) = self.ranges[at].here.take() else { return };
        // It is not served any more by the time that it leaves.
        self.look();
        here.leave();
        self.write(at, None);
    }

    pub(crate) fn split(&mut self, cut: &[u8]) {
        let at = self.ranges.iter().position(|range| range.keys.contains(cut)).expect("all keys");
        if self.ranges[at].keys.start == cut {
            return;
        }
        let cut = Bytes::copy_from_slice(cut);
        let end = self.ranges[at].keys.end.replace(cut.clone());
        self.ranges.insert(at + 1, Range { keys: KeyRange { start: cut, end }, here: None });
        if self.ranges[at].here.is_some() {
            self.open(at + 1);
            self.reset(at);
            self.rule();
        }
    }

    pub(crate) fn merge(&mut self, at: usize) {
        let is_here = |range: &Range| range.here.is_some();
        if self.ranges.get(at + 1).map(is_here) != Some(is_here(&self.ranges[at])) {
            return;
        }
        let Range { keys, here } = self.ranges.remove(at + 1);
        self.ranges[at].keys.end = keys.end;
        if let Some(mut right) = here {
            self.reset(at);
            right.leave();
            self.rule();
        }
    }

    /// The data of a range are these from now on, or none.
    fn write(&mut self, at: usize, state: Option<&Data>) {
        let keys = self.ranges[at].keys.clone();
        let mut changes = Batch::new();
        for key in self.data().into_keys().filter(|key| keys.contains(key)) {
            changes.remove(SPACE, key);
        }
        for (key, value) in state.into_iter().flatten().filter(|(key, _)| keys.contains(key)) {
            changes.put(SPACE, key.clone(), value.clone());
        }
        self.overlay.apply(changes);
    }

    /// All that is written here.
    pub(crate) fn data(&self) -> Data {
        let (view, all, mut data) = (self.overlay.view(), KeyRange::all(), Data::new());
        scan_all(&SpaceReader::new(&view, SPACE, &all), &all, |key, value| {
            data.insert(key.to_vec(), value.clone());
            Ok(())
        })
        .expect("memory");
        data
    }

    /// Whether a range here has a key.
    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        self.ranges.iter().any(|range| range.here.is_some() && range.keys.contains(key))
    }
}

/// A naive reading of a command.
fn change(data: &mut Data, command: &Bytes) {
    let Command { tenant, effects } = Command::decode(command).expect("it was written");
    for effect in &effects {
        let key = key(tenant, effect.topic());
        match effect {
            Effect::Put { value, .. } => drop(data.insert(key, command.slice_ref(value))),
            Effect::Removed(_) | Effect::Cleared { .. } => drop(data.remove(&key)),
            Effect::Ended { stamp, .. } => {
                let held =
                    data.get(&key).map(|value| Record::decode(value).expect("a record").stamp);
                if held == Some(*stamp) {
                    data.remove(&key);
                }
            }
        }
    }
}

/// A moment so long after the beginning.
pub(crate) fn at(after_ms: u64) -> Instant {
    Instant::from_millis(after_ms)
}

/// The same by the wall clock.
pub(crate) fn stamp(after_ms: u64) -> Timestamp {
    Timestamp::from_millis(BEGINNING_MS + after_ms)
}

/// When a deadline of a record is, after the beginning.
pub(crate) fn after(deadline: Timestamp) -> u64 {
    deadline.as_millis() - BEGINNING_MS
}

pub(crate) fn text(payload: &[u8]) -> String {
    String::from_utf8(payload.to_vec()).expect("text")
}

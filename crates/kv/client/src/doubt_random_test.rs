//! Random histories of stores that refuse, answer late or never, and of ranges that part and join: what was
//! acknowledged is there, and never gives way to something older.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::command::{Order, parse};
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::range::{Descriptor, Version};

use crate::pipe_fixture::{Hand, descriptor};
use crate::{Answer, Divide, Divided, Fate, Keyspace as _, Outcome, Pipe, Ranges, Read, Route};

const KEYS: &[u8; 4] = b"agpz";
/// Between them.
const CUTS: &[u8; 3] = b"dmt";
const DONE: &[u8] = b"done";

#[derive(Copy, Clone, Debug)]
enum Step {
    /// A value for a key, and for another one if that differs.
    Submit(usize, usize),
    /// An entry is carried out, unless it cannot be any more.
    CarryOut(usize),
    /// An entry is answered as it is: done, or refused.
    Answer(usize),
    /// Nobody says what became of an entry.
    Lose(usize),
    /// Whoever led loses what was not carried out.
    Refuse(usize),
    Split(usize),
    Merge(usize),
    /// What is known of the ranges is this again, or not any more.
    Remember(bool),
    Pass(u64),
}

/// Something that was proposed.
struct Entry {
    group: GroupId,
    version: Version,
    commands: Vec<Bytes>,
    answer: Option<Answer>,
    is_done: bool,
    /// Will not be carried out.
    is_over: bool,
}

/// The stores.
#[derive(Default)]
struct State {
    ranges: Vec<Descriptor>,
    /// What is told of them, if that is something older.
    told: Option<Vec<Descriptor>>,
    /// What is on its way, or may be carried out.
    entries: Vec<Entry>,
    values: BTreeMap<u8, u16>,
    groups: u64,
}

#[derive(Clone, Default)]
struct Stores(Arc<Mutex<State>>);

impl Ranges for Stores {
    fn routes(&self, _keyspace: &str) -> Vec<Route> {
        let state = self.0.lock();
        state.told.as_ref().unwrap_or(&state.ranges).iter().cloned().map(Route::here).collect()
    }

    fn propose(&self, route: &Route, data: Vec<u8>, answer: Answer) {
        let Ok((version, Order::Commands { commands, .. })) = parse(&data.into()) else {
            panic!("not what a pipe proposes");
        };
        let (group, answer) = (route.descriptor.group, Some(answer));
        let entry = Entry { group, version, commands, answer, is_done: false, is_over: false };
        self.0.lock().entries.push(entry);
    }

    fn query(&self, _route: &Route, _question: Bytes, _answer: Answer) {
        panic!("nothing is asked");
    }

    fn is_short(&self) -> bool {
        false
    }

    fn read(&self, _group: GroupId, _read: &mut Read<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// A command is keys with their values, three bytes each.
struct Triples;

impl Divide for Triples {
    fn divide(&self, command: &Bytes, boundary: &KeyRange) -> Option<Divided> {
        let (inside, rest): (Vec<&[u8]>, Vec<&[u8]>) =
            command.chunks(3).partition(|triple| boundary.contains(&triple[..1]));
        let key = Bytes::copy_from_slice(&rest.first()?[..1]);
        Some(Divided { inside: inside.concat().into(), key, rest: rest.concat().into() })
    }
}

fn triples(command: &[u8]) -> impl Iterator<Item = (u8, u16)> {
    command.chunks(3).map(|triple| (triple[0], u16::from_be_bytes([triple[1], triple[2]])))
}

struct World {
    stores: Stores,
    clock: Hand,
    pipe: Pipe,
    submitted: u16,
    /// The last value of each key that was acknowledged.
    acked: Arc<Mutex<BTreeMap<u8, u16>>>,
    open: Arc<Mutex<usize>>,
}

impl World {
    fn new() -> Self {
        let (stores, clock) = (Stores::default(), Hand::default());
        {
            let mut state = stores.0.lock();
            state.ranges = vec![descriptor(GroupId(1), KeyRange::all(), 1)];
            state.groups = 1;
        }
        let pipe = Pipe::repeating(Box::new(stores.clone()), "k", Triples, clock.clone());
        let (acked, open) = (Arc::default(), Arc::default());
        Self { stores, clock, pipe, submitted: 0, acked, open }
    }

    fn submit(&mut self, one: usize, other: usize) {
        self.submitted += 1;
        let [high, low] = self.submitted.to_be_bytes();
        let mut command = vec![KEYS[one], high, low];
        if one != other {
            command.extend([KEYS[other], high, low]);
        }
        let (told, acked, stores) = (command.clone(), Arc::clone(&self.acked), self.stores.clone());
        let open = Arc::clone(&self.open);
        *open.lock() += 1;
        let done = move |fate| {
            *open.lock() -= 1;
            assert_eq!(fate, Fate::Applied(DONE.into()), "it is not late");
            for (key, value) in triples(&told) {
                let mut acked = acked.lock();
                let last = acked.entry(key).or_default();
                *last = value.max(*last);
                let now = stores.0.lock().values.get(&key).copied();
                assert!(now >= Some(*last), "{now:?} where {last} was acknowledged");
            }
        };
        self.pipe.submit(&command[..1], command.clone().into(), Box::new(done));
    }

    /// Carries an entry out, and with that drops those before it of the same range.
    fn carry_out(&self, place: usize) {
        let state = &mut *self.stores.0.lock();
        let Some(entry) = state.entries.get(place) else { return };
        let range = state.ranges.iter().find(|range| range.group == entry.group);
        let may_be = range.is_some_and(|range| range.version == entry.version);
        let may_be = may_be && !entry.is_done && !entry.is_over;
        if !may_be {
            return;
        }
        let group = entry.group;
        for before in &mut state.entries[..place] {
            before.is_over |= before.group == group && !before.is_done;
        }
        let entry = &mut state.entries[place];
        entry.is_done = true;
        for (key, value) in entry.commands.iter().flat_map(|command| triples(command)) {
            let acked = self.acked.lock().get(&key).copied().unwrap_or_default();
            assert!(value >= acked, "{value} takes the place of {acked}, which was acknowledged");
            state.values.insert(key, value);
        }
    }

    /// Answers an entry; `is_known` says whether with what became of it.
    fn answer(&self, place: usize, is_known: bool) {
        let mut state = self.stores.0.lock();
        let ranges = state.ranges.clone();
        let Some(entry) = state.entries.get_mut(place) else { return };
        let now = ranges.iter().find(|range| range.group == entry.group);
        let is_older = now.is_some_and(|range| range.version != entry.version);
        let may_be = now.is_some() && !is_older && !entry.is_over;
        let outcome = match (is_known, entry.is_done) {
            (false, _) => Outcome::Unknown,
            (true, true) => Outcome::Applied(vec![Bytes::from_static(DONE); entry.commands.len()]),
            (true, false) if may_be => return,
            (true, false) => match now.filter(|_| is_older) {
                Some(now) => Outcome::Refused(Refusal::Version(Box::new(now.clone()))),
                None => Outcome::Refused(Refusal::NotLeader),
            },
        };
        let answer = entry.answer.take();
        state.entries.retain(|entry| entry.answer.is_some() || !entry.is_done && !entry.is_over);
        drop(state);
        if let Some(answer) = answer {
            answer(outcome);
        }
    }

    fn refuse(&self, place: usize) {
        if let Some(entry) = self.stores.0.lock().entries.get_mut(place) {
            entry.is_over |= !entry.is_done;
        }
        self.answer(place, true);
    }

    /// Parts a range, or joins it with the next one.
    fn split(&self, cut: u8) {
        let state = &mut *self.stores.0.lock();
        let key = Bytes::copy_from_slice(&[cut]);
        let holds = |range: &Descriptor| range.boundary.contains(&key);
        let Some(place) = state.ranges.iter().position(holds) else { return };
        let KeyRange { start, end } = state.ranges[place].boundary.clone();
        if start == key {
            return;
        }
        state.groups += 1;
        let version = state.ranges[place].version.boundary + 1;
        let left = KeyRange { start, end: Some(key.clone()) };
        let right = KeyRange { start: key, end };
        let group = state.ranges[place].group;
        state.ranges[place] = descriptor(group, left, version);
        state.ranges.insert(place + 1, descriptor(GroupId(state.groups), right, version));
    }

    fn merge(&self, place: usize) {
        let state = &mut *self.stores.0.lock();
        if place + 1 >= state.ranges.len() {
            return;
        }
        let right = state.ranges.remove(place + 1);
        let left = &mut state.ranges[place];
        let version = left.version.boundary.max(right.version.boundary) + 1;
        let boundary = KeyRange { start: left.boundary.start.clone(), end: right.boundary.end };
        *left = descriptor(left.group, boundary, version);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Submit(one, other) => self.submit(one, other),
            Step::CarryOut(place) => self.carry_out(place),
            Step::Answer(place) => self.answer(place, true),
            Step::Lose(place) => self.answer(place, false),
            Step::Refuse(place) => self.refuse(place),
            Step::Split(place) => self.split(CUTS[place]),
            Step::Merge(place) => self.merge(place),
            Step::Remember(is_old) => {
                let mut state = self.stores.0.lock();
                state.told = is_old.then(|| state.ranges.clone());
            }
            Step::Pass(ms) => {
                self.clock.go_on(Duration::from_millis(ms));
                self.pipe.poll();
            }
        }
    }

    /// All goes on as it should.
    fn heal(&mut self) {
        self.take(Step::Remember(false));
        for _ in 0..50 {
            while !self.stores.0.lock().entries.is_empty() {
                self.carry_out(0);
                self.answer(0, true);
                // Whoever is neither carried out nor waited for is over.
                self.stores.0.lock().entries.retain(|entry| entry.answer.is_some());
            }
            self.take(Step::Pass(51));
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS.len();
    prop_oneof![
        6 => (key(), key()).prop_map(|(one, other)| Step::Submit(one, other)),
        5 => (0..5_usize).prop_map(Step::CarryOut),
        5 => (0..5_usize).prop_map(Step::Answer),
        3 => (0..4_usize).prop_map(Step::Lose),
        2 => (0..4_usize).prop_map(Step::Refuse),
        1 => (0..CUTS.len()).prop_map(Step::Split),
        1 => (0..3_usize).prop_map(Step::Merge),
        1 => any::<bool>().prop_map(Step::Remember),
        4 => (0..60_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// KV-005, KV-014, KV-015
    #[test]
    fn nothing_acknowledged_is_lost_or_gives_way_to_something_older(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.take(step));
        world.heal();
        prop_assert_eq!(*world.open.lock(), 0, "all are told");
        let state = world.stores.0.lock();
        prop_assert_eq!(&state.values, &*world.acked.lock(), "the last one of each key is there");
    }
}

//! A pipe in front of a store that the test plays.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_clock::{Clock, Instant};
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::command::{Order, parse};
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::range::{Descriptor, Version};

use crate::{Answer, Divide, Divided, Fate, Keyspace as _, Outcome, Pipe, Ranges, Read, Route};

pub(crate) const GROUP: GroupId = GroupId(1);

/// A store whose entries are answered by the test.
#[derive(Clone, Default)]
pub(crate) struct Fake(pub(crate) Arc<Mutex<State>>);

#[derive(Default)]
pub(crate) struct State {
    pub(crate) ranges: Vec<Descriptor>,
    pub(crate) proposed: VecDeque<(GroupId, Vec<u8>, Answer)>,
    pub(crate) is_short: bool,
}

impl Ranges for Fake {
    fn routes(&self, _keyspace: &str) -> Vec<Route> {
        self.0.lock().ranges.iter().cloned().map(Route::here).collect()
    }

    fn propose(&self, route: &Route, data: Vec<u8>, answer: Answer) {
        self.0.lock().proposed.push_back((route.descriptor.group, data, answer));
    }

    fn query(&self, route: &Route, question: Bytes, answer: Answer) {
        self.propose(route, question.to_vec(), answer);
    }

    fn is_short(&self) -> bool {
        self.0.lock().is_short
    }

    fn read(&self, _group: GroupId, _read: &mut Read<'_>) -> Result<(), Error> {
        Ok(())
    }
}

pub(crate) fn commands_of(data: Vec<u8>) -> Vec<Bytes> {
    match parse(&data.into()) {
        Ok((_, Order::Commands { commands, .. })) => commands,
        other => panic!("not what was proposed: {other:?}"),
    }
}

pub(crate) fn descriptor(group: GroupId, boundary: KeyRange, version: u64) -> Descriptor {
    let version = Version { boundary: version, config: 0 };
    Descriptor { boundary, version, ..Descriptor::whole(group, "k".to_owned(), 1) }
}

/// Goes on when the test says so.
#[derive(Clone, Default)]
pub(crate) struct Hand(Arc<Mutex<Instant>>);

impl Hand {
    pub(crate) fn go_on(&self, span: Duration) {
        let mut now = self.0.lock();
        *now = *now + span;
    }
}

impl Clock for Hand {
    fn now(&self) -> Instant {
        *self.0.lock()
    }
}

/// Each letter of a command is a key.
pub(crate) struct Letters;

impl Divide for Letters {
    fn divide(&self, command: &Bytes, boundary: &KeyRange) -> Option<Divided> {
        let (inside, rest): (Vec<u8>, Vec<u8>) =
            command.iter().partition(|letter| boundary.contains(&[**letter]));
        let key = Bytes::copy_from_slice(rest.get(..1)?);
        Some(Divided { inside: inside.into(), key, rest: rest.into() })
    }
}

pub(crate) struct Fixture {
    pub(crate) fake: Fake,
    pub(crate) clock: Hand,
    pub(crate) pipe: Pipe,
    /// Which commands were done, and how.
    pub(crate) told: Arc<Mutex<Vec<(&'static str, Fate)>>>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let fake = Fake::default();
        fake.0.lock().ranges = vec![descriptor(GROUP, KeyRange::all(), 1)];
        let clock = Hand::default();
        let pipe = Pipe::new(Box::new(fake.clone()), "k", clock.clone());
        Self { fake, clock, pipe, told: Arc::default() }
    }

    /// With commands that can be cut.
    pub(crate) fn dividing() -> Self {
        Self::new().again()
    }

    /// With commands that may be carried out twice.
    pub(crate) fn repeating() -> Self {
        let mut fixture = Self::new();
        let ranges = Box::new(fixture.fake.clone());
        fixture.pipe = Pipe::repeating(ranges, "k", Letters, fixture.clock.clone());
        fixture
    }

    /// With a pipe that begins with the ranges as they are.
    pub(crate) fn again(self) -> Self {
        let mut fixture = self;
        let ranges = Box::new(fixture.fake.clone());
        fixture.pipe = Pipe::dividing(ranges, "k", Letters, fixture.clock.clone());
        fixture
    }

    /// Has a range up to `m` and one behind it.
    pub(crate) fn part(&self, version: u64) {
        let middle = Bytes::from_static(b"m");
        let left = KeyRange { start: Bytes::new(), end: Some(middle.clone()) };
        let right = KeyRange { start: middle, end: None };
        self.fake.0.lock().ranges =
            vec![descriptor(GROUP, left, version), descriptor(GroupId(2), right, version)];
    }

    pub(crate) fn submit(&self, key: &str, command: &'static str) {
        let told = Arc::clone(&self.told);
        let done = move |fate| told.lock().push((command, fate));
        self.pipe.submit(key.as_bytes(), Bytes::from_static(command.as_bytes()), Box::new(done));
    }

    /// The commands of each entry on its way.
    pub(crate) fn on_their_way(&self) -> Vec<(GroupId, Vec<String>)> {
        let state = self.fake.0.lock();
        let entry = |(group, data, _): &(GroupId, Vec<u8>, Answer)| {
            let commands = commands_of(data.clone());
            let text = |command: &Bytes| String::from_utf8_lossy(command).into_owned();
            (*group, commands.iter().map(text).collect())
        };
        state.proposed.iter().map(entry).collect()
    }

    /// Answers the oldest entry: each command by its own text.
    pub(crate) fn answer(&self) {
        self.answer_at(0);
    }

    /// The same for one that was proposed later.
    pub(crate) fn answer_at(&self, place: usize) {
        let (_, data, answer) = self.fake.0.lock().proposed.remove(place).expect("on its way");
        let commands = commands_of(data);
        answer(Outcome::Applied(commands));
    }

    pub(crate) fn refuse(&self, refusal: Refusal) {
        let (_, _, answer) = self.fake.0.lock().proposed.pop_front().expect("one on its way");
        answer(Outcome::Refused(refusal));
    }

    /// The store of the oldest entry goes down.
    pub(crate) fn lose(&self) {
        let (_, _, answer) = self.fake.0.lock().proposed.pop_front().expect("one on its way");
        answer(Outcome::Unknown);
    }

    /// Time passes, and what is due is tried again.
    pub(crate) fn try_again(&self) {
        self.clock.go_on(Duration::from_millis(60));
        self.pipe.poll();
    }

    pub(crate) fn told(&self) -> Vec<(&'static str, Fate)> {
        std::mem::take(&mut *self.told.lock())
    }
}

pub(crate) fn applied(command: &'static str) -> (&'static str, Fate) {
    (command, Fate::Applied(Bytes::from_static(command.as_bytes())))
}

pub(crate) fn entries(expected: &[&[&str]]) -> Vec<(GroupId, Vec<String>)> {
    let entry = |commands: &&[&str]| commands.iter().map(|command| (*command).to_owned()).collect();
    expected.iter().map(|commands| (GROUP, entry(commands))).collect()
}

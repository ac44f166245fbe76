//! Commands under reigns, in front of a store that the test plays.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_clock::{Clock, Instant};
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::command::{Order, parse};
use ratatosk_store::coprocessor::Reign;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::range::{Descriptor, Version};

use crate::{
    Answer, Busy, Fate, Keyspace as _, Outcome, Owner, Read, Realm, ReignHook, ReignPipe, Reigns,
};

const GROUP: GroupId = GroupId(1);

/// A store whose entries are answered by the test.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<VecDeque<Proposed>>>);

/// The term, the entry, and who is told what became of it.
type Proposed = (u64, Vec<u8>, Answer);

impl Realm for Fake {
    fn propose_in(&self, term: u64, _group: GroupId, data: Vec<u8>, answer: Answer) {
        self.0.lock().push_back((term, data, answer));
    }

    fn read_whole(&self, _: GroupId, _: &KeyRange, _: &mut Read<'_>) -> Result<bool, Error> {
        Ok(true)
    }

    fn is_short(&self) -> bool {
        false
    }
}

struct Still;

impl Clock for Still {
    fn now(&self) -> Instant {
        Instant::ZERO
    }
}

/// Notes what it is told.
#[derive(Default)]
struct Notes {
    now: Mutex<Vec<ReignPipe>>,
    told: Mutex<Vec<(&'static str, u64)>>,
}

impl Owner for Notes {
    fn begins(&self, reign: &ReignPipe) {
        self.told.lock().push(("begins", reign.term()));
        self.now.lock().push(reign.clone());
    }

    fn ends(&self, reign: &ReignPipe) {
        self.told.lock().push(("ends", reign.term()));
        assert!(reign.is_over());
        self.now.lock().retain(|held| !held.is(reign));
    }
}

struct Fixture {
    fake: Fake,
    reigns: Reigns,
    hook: ReignHook,
    notes: Arc<Notes>,
    fates: Arc<Mutex<Vec<(&'static str, Fate)>>>,
}

fn reign(term: u64, version: Version) -> Reign {
    let range = Descriptor { version, ..Descriptor::whole(GROUP, "k".to_owned(), 1) };
    Reign { term, range }
}

fn version(boundary: u64, config: u64) -> Version {
    Version { boundary, config }
}

impl Fixture {
    /// Reigns in term 3.
    fn new() -> Self {
        let (fake, reigns, notes) = (Fake::default(), Reigns::new(Still), Arc::<Notes>::default());
        let mut hook = reigns.hook();
        reigns.bind(Arc::new(fake.clone()), notes.clone());
        hook.lead(Some(&reign(3, version(1, 1))));
        Self { fake, reigns, hook, notes, fates: Arc::default() }
    }

    fn pipe(&self) -> ReignPipe {
        self.notes.now.lock().last().expect("it reigns").clone()
    }

    fn submit(&self, pipe: &ReignPipe, command: &'static str) {
        let fates = Arc::clone(&self.fates);
        let done = Box::new(move |fate| fates.lock().push((command, fate)));
        pipe.submit(b"a", Bytes::from_static(command.as_bytes()), done);
    }

    /// The entries that were proposed and not answered: the term and the commands of each.
    fn proposed(&self) -> Vec<(u64, Version, Vec<Bytes>)> {
        let proposed = self.fake.0.lock();
        let read = |(term, data, _): &Proposed| match parse(&data.clone().into()) {
            Ok((version, Order::Commands { commands, .. })) => (*term, version, commands),
            _ => (*term, version(0, 0), Vec::new()),
        };
        proposed.iter().map(read).collect()
    }

    fn answer(&self, outcome: Outcome) {
        let (_, _, answer) = self.fake.0.lock().pop_front().expect("something is on its way");
        answer(outcome);
    }

    fn refuse(&self, refusal: Refusal) {
        self.answer(Outcome::Refused(refusal));
    }

    fn fates(&self) -> Vec<(&'static str, Fate)> {
        std::mem::take(&mut self.fates.lock())
    }

    fn told(&self) -> Vec<(&'static str, u64)> {
        std::mem::take(&mut self.notes.told.lock())
    }
}

fn applied(answer: &'static str) -> Fate {
    Fate::Applied(Bytes::from_static(answer.as_bytes()))
}

fn commands(names: &[&'static str]) -> Vec<Bytes> {
    names.iter().map(|name| Bytes::from_static(name.as_bytes())).collect()
}

/// KV-002: what a command was decided on is what it comes to: it goes in the term of its reign only.
#[test]
fn commands_go_in_the_term_of_their_reign_and_in_order() {
    let fixture = Fixture::new();
    let pipe = fixture.pipe();
    ["a", "b", "c", "d"].iter().for_each(|name| fixture.submit(&pipe, name));
    let at = version(1, 1);
    assert_eq!(fixture.proposed(), [(3, at, commands(&["a"])), (3, at, commands(&["b"]))]);
    fixture.answer(Outcome::Applied(commands(&["1"])));
    assert_eq!(fixture.fates(), [("a", applied("1"))]);
    assert_eq!(fixture.proposed()[1], (3, at, commands(&["c", "d"])), "what waited goes together");
}

/// KV-008: a change of members refuses what was meant for the version before; the reign goes on.
#[test]
fn what_a_change_of_members_refuses_goes_again_before_what_came_later() {
    let fixture = Fixture::new();
    let pipe = fixture.pipe();
    ["a", "b", "c"].iter().for_each(|name| fixture.submit(&pipe, name));
    let now = reign(3, version(1, 2)).range;
    fixture.refuse(Refusal::Version(Box::new(now.clone())));
    fixture.submit(&pipe, "d");
    assert_eq!(fixture.proposed().len(), 1, "the other is on its way still");
    fixture.refuse(Refusal::Version(Box::new(now)));
    let at = version(1, 2);
    assert_eq!(fixture.proposed(), [(3, at, commands(&["a", "b", "c", "d"]))]);
    assert!(fixture.fates().is_empty() && !pipe.is_over());
}

/// KV-007: nothing of it goes to another term, nor what is behind it, and the owner hears of it.
#[test]
fn what_a_term_does_not_take_is_in_doubt_and_ends_the_reign() {
    for refusal in [Refusal::NotLeader, Refusal::Lost, Refusal::Merging] {
        let mut fixture = Fixture::new();
        let pipe = fixture.pipe();
        ["a", "b", "c"].iter().for_each(|name| fixture.submit(&pipe, name));
        fixture.refuse(refusal.clone());
        assert_eq!(fixture.fates(), [("a", Fate::Unknown)]);
        assert_eq!(fixture.told(), [("begins", 3), ("ends", 3)]);
        assert_eq!(pipe.check(), Err(Busy));
        fixture.submit(&pipe, "d");
        fixture.refuse(refusal);
        let rest = ["b", "c", "d"].map(|name| (name, Fate::Unknown));
        assert_eq!(fixture.fates(), rest, "in order, each once");
        fixture.hook.lead(None);
        fixture.hook.lead(Some(&reign(5, version(1, 1))));
        assert_eq!(fixture.told(), [("begins", 5)], "it was over before");
        assert!(!fixture.pipe().is(&pipe));
    }
}

/// KV-014: commands that were decided over other keys than the range has now are never carried out.
#[test]
fn a_change_of_the_boundary_ends_the_reign() {
    let mut fixture = Fixture::new();
    let pipe = fixture.pipe();
    fixture.submit(&pipe, "a");
    fixture.hook.lead(None);
    fixture.submit(&pipe, "b");
    fixture.hook.lead(Some(&reign(3, version(2, 1))));
    assert_eq!(fixture.told(), [("begins", 3), ("ends", 3), ("begins", 3)]);
    fixture.submit(&fixture.pipe(), "c");
    let now = Refusal::Version(Box::new(reign(3, version(2, 1)).range));
    fixture.refuse(now);
    assert_eq!(fixture.fates(), [("a", Fate::Unknown), ("b", Fate::Unknown)]);
    fixture.answer(Outcome::Applied(commands(&["1"])));
    assert_eq!(fixture.fates(), [("c", applied("1"))]);
}

/// Nobody is told while it submits, as it may hold a lock that is needed to be told.
#[test]
fn after_a_reign_the_store_tells_that_the_fate_is_unknown() {
    let mut fixture = Fixture::new();
    let pipe = fixture.pipe();
    fixture.hook.lead(None);
    fixture.submit(&pipe, "a");
    assert!(fixture.fates().is_empty());
    assert_eq!(fixture.proposed(), [(0, version(0, 0), Vec::new())], "in no term");
    fixture.refuse(Refusal::NotLeader);
    assert_eq!(fixture.fates(), [("a", Fate::Unknown)]);
}

/// Stores begin to lead before there are services.
#[test]
fn an_owner_who_comes_later_is_told_of_the_reigns_there_are() {
    let (reigns, notes) = (Reigns::new(Still), Arc::<Notes>::default());
    let mut hook = reigns.hook();
    hook.lead(Some(&reign(3, version(1, 1))));
    hook.lead(None);
    hook.lead(Some(&reign(4, version(1, 1))));
    reigns.bind(Arc::new(Fake::default()), notes.clone());
    assert_eq!(*notes.told.lock(), [("begins", 4)]);
    hook.lead(None);
    assert_eq!(notes.told.lock()[1..], [("ends", 4)]);
    assert_eq!(format!("{reigns:?}"), "{}");
}

/// KV-007: a group that was to be handed over, and was not, leads on in its term.
#[test]
fn a_term_that_refused_something_and_goes_on_is_another_reign() {
    let mut fixture = Fixture::new();
    let pipe = fixture.pipe();
    ["a", "b"].iter().for_each(|name| fixture.submit(&pipe, name));
    assert!(!fixture.reigns.poll(), "nothing has broken off");
    fixture.refuse(Refusal::NotLeader);
    assert!(fixture.reigns.poll() && fixture.reigns.poll());
    fixture.refuse(Refusal::NotLeader);
    assert_eq!(fixture.proposed(), [(3, version(1, 1), commands(&[]))], "it is asked once");
    fixture.refuse(Refusal::NotLeader);
    assert_eq!(fixture.told(), [("begins", 3), ("ends", 3)]);
    assert!(fixture.reigns.poll());
    fixture.answer(Outcome::Applied(Vec::new()));
    assert_eq!(fixture.told(), [("begins", 3)]);
    assert!(!fixture.reigns.poll() && !fixture.pipe().is(&pipe));
    fixture.submit(&fixture.pipe(), "c");
    fixture.refuse(Refusal::Lost);
    assert!(fixture.reigns.poll());
    fixture.hook.lead(None);
    fixture.answer(Outcome::Applied(Vec::new()));
    assert_eq!(fixture.told(), [("ends", 3)], "the term is over meanwhile");
}

/// Whoever closes a store lets go of it first.
#[test]
fn an_owner_who_leaves_is_told_of_the_end_of_what_there_is() {
    let mut fixture = Fixture::new();
    let pipe = fixture.pipe();
    fixture.reigns.unbind();
    assert_eq!(fixture.told(), [("begins", 3), ("ends", 3)]);
    fixture.submit(&pipe, "a");
    fixture.refuse(Refusal::NotLeader);
    assert_eq!(fixture.fates(), [("a", Fate::Unknown)]);
    fixture.hook.lead(None);
    fixture.hook.lead(Some(&reign(5, version(1, 1))));
    assert_eq!(fixture.told(), [], "nobody is told any more");
}

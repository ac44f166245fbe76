//! The store of a node without threads: its machine, host and checkpoints, each moved by a turn.
//!
//! It is put together as `Node` of the store is, with the same rules at opening. What a step of the
//! machine commits waits until the host has its turn, so that an answer may be as late as one
//! likes, and what a checkpoint made durable waits until the machine has its turn again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_client::{Answer, Ranges, Read, Route};
use ratatosk_clock::Instant;
use ratatosk_dist::DistCoprocessor;
use ratatosk_engine::{Error, Overlay, SpaceId};
use ratatosk_inbox::InboxCoprocessor;
use ratatosk_retain::RetainCoprocessor;
use ratatosk_store::command::{self, Order};
use ratatosk_store::coprocessor::{Coprocessor, Factory, Keyspaces};
use ratatosk_store::host::{self, Alone, Answered, Done, Host};
use ratatosk_store::log::GroupId;
use ratatosk_store::machine::{Event, Input, Machine, Output};
use ratatosk_store::node::Reply;
use ratatosk_store::open;
use ratatosk_store::range::Descriptor;

use crate::disk::Disk;
use crate::engine::SimEngine;
use crate::log::SimLog;
use crate::planted::Planted;
use crate::replay::Replay;

/// The store's number.
const STORE: u64 = 7;
/// The keyspaces, in the order of their spaces.
pub(crate) const KEYSPACES: [&str; 3] = ["inbox", "retain", "dist"];

/// See the module.
pub(crate) struct Store {
    shared: Arc<Shared>,
    machine: Machine<SimLog, Reply>,
    host: Host<SimEngine>,
    /// From the machine to the host.
    events: VecDeque<Event<Reply>>,
    /// How far the host is.
    applied: BTreeMap<GroupId, u64>,
    leads: usize,
    planted: Option<Planted>,
}

/// What pipes reach.
struct Shared {
    overlay: Arc<Overlay<SimEngine>>,
    ranges: Vec<(Descriptor, SpaceId)>,
    inputs: Mutex<VecDeque<Input<Reply>>>,
    is_short: AtomicBool,
}

/// A way to the ranges, for pipes.
pub(crate) struct Handle(Arc<Shared>);

/// The store does not go on.
#[derive(Debug)]
pub(crate) struct Stopped(pub(crate) String);

/// The coprocessor of a keyspace, as it is before it has seen anything.
pub(crate) fn coprocessor(keyspace: &str) -> Box<dyn Coprocessor> {
    match keyspace {
        "dist" => Box::new(DistCoprocessor::new()),
        "inbox" => Box::new(InboxCoprocessor::new()),
        _ => Box::new(RetainCoprocessor::new()),
    }
}

/// What carries the commands of each out.
pub(crate) fn keyspaces() -> Keyspaces {
    let factory = |name: &'static str| -> Factory { Box::new(move || coprocessor(name)) };
    Keyspaces::new(KEYSPACES.map(|name| (name.to_owned(), factory(name))).into())
}

/// The space of a keyspace.
pub(crate) fn space(keyspace: &str) -> SpaceId {
    let place = (1..).zip(KEYSPACES).find(|(_, known)| *known == keyspace);
    SpaceId(place.map_or(0, |(place, _)| place))
}

impl Store {
    /// Opens what is on the disk, or makes a store there.
    pub(crate) fn open(disk: &mut Disk, planted: Option<Planted>) -> Result<Self, Stopped> {
        let engine = disk.engine.clone();
        let asked = open::Asked {
            store: STORE,
            keyspaces: &keyspaces(),
            beginning: open::Beginning::Alone,
            is_new: !disk.has_identity,
        };
        let found = open::find(&*disk.log, &engine, asked).map_err(stopped)?;
        disk.has_identity = true;
        let overlay = Arc::new(Overlay::new(engine, crate::engine::SPACES));
        let mut host = Host::new(STORE, Arc::clone(&overlay), keyspaces());
        let mut ranges = Vec::new();
        let mut applied = BTreeMap::new();
        for opened in &found.groups {
            let Some(descriptor) = &opened.descriptor else { continue };
            host.open(descriptor.clone()).map_err(stopped)?;
            applied.insert(descriptor.group, opened.applied);
            ranges.push((descriptor.clone(), space(&descriptor.keyspace)));
        }
        let machine = Machine::open(Arc::clone(&disk.log), STORE, found.groups, found.left);
        let machine = machine.map_err(stopped)?;
        let inputs = Mutex::default();
        let is_short = AtomicBool::new(false);
        let shared = Arc::new(Shared { overlay, ranges, inputs, is_short });
        Ok(Store { shared, machine, host, events: VecDeque::new(), applied, leads: 0, planted })
    }

    /// A way to it.
    pub(crate) fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Whether it leads all its ranges, with all before applied.
    pub(crate) fn is_led(&self) -> bool {
        self.leads == self.shared.ranges.len()
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.events.is_empty() && self.shared.inputs.lock().is_empty() && !self.machine.is_dirty()
    }

    /// Refuses from now on, or no longer.
    pub(crate) fn set_short(&self, is_short: bool) {
        self.shared.is_short.store(is_short, Ordering::Relaxed);
    }

    /// Lets the machine step with so many inputs; answers with how many it did.
    pub(crate) fn step_machine(&mut self, now: Instant, count: usize) -> Result<usize, Stopped> {
        let inputs: Vec<_> = {
            let mut waiting = self.shared.inputs.lock();
            let count = count.min(waiting.len());
            waiting.drain(..count).collect()
        };
        let count = inputs.len();
        let mut output = Output::default();
        self.machine.step(now, inputs, &mut output).map_err(stopped)?;
        self.events.extend(output.events);
        Ok(count)
    }

    /// Lets the host carry out so many events, and tells those who asked; answers how many it were.
    pub(crate) fn step_host(
        &mut self,
        count: usize,
        replay: &mut Replay,
    ) -> Result<usize, Stopped> {
        if self.planted == Some(Planted::AnsweredEarly) {
            self.answer_early();
        }
        let count = count.min(self.events.len());
        let events: Vec<_> = self.events.drain(..count).collect();
        for event in &events {
            if let Event::Committed(committed) = event {
                replay.note(committed.group, &committed.entries).map_err(Stopped)?;
            }
        }
        let mut done = Done::default();
        self.host.run(events, &Alone, &mut done).map_err(stopped)?;
        for Answered { ticket, answers } in done.answered {
            ticket(answers);
        }
        self.leads += done.leads.len();
        for input in &done.inputs {
            if let Input::Applied { group, index } = input {
                self.applied.insert(*group, *index);
            }
        }
        self.shared.inputs.lock().extend(done.inputs);
        Ok(count)
    }

    /// The planted fault: whoever proposed is told before the log has it.
    fn answer_early(&self) {
        // Answers propose more, so the lock is given up before.
        let waiting = std::mem::take(&mut *self.shared.inputs.lock());
        let mut told: VecDeque<_> = waiting.into_iter().map(answered).collect();
        let mut inputs = self.shared.inputs.lock();
        told.append(&mut inputs);
        *inputs = told;
    }

    /// Makes durable what was applied, and leaves it to the machine to cut the log.
    pub(crate) fn checkpoint(&mut self) -> Result<(), Stopped> {
        let groups = self.shared.ranges.iter().map(|(descriptor, _)| descriptor.group);
        let durable: Vec<_> = match self.planted {
            Some(Planted::TruncatedAhead) => {
                self.applied.iter().map(|(group, index)| (*group, *index)).collect()
            }
            _ => host::checkpoint(&*self.shared.overlay, groups).map_err(stopped)?,
        };
        let told = durable.into_iter().map(|(group, index)| Input::Checkpointed { group, index });
        self.shared.inputs.lock().extend(told);
        Ok(())
    }

    /// Whether what readers see is what the log, from its first entry on, makes of nothing.
    pub(crate) fn check_replay(&self, replay: &Replay) -> Result<(), String> {
        for (descriptor, space) in &self.shared.ranges {
            let applied = self.applied.get(&descriptor.group).copied().unwrap_or(0);
            let expected = replay.content(descriptor, *space, applied)?;
            let seen = crate::engine::content(&self.shared.overlay.view(), *space);
            if seen != expected {
                let keyspace = &descriptor.keyspace;
                return Err(format!(
                    "{keyspace} is not what its log says, at entry {applied}: {} keys, not {}",
                    seen.len(),
                    expected.len(),
                ));
            }
        }
        Ok(())
    }
}

impl Drop for Store {
    /// Who waits for an answer holds a pipe, and that the store: none comes any more.
    fn drop(&mut self) {
        let waiting = std::mem::take(&mut *self.shared.inputs.lock());
        drop(waiting);
    }
}

impl Ranges for Handle {
    fn routes(&self, keyspace: &str) -> Vec<Route> {
        let ranges = self.0.ranges.iter().map(|(descriptor, _)| descriptor);
        let ranges = ranges.filter(|descriptor| descriptor.keyspace == keyspace);
        ranges.cloned().map(Route::here).collect()
    }

    fn propose(&self, route: &Route, data: Vec<u8>, answer: Answer) {
        let group = route.descriptor.group;
        let reply: Reply = Box::new(|answers| answer(answers.into()));
        self.0.inputs.lock().push_back(Input::Propose { group, term: None, data, ticket: reply });
    }

    /// No service of a node that stands alone asks: whoever does is not answered.
    fn query(&self, _route: &Route, _question: Bytes, answer: Answer) {
        drop(answer);
    }

    fn is_short(&self) -> bool {
        self.0.is_short.load(Ordering::Relaxed)
    }

    fn read(&self, group: GroupId, read: &mut Read<'_>) -> Result<(), Error> {
        let found = self.0.ranges.iter().find(|(descriptor, _)| descriptor.group == group);
        let Some((descriptor, space)) = found else { return Ok(()) };
        host::read_range(&*self.0.overlay, *space, &descriptor.boundary, read)
    }
}

/// The same proposal, of which the caller was told.
fn answered(input: Input<Reply>) -> Input<Reply> {
    let Input::Propose { group, term, data, ticket } = input else { return input };
    let commands = match command::parse(&Bytes::from(data.clone())) {
        Ok((_, Order::Commands { commands, .. })) => commands.len(),
        _ => 0,
    };
    ticket(Ok(vec![Bytes::from_static(&[0]); commands]));
    Input::Propose { group, term, data, ticket: Box::new(|_| {}) }
}

fn stopped(reason: impl std::fmt::Display) -> Stopped {
    Stopped(reason.to_string())
}

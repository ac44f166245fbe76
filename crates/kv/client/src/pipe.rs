//! From commands to entries: in order, many to an entry, few entries at once.
//!
//! What is submitted while entries are on their way waits and goes together with the next one. So a
//! lone command waits for nobody, and under load as many share an fsync as came during the last.
//! SCH-001, SCH-004
//!
//! A range that has changed refuses the entries that were meant for what it was. They are cut anew
//! once all that were on their way are back, so that the order holds. KV-002

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_clock::{Clock, Instant};
use ratatosk_engine::Error;
use ratatosk_store::command::Commands;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::node::{Handle, Reply};
use ratatosk_store::range::Descriptor;

use crate::{Busy, Done, Fate, Keyspace, Read};

/// Entries of a range on their way at once: one is applied while the next is written.
const IN_FLIGHT_MAX: usize = 2;
/// Bytes from which on an entry takes no more commands.
const ENTRY_BYTES: usize = 512 << 10;
/// A command that is not done for so long shows that what is submitted now would take as long.
/// SCH-003
const BURST_BUDGET: Duration = Duration::from_secs(5);
/// Bytes that may wait, whatever the time.
pub(crate) const WAITING_BYTES_MAX: usize = 64 << 20;
/// Places that an idle queue keeps.
pub(crate) const IDLE_PLACES: usize = 64;

/// The ranges behind a pipe: what a store's handle offers.
pub trait Ranges: Send + Sync {
    /// The ranges of a keyspace, in the order of their keys.
    fn ranges(&self, keyspace: &str) -> Vec<Descriptor>;

    /// Proposes an entry; never calls `reply` itself.
    fn propose(&self, group: GroupId, data: Vec<u8>, reply: Reply);

    /// Whether nothing should be proposed, for disk or memory are short.
    fn is_short(&self) -> bool;

    /// Shows a range's data.
    ///
    /// # Errors
    /// The engine's, or those of `read`.
    fn read(&self, group: GroupId, read: &mut Read<'_>) -> Result<(), Error>;
}

impl Ranges for Handle {
    fn ranges(&self, keyspace: &str) -> Vec<Descriptor> {
        Handle::ranges(self, keyspace)
    }

    fn propose(&self, group: GroupId, data: Vec<u8>, reply: Reply) {
        Handle::propose(self, group, data, reply);
    }

    fn is_short(&self) -> bool {
        Handle::is_short(self)
    }

    fn read(&self, group: GroupId, read: &mut Read<'_>) -> Result<(), Error> {
        Handle::read(self, group, read)
    }
}

/// The keyspace of one service. Clones are the same one.
#[derive(Clone)]
pub struct Pipe {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    keyspace: String,
    ranges: Box<dyn Ranges>,
    pub(crate) clock: Box<dyn Clock>,
    pub(crate) lanes: Mutex<Vec<Lane>>,
}

/// What goes to one range.
pub(crate) struct Lane {
    descriptor: Descriptor,
    pub(crate) waiting: VecDeque<Call>,
    pub(crate) waiting_bytes: usize,
    /// When the oldest entry on its way was proposed, and those behind it.
    in_flight: VecDeque<Instant>,
    /// Came back unapplied, in order, while others are on their way.
    returned: Vec<Call>,
}

pub(crate) struct Call {
    key: Bytes,
    command: Bytes,
    submitted: Instant,
    done: Done,
}

impl Pipe {
    /// The keyspace called `keyspace`.
    pub fn new(ranges: Box<dyn Ranges>, keyspace: &str, clock: impl Clock + 'static) -> Self {
        let lanes = ranges.ranges(keyspace).into_iter().map(Lane::new).collect();
        let (keyspace, clock) = (keyspace.to_owned(), Box::new(clock));
        let shared = Shared { keyspace, ranges, clock, lanes: Mutex::new(lanes) };
        Self { shared: Arc::new(shared) }
    }
}

impl Keyspace for Pipe {
    fn check(&self) -> Result<(), Busy> {
        if self.shared.ranges.is_short() {
            return Err(Busy);
        }
        let lanes = self.shared.lanes.lock();
        let now = self.shared.clock.now();
        if lanes.iter().any(|lane| lane.is_busy(now)) { Err(Busy) } else { Ok(()) }
    }

    fn submit(&self, key: &[u8], command: Bytes, done: Done) {
        let submitted = self.shared.clock.now();
        let call = Call { key: Bytes::copy_from_slice(key), command, submitted, done };
        let mut lanes = self.shared.lanes.lock();
        let Some(lane) = lane_of(&mut lanes, key) else { return };
        lane.push(call);
        self.shared.send(lane);
    }

    fn read(&self, read: &mut Read<'_>) -> Result<(), Error> {
        let lanes = self.shared.lanes.lock();
        let groups: Vec<_> = lanes.iter().map(|lane| lane.descriptor.group).collect();
        drop(lanes);
        groups.into_iter().try_for_each(|group| self.shared.ranges.read(group, read))
    }
}

impl Shared {
    /// Proposes what waits, as far as entries may be on their way.
    fn send(self: &Arc<Self>, lane: &mut Lane) {
        while lane.returned.is_empty()
            && lane.in_flight.len() < IN_FLIGHT_MAX
            && let Some((commands, calls)) = lane.cut()
        {
            lane.in_flight.push_back(calls.first().map_or(Instant::ZERO, |call| call.submitted));
            let (group, shared) = (lane.descriptor.group, Arc::clone(self));
            let reply = move |answers| shared.answered(group, calls, answers);
            self.ranges.propose(group, commands.into_data(), Box::new(reply));
        }
    }

    /// Tells the callers of an entry, and lets the next one go.
    fn answered(
        self: &Arc<Self>,
        group: GroupId,
        calls: Vec<Call>,
        answers: Result<Vec<Bytes>, Refusal>,
    ) {
        let mut returned = None;
        match answers {
            Ok(answers) => {
                for (call, answer) in calls.into_iter().zip(answers) {
                    (call.done)(Fate::Applied(answer));
                }
            }
            Err(Refusal::Version(_)) => returned = Some(calls),
            // The last two are not for commands.
            Err(
                Refusal::Lost
                | Refusal::NotLeader
                | Refusal::Merging
                | Refusal::Split
                | Refusal::Step(_),
            ) => {
                calls.into_iter().for_each(|call| (call.done)(Fate::Unknown));
            }
        }
        let mut lanes = self.lanes.lock();
        let Some(place) = lanes.iter().position(|lane| lane.descriptor.group == group) else {
            return;
        };
        let lane = &mut lanes[place];
        lane.in_flight.pop_front();
        lane.returned.extend(returned.into_iter().flatten());
        if !lane.returned.is_empty() {
            if lane.in_flight.is_empty() {
                self.route_anew(&mut lanes);
            }
            return;
        }
        self.send(lane);
        lane.rest();
    }

    /// Takes over the ranges as they are now, and sorts what waits by them.
    fn route_anew(self: &Arc<Self>, lanes: &mut Vec<Lane>) {
        let mut calls = Vec::new();
        let mut kept = Vec::new();
        for mut lane in lanes.drain(..) {
            // What others have on its way returns by itself.
            if lane.in_flight.is_empty() {
                calls.append(&mut lane.returned);
                calls.extend(lane.waiting.drain(..));
            } else {
                kept.push(lane);
            }
        }
        let is_kept = |group| kept.iter().any(|lane: &Lane| lane.descriptor.group == group);
        let ranges = self.ranges.ranges(&self.keyspace).into_iter();
        let fresh: Vec<_> = ranges.filter(|held| !is_kept(held.group)).map(Lane::new).collect();
        lanes.extend(kept);
        lanes.extend(fresh);
        lanes.sort_by(|one, two| one.descriptor.boundary.start.cmp(&two.descriptor.boundary.start));
        for call in calls {
            let key = call.key.clone();
            if let Some(lane) = lane_of(lanes, &key) {
                lane.push(call);
            }
        }
        lanes.iter_mut().for_each(|lane| self.send(lane));
    }
}

impl Lane {
    fn new(descriptor: Descriptor) -> Self {
        Self {
            descriptor,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: VecDeque::new(),
            returned: Vec::new(),
        }
    }

    fn push(&mut self, call: Call) {
        self.waiting_bytes += call.command.len();
        self.waiting.push_back(call);
    }

    pub(crate) fn is_busy(&self, now: Instant) -> bool {
        self.waiting_bytes > WAITING_BYTES_MAX
            || self.oldest().is_some_and(|oldest| now.since(oldest) > BURST_BUDGET)
    }

    /// When the oldest command that is not done was submitted.
    fn oldest(&self) -> Option<Instant> {
        let on_its_way = self.in_flight.front().copied();
        let returned = self.returned.first().map(|call| call.submitted);
        on_its_way.or(returned).or_else(|| self.waiting.front().map(|call| call.submitted))
    }

    /// The next entry; `None` if nothing waits.
    fn cut(&mut self) -> Option<(Commands, Vec<Call>)> {
        self.waiting.front()?;
        let mut commands = Commands::new(self.descriptor.version);
        let mut calls = Vec::new();
        while commands.size_bytes() < ENTRY_BYTES
            && let Some(call) = self.waiting.pop_front()
        {
            self.waiting_bytes -= call.command.len();
            commands.push(&call.command);
            calls.push(call);
        }
        Some((commands, calls))
    }

    /// Gives memory back once nothing waits. SCH-005
    fn rest(&mut self) {
        if self.waiting.is_empty() {
            self.waiting.shrink_to(IDLE_PLACES);
        }
    }
}

/// The lane of the range that has the key.
fn lane_of<'a>(lanes: &'a mut [Lane], key: &[u8]) -> Option<&'a mut Lane> {
    let found = lanes.iter_mut().find(|lane| lane.descriptor.boundary.contains(key));
    debug_assert!(found.is_some(), "the ranges of a keyspace have every key: {key:?}");
    found
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Pipe")
            .field("keyspace", &self.shared.keyspace)
            .finish_non_exhaustive()
    }
}

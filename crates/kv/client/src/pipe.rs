//! From commands to entries: in order, many to an entry, few entries at once.
//!
//! What is submitted while entries are on their way waits and goes together with the next one. So a
//! lone command waits for nobody, and under load as many share an fsync as came during the last.
//! SCH-001, SCH-004
//!
//! A range that has changed refuses the entries that were meant for what it was, and a store those of
//! ranges that it does not lead. They are cut anew once all that were on their way are back, so that the
//! order holds; where it is not known yet who leads the range, or which it is, they wait for a while. KV-002

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_clock::{Clock, Instant};
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::command::Commands;
use ratatosk_store::edition::Edition;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::range::Descriptor;

use crate::divide::{self, Divide, Divided};
use crate::question::Question;
use crate::ranges::{Outcome, Ranges, Route};
use crate::{Busy, Done, Fate, Keyspace, Read};

/// Entries of a range on their way at once: one is applied while the next is written.
pub(crate) const IN_FLIGHT_MAX: usize = 2;
/// Bytes from which on an entry takes no more commands.
const ENTRY_BYTES: usize = 512 << 10;
/// A command that is not done for so long shows that what is submitted now would take as long.
/// SCH-003
const BURST_BUDGET: Duration = Duration::from_secs(5);
/// Bytes that may wait, whatever the time.
pub(crate) const WAITING_BYTES_MAX: usize = 64 << 20;
/// How long to wait before what nobody takes is tried again.
pub(crate) const RETRY: Duration = Duration::from_millis(50);
/// How long a command is tried.
pub(crate) const TRIED: Duration = Duration::from_secs(30);
/// Places that an idle queue keeps.
pub(crate) const IDLE_PLACES: usize = 64;

/// The keyspace of one service. Clones are the same one.
#[derive(Clone)]
pub struct Pipe {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) keyspace: String,
    pub(crate) ranges: Box<dyn Ranges>,
    divide: Option<Box<dyn Divide>>,
    pub(crate) clock: Box<dyn Clock>,
    pub(crate) lanes: Mutex<Lanes>,
    /// To be asked again.
    pub(crate) questions: Mutex<Vec<Question>>,
}

/// What goes to the ranges.
pub(crate) struct Lanes {
    pub(crate) known: Vec<Lane>,
    /// For keys whose range is not known.
    unrouted: Vec<Call>,
    /// When what could not be placed is tried again.
    retry_at: Option<Instant>,
}

/// What goes to one range.
pub(crate) struct Lane {
    pub(crate) route: Route,
    pub(crate) waiting: VecDeque<Call>,
    pub(crate) waiting_bytes: usize,
    /// When the oldest entry on its way was proposed, and those behind it.
    pub(crate) in_flight: VecDeque<Instant>,
    /// Came back unapplied, in order.
    pub(crate) returned: Vec<Call>,
    /// Nothing goes to where the route goes any more.
    is_elsewhere: bool,
}

pub(crate) struct Call {
    pub(crate) key: Bytes,
    pub(crate) edition: Edition,
    pub(crate) command: Bytes,
    pub(crate) submitted: Instant,
    pub(crate) done: Done,
}

impl Pipe {
    /// The keyspace called `keyspace`, with commands that are each for keys of one range, wherever it may
    /// be parted.
    pub fn new(ranges: Box<dyn Ranges>, keyspace: &str, clock: impl Clock + 'static) -> Self {
        Self::open(ranges, keyspace, None, clock)
    }

    /// The same, with commands that may be for keys of several ranges.
    pub fn dividing(
        ranges: Box<dyn Ranges>,
        keyspace: &str,
        divide: impl Divide + 'static,
        clock: impl Clock + 'static,
    ) -> Self {
        Self::open(ranges, keyspace, Some(Box::new(divide)), clock)
    }

    fn open(
        ranges: Box<dyn Ranges>,
        keyspace: &str,
        divide: Option<Box<dyn Divide>>,
        clock: impl Clock + 'static,
    ) -> Self {
        let known = ranges.routes(keyspace).into_iter().map(Lane::new).collect();
        let lanes = Mutex::new(Lanes { known, unrouted: Vec::new(), retry_at: None });
        let (keyspace, clock) = (keyspace.to_owned(), Box::new(clock));
        let questions = Mutex::default();
        Self { shared: Arc::new(Shared { keyspace, ranges, divide, clock, lanes, questions }) }
    }

    /// Tries again what is due; to be called several times a second where ranges are on several stores.
    /// A command that nobody took for half a minute is given up.
    pub fn poll(&self) {
        let now = self.shared.clock.now();
        let mut given_up = Vec::new();
        let mut lanes = self.shared.lanes.lock();
        if lanes.retry_at.take_if(|at| *at <= now).is_some() {
            self.shared.route_anew(&mut lanes, &mut given_up);
        }
        drop(lanes);
        given_up.into_iter().for_each(|call| (call.done)(Fate::Unknown));
        self.shared.ask_again(now);
    }
}

impl Keyspace for Pipe {
    fn check(&self) -> Result<(), Busy> {
        if self.shared.ranges.is_short() {
            return Err(Busy);
        }
        let lanes = self.shared.lanes.lock();
        let now = self.shared.clock.now();
        let is_late = |call: &Call| now.since(call.submitted) > BURST_BUDGET;
        let is_busy = lanes.known.iter().any(|lane| lane.is_busy(now));
        if is_busy || lanes.unrouted.first().is_some_and(is_late) { Err(Busy) } else { Ok(()) }
    }

    fn edition(&self, key: &[u8]) -> Edition {
        let lanes = self.shared.lanes.lock();
        let lane = lanes.known.iter().find(|lane| lane.range().boundary.contains(key));
        lane.map_or(Edition::FIRST, |lane| lane.range().edition)
    }

    fn submit(&self, key: &[u8], command: Bytes, done: Done) {
        self.submit_in(Edition::FIRST, key, command, done);
    }

    fn submit_in(&self, edition: Edition, key: &[u8], command: Bytes, done: Done) {
        let submitted = self.shared.clock.now();
        let call = Call { key: Bytes::copy_from_slice(key), edition, command, submitted, done };
        let mut lanes = self.shared.lanes.lock();
        self.shared.place(&mut lanes, call, submitted, |lane| self.shared.send(lane));
    }

    fn read(&self, read: &mut Read<'_>) -> Result<(), Error> {
        let lanes = self.shared.lanes.lock();
        let groups: Vec<_> = lanes.known.iter().map(Lane::group).collect();
        drop(lanes);
        groups.into_iter().try_for_each(|group| self.shared.ranges.read(group, read))
    }
}

impl Shared {
    /// Proposes what waits, as far as entries may be on their way.
    fn send(self: &Arc<Self>, lane: &mut Lane) {
        while lane.returned.is_empty()
            && !lane.is_elsewhere
            && lane.in_flight.len() < IN_FLIGHT_MAX
            && let Some((commands, calls)) = lane.cut()
        {
            lane.in_flight.push_back(calls.first().map_or(Instant::ZERO, |call| call.submitted));
            let (group, shared) = (lane.group(), Arc::clone(self));
            let answer = move |outcome| shared.answered(group, calls, outcome);
            self.ranges.propose(&lane.route, commands.into_data(), Box::new(answer));
        }
    }

    /// Puts a call where its keys belong, in parts if these are several ranges; shows each that got a part.
    fn place(&self, lanes: &mut Lanes, call: Call, now: Instant, mut got: impl FnMut(&mut Lane)) {
        let mut rest = Some(call);
        while let Some(call) = rest.take() {
            let holds = |lane: &&mut Lane| lane.route.descriptor.boundary.contains(&call.key);
            let Some(lane) = lanes.known.iter_mut().find(holds) else {
                lanes.unrouted.push(call);
                lanes.retry_soon(now);
                return;
            };
            let boundary = &lane.route.descriptor.boundary;
            let divided = self.divide.as_ref().filter(|_| *boundary != KeyRange::all());
            let divided = divided.and_then(|divide| divide.divide(&call.command, boundary));
            let inside = match divided {
                None => call,
                Some(Divided { inside, key, rest: outside }) => {
                    let Call { key: first, edition, submitted, done, .. } = call;
                    let (done, also_done) = divide::join(done);
                    let done_too = also_done;
                    rest = Some(Call { key, edition, command: outside, submitted, done: done_too });
                    Call { key: first, edition, command: inside, submitted, done }
                }
            };
            lane.push(inside);
            got(lane);
        }
    }

    /// Tells the callers of an entry, and lets the next one go.
    fn answered(self: &Arc<Self>, group: GroupId, calls: Vec<Call>, outcome: Outcome) {
        let (mut returned, mut is_elsewhere, mut seen) = (Vec::new(), false, None);
        match outcome {
            Outcome::Applied(answers) => {
                for (call, answer) in calls.into_iter().zip(answers) {
                    (call.done)(Fate::Applied(answer));
                }
            }
            Outcome::Refused(Refusal::Version(now)) => {
                seen = Some(now.version);
                self.ranges.learn(*now);
                returned = calls;
            }
            // The last three are not for commands.
            Outcome::Refused(
                Refusal::Lost
                | Refusal::NotLeader
                | Refusal::Merging
                | Refusal::Edition { .. }
                | Refusal::Split
                | Refusal::Step(_)
                | Refusal::Led,
            ) => {
                returned = calls;
                is_elsewhere = true;
            }
            Outcome::Unknown => {
                calls.into_iter().for_each(|call| (call.done)(Fate::Unknown));
                is_elsewhere = true;
            }
        }
        let mut given_up = Vec::new();
        let mut lanes = self.lanes.lock();
        let Some(place) = lanes.known.iter().position(|lane| lane.group() == group) else {
            return;
        };
        // Whoever is behind what is known comes to it by itself.
        let known = lanes.known[place].route.descriptor.version;
        is_elsewhere |= seen.is_some_and(|seen| seen < known);
        if is_elsewhere {
            lanes.retry_soon(self.clock.now());
        }
        let lane = &mut lanes.known[place];
        lane.in_flight.pop_front();
        lane.returned.append(&mut returned);
        lane.is_elsewhere |= is_elsewhere;
        if lane.returned.is_empty() && !lane.is_elsewhere {
            self.send(lane);
            lane.rest();
        } else if lane.in_flight.is_empty() && !lane.is_elsewhere {
            self.route_anew(&mut lanes, &mut given_up);
        }
        drop(lanes);
        given_up.into_iter().for_each(|call| (call.done)(Fate::Unknown));
    }

    /// Takes over the ranges as they are now, and sorts what waits by them; what waits for too long is given
    /// up.
    fn route_anew(self: &Arc<Self>, lanes: &mut Lanes, given_up: &mut Vec<Call>) {
        let now = self.clock.now();
        let (mut calls, mut kept) = (Vec::new(), Vec::new());
        for mut lane in lanes.known.drain(..) {
            // What others have on its way returns by itself.
            if lane.in_flight.is_empty() {
                calls.append(&mut lane.returned);
                calls.extend(lane.waiting.drain(..));
            } else {
                kept.push(lane);
            }
        }
        calls.append(&mut lanes.unrouted);
        let is_kept = |group| kept.iter().any(|lane: &Lane| lane.group() == group);
        let routes = self.ranges.routes(&self.keyspace).into_iter();
        let fresh = routes.filter(|route| !is_kept(route.descriptor.group)).map(Lane::new);
        lanes.known = fresh.collect();
        if kept.iter().any(|lane| lane.is_elsewhere) {
            lanes.retry_soon(now);
        }
        lanes.known.append(&mut kept);
        lanes.known.sort_by(|one, two| one.start().cmp(two.start()));
        for call in calls {
            match now.since(call.submitted) > TRIED {
                true => given_up.push(call),
                false => self.place(lanes, call, now, |_| {}),
            }
        }
        lanes.known.iter_mut().for_each(|lane| self.send(lane));
    }
}

impl Lanes {
    fn retry_soon(&mut self, now: Instant) {
        self.retry_at.get_or_insert(now + RETRY);
    }
}

impl Lane {
    pub(crate) fn new(route: Route) -> Self {
        Self {
            route,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: VecDeque::new(),
            returned: Vec::new(),
            is_elsewhere: false,
        }
    }

    fn group(&self) -> GroupId {
        self.route.descriptor.group
    }

    fn range(&self) -> &Descriptor {
        &self.route.descriptor
    }

    fn start(&self) -> &Bytes {
        &self.range().boundary.start
    }

    pub(crate) fn push(&mut self, call: Call) {
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
    pub(crate) fn cut(&mut self) -> Option<(Commands, Vec<Call>)> {
        let edition = self.waiting.front()?.edition;
        let mut commands = Commands::in_edition(self.range().version, edition);
        let mut calls = Vec::new();
        while commands.size_bytes() < ENTRY_BYTES
            && let Some(call) = self.waiting.pop_front_if(|call| call.edition == edition)
        {
            self.waiting_bytes -= call.command.len();
            commands.push(&call.command);
            calls.push(call);
        }
        Some((commands, calls))
    }

    /// Gives memory back once nothing waits. SCH-005
    pub(crate) fn rest(&mut self) {
        if self.waiting.is_empty() {
            self.waiting.shrink_to(IDLE_PLACES);
        }
    }
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Pipe")
            .field("keyspace", &self.shared.keyspace)
            .finish_non_exhaustive()
    }
}

//! From commands to entries: in order, many to an entry, few entries at once.
//!
//! What is submitted while entries are on their way waits and goes together with the next one. So a
//! lone command waits for nobody, and under load as many share an fsync as came during the last.
//! SCH-001, SCH-004
//!
//! A range that has changed refuses the entries that were meant for what it was, and a store those of
//! ranges that it does not lead. They are cut anew once all that were on their way are back, so that the
//! order holds; where it is not known yet who leads the range, or which it is, they wait for a while. KV-002
//!
//! What is in doubt is told so, or goes again, as the keyspace's commands are. One that goes again has behind it
//! whatever was submitted later for its range, also if that was carried out: nobody is told of that before. So
//! nothing that was acknowledged gives way to something older. Whoever waits for too long is told, and meanwhile
//! nobody is to submit more ([`Keyspace::check`]): soon, where a leader is slow; late, where there is none, since
//! another one takes what waits all at once. KV-005

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_clock::{Clock, Instant};
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::edition::Edition;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;

use crate::divide::{self, Divide, Divided};
use crate::lane::{
    Answered, BURST_BUDGET, Call, FAILOVER_BUDGET, IN_FLIGHT_MAX, Lane, WAITING_BYTES_MAX,
};
use crate::question::Question;
use crate::ranges::{Outcome, Ranges};
use crate::{Busy, Done, Fate, Keyspace, Read};

/// How long to wait before what nobody takes is tried again.
pub(crate) const RETRY: Duration = Duration::from_millis(50);
/// How long a command is tried.
pub(crate) const TRIED: Duration = Duration::from_secs(30);

const _: () = assert!(
    FAILOVER_BUDGET.as_secs() < TRIED.as_secs(),
    "more is refused before what waits is given up"
);

/// The keyspace of one service. Clones are the same one.
#[derive(Clone)]
pub struct Pipe {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) keyspace: String,
    pub(crate) ranges: Box<dyn Ranges>,
    divide: Option<Box<dyn Divide>>,
    doubt: Doubt,
    pub(crate) clock: Box<dyn Clock>,
    pub(crate) lanes: Mutex<Lanes>,
    /// To be asked again.
    pub(crate) questions: Mutex<Vec<Question>>,
    /// How many commands in doubt went again.
    repeated: Arc<AtomicU64>,
}

/// What becomes of a command that is in doubt.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Doubt {
    /// Its caller is told.
    Told,
    /// It goes again.
    Repeated,
}

/// What goes to the ranges.
pub(crate) struct Lanes {
    /// The older before the newer, then by their keys.
    pub(crate) known: Vec<Lane>,
    /// How often the ranges were looked at.
    looks: u64,
    /// For keys whose range is not known.
    unrouted: Vec<Call>,
    unrouted_bytes: usize,
    /// When what could not be placed is tried again.
    retry_at: Option<Instant>,
    /// Ranges that took nothing the last time, as nobody led them whom this pipe knew.
    headless: BTreeSet<GroupId>,
}

impl Pipe {
    /// The keyspace called `keyspace`, with commands that are each for keys of one range, wherever it may
    /// be parted.
    pub fn new(ranges: Box<dyn Ranges>, keyspace: &str, clock: impl Clock + 'static) -> Self {
        Self::open(ranges, keyspace, (None, Doubt::Told), clock)
    }

    /// The same, with commands that may be for keys of several ranges.
    pub fn dividing(
        ranges: Box<dyn Ranges>,
        keyspace: &str,
        divide: impl Divide + 'static,
        clock: impl Clock + 'static,
    ) -> Self {
        Self::open(ranges, keyspace, (Some(Box::new(divide)), Doubt::Told), clock)
    }

    /// The same, with commands that may be carried out twice: the last one of a key decides, whatever came
    /// before it. One in doubt goes again, with all that was submitted behind it, until it is done or half a
    /// minute is over. To be [polled](Self::poll).
    pub fn repeating(
        ranges: Box<dyn Ranges>,
        keyspace: &str,
        divide: impl Divide + 'static,
        clock: impl Clock + 'static,
    ) -> Self {
        Self::open(ranges, keyspace, (Some(Box::new(divide)), Doubt::Repeated), clock)
    }

    fn open(
        ranges: Box<dyn Ranges>,
        keyspace: &str,
        (divide, doubt): (Option<Box<dyn Divide>>, Doubt),
        clock: impl Clock + 'static,
    ) -> Self {
        let known = ranges.routes(keyspace).into_iter().map(Lane::new).collect();
        let (unrouted, unrouted_bytes) = (Vec::new(), 0);
        let headless = BTreeSet::new();
        let lanes = Lanes { known, looks: 0, unrouted, unrouted_bytes, retry_at: None, headless };
        let shared = Shared {
            keyspace: keyspace.to_owned(),
            ranges,
            divide,
            doubt,
            clock: Box::new(clock),
            lanes: Mutex::new(lanes),
            questions: Mutex::default(),
            repeated: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Counts the commands that went again although they may have been carried out.
    #[must_use]
    pub fn repeated(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.repeated)
    }

    /// Tries again what is due; to be called several times a second where ranges are on several stores.
    /// A command that was not carried out for half a minute is given up.
    pub fn poll(&self) {
        let now = self.shared.clock.now();
        let mut given_up = Vec::new();
        let mut lanes = self.shared.lanes.lock();
        if lanes.retry_at.take_if(|at| *at <= now).is_some() {
            self.shared.route_anew(&mut lanes, &mut given_up);
        }
        drop(lanes);
        given_up.into_iter().for_each(Call::give_up);
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
        let is_late = |call: &Call| now.since(call.submitted) > FAILOVER_BUDGET;
        let waiting: usize = lanes.known.iter().map(|lane| lane.waiting_bytes).sum();
        let is_busy = waiting + lanes.unrouted_bytes > WAITING_BYTES_MAX
            || lanes.unrouted.first().is_some_and(is_late)
            || lanes.known.iter().any(|lane| lane.is_busy(now, lanes.budget(lane.group())));
        if is_busy { Err(Busy) } else { Ok(()) }
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
        let key = Bytes::copy_from_slice(key);
        let call = Call { key, edition, command, submitted, is_in_doubt: false, done };
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
        while !lane.is_back()
            && !lane.is_elsewhere
            && lane.in_flight.len() < IN_FLIGHT_MAX
            && let Some((commands, calls)) = lane.cut()
        {
            let again = calls.iter().filter(|call| call.is_in_doubt).count() as u64;
            self.repeated.fetch_add(again, Ordering::Relaxed);
            let (group, number, shared) = (lane.group(), lane.begin(&calls), Arc::clone(self));
            let answer = move |outcome| shared.answered(group, number, Answered { calls, outcome });
            self.ranges.propose(&lane.route, commands.into_data(), Box::new(answer));
        }
    }

    /// Puts a call where its keys belong, in parts if these are several ranges; shows each that got a part.
    fn place(&self, lanes: &mut Lanes, call: Call, now: Instant, mut got: impl FnMut(&mut Lane)) {
        let mut rest = Some(call);
        while let Some(call) = rest.take() {
            let (place, boundary) = lanes.place_of(&call.key);
            let divided = self.divide.as_ref().filter(|_| boundary != KeyRange::all());
            let divided = divided.and_then(|divide| divide.divide(&call.command, &boundary));
            let inside = match divided {
                None => call,
                Some(Divided { inside, key, rest: outside }) => {
                    let (done, also_done) = divide::join(call.done);
                    rest = Some(Call { key, command: outside, done: also_done, ..call });
                    Call { command: inside, done, ..call }
                }
            };
            let Some(lane) = place.map(|place| &mut lanes.known[place]) else {
                lanes.unrouted_bytes += inside.command.len();
                lanes.unrouted.push(inside);
                lanes.retry_soon(now);
                continue;
            };
            lane.push(inside);
            got(lane);
        }
    }

    /// An entry has its outcome, perhaps before one that was sent earlier; that is waited for.
    fn answered(self: &Arc<Self>, group: GroupId, number: u64, answered: Answered) {
        let mut lanes = self.lanes.lock();
        let lane = lanes.known.iter_mut().find(|lane| lane.group() == group);
        // What is on its way keeps its lane.
        debug_assert!(lane.is_some(), "an entry of {group:?} has no lane");
        let mut next = lane.and_then(|lane| Some((lane.hear(number, answered)?, lane.is_back())));
        drop(lanes);
        while let Some((answered, is_behind)) = next.take() {
            next = self.conclude(group, answered, is_behind);
        }
    }

    /// Tells the callers of the oldest entry, and lets others go. If it `is_behind` one that goes again, so does
    /// it. Answers the entry behind it, if that has its outcome.
    fn conclude(
        self: &Arc<Self>,
        group: GroupId,
        Answered { calls, outcome }: Answered,
        is_behind: bool,
    ) -> Option<(Answered, bool)> {
        let repeats = self.doubt == Doubt::Repeated;
        let (mut returned, mut is_elsewhere, mut seen) = (Vec::new(), false, None);
        let is_led = matches!(&outcome, Outcome::Applied(_));
        match outcome {
            Outcome::Applied(_) if repeats && is_behind => returned = in_doubt(calls),
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
                is_elsewhere = true;
                match repeats {
                    true => returned = in_doubt(calls),
                    false => calls.into_iter().for_each(Call::doubt),
                }
            }
        }
        let mut given_up = Vec::new();
        let mut lanes = self.lanes.lock();
        let place = lanes.known.iter().position(|lane| lane.group() == group)?;
        // Whoever is behind what is known comes to it by itself.
        let known = lanes.known[place].range().version;
        is_elsewhere |= seen.is_some_and(|seen| seen < known);
        if is_elsewhere {
            lanes.retry_soon(self.clock.now());
            lanes.headless.insert(group);
        } else if is_led {
            lanes.headless.remove(&group);
        }
        let lane = &mut lanes.known[place];
        lane.returned.append(&mut returned);
        lane.is_elsewhere |= is_elsewhere;
        let next = lane.advance().map(|next| (next, lane.is_back()));
        if !lane.is_back() && !lane.is_elsewhere {
            self.send(lane);
            lane.rest();
        } else if lane.in_flight.is_empty() && !lane.is_elsewhere {
            self.route_anew(&mut lanes, &mut given_up);
        }
        drop(lanes);
        given_up.into_iter().for_each(Call::give_up);
        next
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
        (lanes.unrouted_bytes, lanes.looks) = (0, lanes.looks + 1);
        let look = lanes.looks;
        let fresh = |route| {
            let mut lane = Lane::new(route);
            lane.found = look;
            lane
        };
        let is_kept = |group| kept.iter().any(|lane: &Lane| lane.group() == group);
        let routes = self.ranges.routes(&self.keyspace).into_iter();
        lanes.known = routes.filter(|route| !is_kept(route.descriptor.group)).map(fresh).collect();
        if kept.iter().any(|lane| lane.is_elsewhere) {
            lanes.retry_soon(now);
        }
        lanes.known.append(&mut kept);
        let Lanes { known, headless, .. } = &mut *lanes;
        headless.retain(|group| known.iter().any(|lane| lane.group() == *group));
        lanes.known.sort_by(|one, two| (one.found, one.start()).cmp(&(two.found, two.start())));
        for call in calls {
            if now.since(call.submitted) > TRIED {
                given_up.push(call);
                continue;
            }
            self.place(lanes, call, now, |_| {});
        }
        lanes.known.iter_mut().for_each(|lane| self.send(lane));
    }
}

impl Lanes {
    /// The lane that has a key, if one has, and the keys around it that are in the same place. While ranges
    /// change two may be known that have a key: it is the older one's, until nothing of that is on its way.
    fn place_of(&self, key: &[u8]) -> (Option<usize>, KeyRange) {
        let place = self.known.iter().position(|lane| lane.range().boundary.contains(key));
        let lane = place.map(|place| &self.known[place]);
        let mut held = lane.map_or_else(KeyRange::all, |lane| lane.range().boundary.clone());
        let is_before = |other: &&Lane| lane.is_none_or(|lane| other.found < lane.found);
        let older = self.known.iter().take_while(is_before);
        for KeyRange { start, end } in older.map(|older| &older.range().boundary) {
            match end {
                Some(end) if &end[..] <= key => held.start = held.start.max(end.clone()),
                _ if held.end.as_ref().is_none_or(|last| start < last) => {
                    held.end = Some(start.clone());
                }
                _ => {}
            }
        }
        (place, held)
    }

    /// How long what goes to a range may wait before no more is taken.
    fn budget(&self, group: GroupId) -> Duration {
        if self.headless.contains(&group) { FAILOVER_BUDGET } else { BURST_BUDGET }
    }

    fn retry_soon(&mut self, now: Instant) {
        self.retry_at.get_or_insert(now + RETRY);
    }
}

/// Calls that may have been carried out.
fn in_doubt(mut calls: Vec<Call>) -> Vec<Call> {
    calls.iter_mut().for_each(|call| call.is_in_doubt = true);
    calls
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Pipe")
            .field("keyspace", &self.shared.keyspace)
            .finish_non_exhaustive()
    }
}

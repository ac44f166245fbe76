//! Commands under one reign: to the store at hand, in the term that they were decided in, or never.
//!
//! Order and batches are those of a [`Pipe`](crate::Pipe). But nothing is tried elsewhere or later: what the
//! range's group does not take in this term, or what the range refuses because its boundary is another, has
//! an unknown fate, and so has all that is behind it. So between the data that the owner of the reign began
//! with, and what he submits, there is nobody else's command. A change of the range's members alone makes
//! its version newer, and what it refuses goes again, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_clock::{Clock, Instant};
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::coprocessor::Reign;
use ratatosk_store::edition::Edition;
use ratatosk_store::host::Refusal;
use ratatosk_store::range::Descriptor;

use crate::lane::{BURST_BUDGET, Call, IN_FLIGHT_MAX, Lane};
use crate::reigns::{Home, Realm};
use crate::{Busy, Done, Fate, Keyspace, Outcome, Read, Route};

/// A term that no group is in.
const NO_TERM: u64 = 0;

/// The way of commands under a reign. Clones are the same one.
#[derive(Clone)]
pub struct ReignPipe {
    shared: Arc<Shared>,
}

struct Shared {
    term: u64,
    /// As it was when the reign began.
    range: Descriptor,
    realm: Arc<dyn Realm>,
    home: Home,
    clock: Arc<dyn Clock>,
    way: Mutex<Way>,
}

struct Way {
    lane: Lane,
    /// Nothing more is carried out.
    is_over: bool,
}

impl ReignPipe {
    pub(crate) fn new(
        reign: &Reign,
        realm: Arc<dyn Realm>,
        home: Home,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let lane = Lane::new(Route::here(reign.range.clone()));
        let way = Mutex::new(Way { lane, is_over: false });
        let (term, range) = (reign.term, reign.range.clone());
        Self { shared: Arc::new(Shared { term, range, realm, home, clock, way }) }
    }

    /// The term of the reign.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.shared.term
    }

    /// The range, as it was when the reign began; its boundary is the same as long as the reign lasts.
    #[must_use]
    pub fn range(&self) -> &Descriptor {
        &self.shared.range
    }

    /// Whether the other is the same reign.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Whether it is known to be over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.way.lock().is_over
    }

    /// Shows the data of some keys; says whether it could. The store's readers may be a moment behind the
    /// beginning of a reign, which is to be tried again; or the reign is over.
    ///
    /// # Errors
    /// The engine's, or those of `read`.
    pub fn read_keys(&self, keys: &KeyRange, read: &mut Read<'_>) -> Result<bool, Error> {
        self.shared.realm.read_whole(self.shared.range.group, keys, read)
    }

    /// Nothing more goes. Whoever waits is told once those before have been.
    pub(crate) fn end(&self) {
        let mut way = self.shared.way.lock();
        way.is_over = true;
        if way.lane.in_flight.is_empty() {
            let left = way.take_left();
            self.refuse(left);
        }
    }

    /// Has a thread of the store tell that the fate of calls is not known.
    fn refuse(&self, calls: Vec<Call>) {
        if !calls.is_empty() {
            let answer = Box::new(move |_| calls.into_iter().for_each(Call::doubt));
            self.shared.realm.propose_in(NO_TERM, self.shared.range.group, Vec::new(), answer);
        }
    }

    /// Proposes what waits, as far as entries may be on their way.
    fn send(&self, lane: &mut Lane) {
        while !lane.is_back()
            && lane.in_flight.len() < IN_FLIGHT_MAX
            && let Some((commands, calls)) = lane.cut()
        {
            lane.in_flight.push_back(calls.first().map_or(Instant::ZERO, |call| call.submitted));
            let pipe = self.clone();
            let answer = Box::new(move |outcome| pipe.answered(calls, outcome));
            let Shared { term, range, realm, .. } = &*self.shared;
            realm.propose_in(*term, range.group, commands.into_data(), answer);
        }
    }

    /// Tells the callers of an entry, and lets the next one go.
    fn answered(&self, calls: Vec<Call>, outcome: Outcome) {
        let mut returned = Vec::new();
        let mut newer = None;
        let mut is_over = false;
        match outcome {
            Outcome::Applied(answers) => {
                for (call, answer) in calls.into_iter().zip(answers) {
                    (call.done)(Fate::Applied(answer));
                }
            }
            Outcome::Refused(Refusal::Version(now)) if self.is_same(&now) => {
                returned = calls;
                newer = Some(*now);
            }
            Outcome::Refused(_) | Outcome::Unknown => {
                calls.into_iter().for_each(Call::doubt);
                is_over = true;
            }
        }
        let mut way = self.shared.way.lock();
        let has_ended = is_over && !way.is_over;
        way.is_over |= is_over;
        let lane = &mut way.lane;
        lane.in_flight.pop_front();
        lane.returned.append(&mut returned);
        if let Some(now) = newer {
            let held = &mut lane.route.descriptor;
            if now.version > held.version {
                *held = now;
            }
        }
        let mut left = Vec::new();
        if way.is_over {
            if way.lane.in_flight.is_empty() {
                left = way.take_left();
            }
        } else if !way.lane.is_back() {
            self.send(&mut way.lane);
            way.lane.rest();
        } else if way.lane.in_flight.is_empty() {
            way.lane.bring_back();
            self.send(&mut way.lane);
        }
        drop(way);
        left.into_iter().for_each(Call::doubt);
        if has_ended {
            self.shared.home.tell_end(self);
        }
    }

    /// Whether a range is the one of the reign, with other members at most.
    fn is_same(&self, now: &Descriptor) -> bool {
        let held = &self.shared.range;
        now.version.boundary == held.version.boundary && now.frozen.is_none()
    }
}

impl Way {
    /// What was not answered, in order.
    fn take_left(&mut self) -> Vec<Call> {
        self.lane.bring_back();
        self.lane.waiting_bytes = 0;
        std::mem::take(&mut self.lane.waiting).into()
    }
}

impl Keyspace for ReignPipe {
    /// Also [`Busy`] once the reign is over.
    fn check(&self) -> Result<(), Busy> {
        if self.shared.realm.is_short() {
            return Err(Busy);
        }
        let way = self.shared.way.lock();
        let is_busy = way.is_over || way.lane.is_busy(self.shared.clock.now(), BURST_BUDGET);
        if is_busy { Err(Busy) } else { Ok(()) }
    }

    fn edition(&self, _key: &[u8]) -> Edition {
        self.shared.way.lock().lane.route.descriptor.edition
    }

    fn submit(&self, key: &[u8], command: Bytes, done: Done) {
        self.submit_in(Edition::FIRST, key, command, done);
    }

    fn submit_in(&self, edition: Edition, key: &[u8], command: Bytes, done: Done) {
        debug_assert!(self.shared.range.boundary.contains(key), "it is a key of the range");
        let submitted = self.shared.clock.now();
        let key = Bytes::copy_from_slice(key);
        let call = Call { key, edition, command, submitted, is_in_doubt: false, done };
        let mut way = self.shared.way.lock();
        if way.is_over && way.lane.in_flight.is_empty() {
            return self.refuse(vec![call]);
        }
        way.lane.push(call);
        if !way.is_over {
            self.send(&mut way.lane);
        }
    }

    fn read(&self, read: &mut Read<'_>) -> Result<(), Error> {
        self.read_keys(&self.shared.range.boundary, read).map(drop)
    }
}

impl Lane {
    /// Puts what came back before what waits.
    fn bring_back(&mut self) {
        let returned = std::mem::take(&mut self.returned);
        self.waiting_bytes += returned.iter().map(|call| call.command.len()).sum::<usize>();
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting = VecDeque::from(returned);
        self.waiting.extend(waiting);
    }
}

impl std::fmt::Debug for ReignPipe {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shared { term, range, .. } = &*self.shared;
        formatter.debug_struct("ReignPipe").field("term", term).field("range", range).finish()
    }
}

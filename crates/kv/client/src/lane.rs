//! What goes to one range: the commands that wait, the entries on their way, and what came back.
//!
//! Entries have their outcome in the order in which they were sent, also if they are answered in another one. So
//! whoever looks at an outcome knows what became of everything before it.
//!
//! Invariants: what came back was submitted before what is on its way, and that before what waits; what is early is
//! on its way.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_store::command::Commands;
use ratatosk_store::edition::Edition;
use ratatosk_store::log::GroupId;
use ratatosk_store::range::Descriptor;

use crate::{Done, Fate, Outcome, Route};

/// Entries of a range on their way at once: one is applied while the next is written.
pub(crate) const IN_FLIGHT_MAX: usize = 2;
/// Bytes from which on an entry takes no more commands.
const ENTRY_BYTES: usize = 512 << 10;
/// A command that is not done for so long shows that what is submitted now would take as long.
/// SCH-003
pub(crate) const BURST_BUDGET: Duration = Duration::from_secs(5);
/// The same where nobody leads the range: what waits is done as soon as somebody does. SCH-003
pub(crate) const FAILOVER_BUDGET: Duration = Duration::from_secs(25);
/// Bytes that may wait, whatever the time.
pub(crate) const WAITING_BYTES_MAX: usize = 64 << 20;
/// Places that an idle queue keeps.
pub(crate) const IDLE_PLACES: usize = 64;

/// See the module.
pub(crate) struct Lane {
    pub(crate) route: Route,
    pub(crate) waiting: VecDeque<Call>,
    pub(crate) waiting_bytes: usize,
    /// When the oldest entry on its way was proposed, and those behind it.
    pub(crate) in_flight: VecDeque<Instant>,
    /// Came back unapplied, in order.
    pub(crate) returned: Vec<Call>,
    /// Nothing goes to where the route goes any more.
    pub(crate) is_elsewhere: bool,
    /// In which look at the ranges it was found.
    pub(crate) found: u64,
    /// The number of the oldest entry on its way.
    first: u64,
    /// Answered before others that were sent before them, with their numbers.
    early: Vec<(u64, Answered)>,
}

/// An entry with its outcome.
pub(crate) struct Answered {
    pub(crate) calls: Vec<Call>,
    pub(crate) outcome: Outcome,
}

/// A command, and who is told of it.
pub(crate) struct Call {
    pub(crate) key: Bytes,
    pub(crate) edition: Edition,
    pub(crate) command: Bytes,
    pub(crate) submitted: Instant,
    /// It may have been carried out already.
    pub(crate) is_in_doubt: bool,
    pub(crate) done: Done,
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
            found: 0,
            first: 0,
            early: Vec::new(),
        }
    }

    pub(crate) fn group(&self) -> GroupId {
        self.route.descriptor.group
    }

    pub(crate) fn range(&self) -> &Descriptor {
        &self.route.descriptor
    }

    pub(crate) fn start(&self) -> &Bytes {
        &self.range().boundary.start
    }

    /// Whether something came back that goes before all else.
    pub(crate) fn is_back(&self) -> bool {
        !self.returned.is_empty()
    }

    pub(crate) fn push(&mut self, call: Call) {
        self.waiting_bytes += call.command.len();
        self.waiting.push_back(call);
    }

    pub(crate) fn is_busy(&self, now: Instant, budget: Duration) -> bool {
        self.waiting_bytes > WAITING_BYTES_MAX
            || self.oldest().is_some_and(|oldest| now.since(oldest) > budget)
    }

    /// When the oldest command that is not done was submitted.
    fn oldest(&self) -> Option<Instant> {
        let returned = self.returned.first().map(|call| call.submitted);
        let on_its_way = self.in_flight.front().copied();
        returned.or(on_its_way).or_else(|| self.waiting.front().map(|call| call.submitted))
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

    /// An entry is on its way from now on; answers its number.
    pub(crate) fn begin(&mut self, calls: &[Call]) -> u64 {
        self.in_flight.push_back(calls.first().map_or(Instant::ZERO, |call| call.submitted));
        self.first + self.in_flight.len() as u64 - 1
    }

    /// An entry has its outcome: answers it if it is the oldest one, and keeps it otherwise.
    pub(crate) fn hear(&mut self, number: u64, answered: Answered) -> Option<Answered> {
        debug_assert!(number >= self.first, "it has one outcome");
        if number == self.first {
            return Some(answered);
        }
        self.early.push((number, answered));
        None
    }

    /// The oldest entry is over. Answers the one behind it, if it has its outcome.
    pub(crate) fn advance(&mut self) -> Option<Answered> {
        self.in_flight.pop_front();
        self.first += 1;
        let place = self.early.iter().position(|(number, _)| *number == self.first)?;
        Some(self.early.swap_remove(place).1)
    }

    /// Gives memory back once nothing waits. SCH-005
    pub(crate) fn rest(&mut self) {
        if self.waiting.is_empty() {
            self.waiting.shrink_to(IDLE_PLACES);
        }
    }
}

impl Call {
    /// Nobody knows what became of it.
    pub(crate) fn doubt(self) {
        (self.done)(Fate::Unknown);
    }

    /// It is not tried any more.
    pub(crate) fn give_up(self) {
        (self.done)(if self.is_in_doubt { Fate::Unknown } else { Fate::Refused });
    }
}

//! What persistent sessions and wills should be: a naive copy of what the inbox promises.
//!
//! A state is what a crash would leave if it came now and everything was durable; it is cheap to
//! clone, for there is one after every decision.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ratatosk_contract::inbox::WillId;

/// The clients with a persistent session.
pub(crate) const CLIENTS: [&str; 4] = ["c", "d", "e", "f"];
/// The filters that they subscribe to, and the topics that are published.
pub(crate) const FILTERS: [&str; 3] = ["a", "b/#", "+/c"];
pub(crate) const TOPICS: [&str; 3] = ["a", "b/c", "b/d"];

/// Whether a filter has a topic, each by its place.
pub(crate) fn matches(filter: usize, topic: usize) -> bool {
    matches!((filter, topic), (0, 0) | (1, 1 | 2) | (2, 1))
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// By the place of the client.
    pub(crate) sessions: BTreeMap<usize, Rc<Session>>,
    /// By their payload, which no other has.
    pub(crate) wills: BTreeMap<String, Will>,
}

/// A persistent session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) inbox: u64,
    pub(crate) version: u64,
    pub(crate) expiry_s: Option<u32>,
    /// When it lost its connection.
    pub(crate) detached_ms: Option<u64>,
    /// The QoS by the place of the filter.
    pub(crate) subscriptions: BTreeMap<usize, u8>,
    pub(crate) inbound: BTreeSet<u16>,
    pub(crate) queue: BTreeMap<u64, Queued>,
    pub(crate) next: u64,
}

/// An entry of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) payload: String,
    pub(crate) qos: u8,
    pub(crate) is_received: bool,
    pub(crate) deadline_ms: Option<u64>,
    /// The number of the state in which it is there for the first time.
    pub(crate) since: usize,
}

/// A will that is kept.
#[derive(Clone, Debug)]
pub(crate) struct Will {
    /// `None`: of a transient session.
    pub(crate) inbox: Option<u64>,
    pub(crate) delay_s: u32,
    /// As it is stored.
    pub(crate) stored_due_ms: Option<u64>,
    /// In this process; `None` while the connection is there.
    pub(crate) due_ms: Option<u64>,
    /// Set once it was handed out, or if its client may withdraw it.
    pub(crate) id: Option<WillId>,
    pub(crate) is_handed_out: bool,
}

impl Session {
    /// When it ends if it loses its connection at `now_ms`, or did before.
    pub(crate) fn due_ms(&self, now_ms: u64) -> Option<u64> {
        let expiry_s = self.expiry_s.filter(|expiry_s| *expiry_s != u32::MAX)?;
        Some(self.detached_ms.unwrap_or(now_ms) + u64::from(expiry_s) * 1_000)
    }

    /// Whether its time is over.
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        self.detached_ms.is_some() && self.due_ms(now_ms).is_some_and(|due| due <= now_ms)
    }

    /// How long a will with this delay waits.
    pub(crate) fn wait_ms(&self, delay_s: u32) -> u64 {
        let lifetime_s = self.expiry_s.unwrap_or(u32::MAX);
        u64::from(lifetime_s.min(delay_s)) * 1_000
    }
}

impl Ledger {
    /// Changes a session, if it is there.
    pub(crate) fn session(&mut self, client: usize) -> Option<&mut Session> {
        self.sessions.get_mut(&client).map(Rc::make_mut)
    }

    /// Takes a session away because its client starts anew, with wills that are not due yet.
    pub(crate) fn replace(&mut self, client: usize, now_ms: u64) {
        self.cancel(client, now_ms);
        self.sessions.remove(&client);
    }

    /// A client is back, or starts anew: its wills that are not due are not published.
    pub(crate) fn cancel(&mut self, client: usize, now_ms: u64) {
        let Some(inbox) = self.sessions.get(&client).map(|session| session.inbox) else { return };
        self.wills.retain(|_, will| {
            will.inbox != Some(inbox)
                || will.is_handed_out
                || will.due_ms.is_some_and(|due| due <= now_ms)
        });
    }

    /// The will of the connection that a client has.
    pub(crate) fn held_will(&self, client: usize) -> Option<String> {
        let inbox = self.sessions.get(&client)?.inbox;
        let is_held = |will: &Will| will.inbox == Some(inbox) && will.due_ms.is_none();
        self.wills.iter().find(|(_, will)| is_held(will)).map(|(text, _)| text.clone())
    }

    /// Who is to have a message of a topic, by session and filter.
    pub(crate) fn receivers(&self, topic: usize) -> BTreeSet<(u64, usize)> {
        let of = |session: &Rc<Session>| {
            let (inbox, filters) = (session.inbox, session.subscriptions.clone());
            let filters = filters.into_keys().filter(move |filter| matches(*filter, topic));
            filters.map(move |filter| (inbox, filter))
        };
        self.sessions.values().flat_map(of).collect()
    }

    /// The same state in a process that begins: nobody is connected, and what waits is due from
    /// now on.
    pub(crate) fn restarted(&self, now_ms: u64) -> Self {
        let mut ledger = self.clone();
        for will in ledger.wills.values_mut() {
            will.due_ms = Some(self.will_due_ms(will, now_ms));
            (will.id, will.is_handed_out) = (None, false);
        }
        for session in ledger.sessions.values_mut() {
            for queued in Rc::make_mut(session).queue.values_mut() {
                queued.since = 0;
            }
        }
        ledger
    }

    /// When a will is due in a process that begins.
    pub(crate) fn will_due_ms(&self, will: &Will, now_ms: u64) -> u64 {
        let session = self.sessions.values().find(|session| Some(session.inbox) == will.inbox);
        match (will.stored_due_ms, session) {
            (Some(due), _) => due,
            (None, Some(session)) => {
                session.detached_ms.unwrap_or(now_ms) + session.wait_ms(will.delay_s)
            }
            (None, None) if will.inbox.is_none() => now_ms + u64::from(will.delay_s) * 1_000,
            (None, None) => now_ms,
        }
    }

    /// Every moment at which something ends or is due in a process that begins.
    pub(crate) fn moments(&self, now_ms: u64) -> BTreeSet<u64> {
        let ends = self.sessions.values().filter_map(|session| session.due_ms(now_ms));
        let dues = self.wills.values().map(|will| self.will_due_ms(will, now_ms));
        ends.chain(dues).collect()
    }

    /// How many sessions are left in such a process at a moment, and which wills were handed out.
    pub(crate) fn foreseen(&self, now_ms: u64, at_ms: u64) -> (usize, BTreeSet<String>) {
        let is_left = |session: &&Rc<Session>| session.due_ms(now_ms).is_none_or(|due| due > at_ms);
        let is_out = |will: &Will| self.will_due_ms(will, now_ms) <= at_ms;
        let wills = self.wills.iter().filter(|(_, will)| is_out(will));
        let wills = wills.map(|(text, _)| text.clone()).collect();
        (self.sessions.values().filter(is_left).count(), wills)
    }
}

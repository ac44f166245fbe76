//! The images of what another store tells: what is known of its groups, which is asked for, and its word,
//! which comes by itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_balance::landscape::{Reach, Report, Store};
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_engine::wire::{self, Malformed};
use ratatosk_rpc::{Error, Sender};
use ratatosk_store::log::GroupId;
use ratatosk_store::machine::Status;
use ratatosk_store::node::Told;
use tokio::sync::Notify;

use crate::mirror::Note;
use crate::proto::Frame;
use crate::record::{Head, Room, decode_report, decode_status};
use crate::talk::{Speech, Talk, send};

/// Questions that wait for an answer; with more the oldest is forgotten.
const WAITING_MAX: usize = 64;

/// What is known of the groups of another store.
#[derive(Default)]
pub(crate) struct StatusImage {
    state: Mutex<Statuses>,
    asked: Notify,
}

#[derive(Default)]
struct Statuses {
    room: Room,
    groups: BTreeMap<GroupId, Status>,
    /// The number of the last question.
    last_asked: u64,
    waiting: BTreeMap<u64, Told>,
    is_open: bool,
}

impl StatusImage {
    /// Has somebody told what is known, if the store can be reached.
    pub(crate) fn ask(&self, told: Told) {
        let mut state = self.state.lock();
        if !state.is_open {
            return;
        }
        state.last_asked += 1;
        let number = state.last_asked;
        state.waiting.insert(number, told);
        let forgotten = (state.waiting.len() > WAITING_MAX).then(|| state.waiting.pop_first());
        drop(state);
        drop(forgotten);
        self.asked.notify_one();
    }

    /// Whether the store takes nothing, as far as it can be reached.
    pub(crate) fn is_short(&self) -> bool {
        let state = self.state.lock();
        state.is_open && state.room.is_short
    }
}

impl Talk for StatusImage {
    fn speak(&self, questions: Sender<Frame>) -> Speech<'_> {
        self.state.lock().is_open = true;
        Box::pin(async move {
            let mut sent = 0;
            loop {
                let asked = self.asked.notified();
                let last = self.state.lock().last_asked;
                // One question is enough for all that came before it.
                if last == sent {
                    asked.await;
                    continue;
                }
                sent = last;
                let mut question = Vec::new();
                wire::put_u64(&mut question, last);
                if !send(&questions, question.into()).await {
                    return;
                }
            }
        })
    }

    fn hear(&self, data: &Bytes) -> Result<(), Malformed> {
        let note = Note::decode(data)?;
        let mut state = self.state.lock();
        state.room = Room::decode(&note.head)?;
        note.apply(&mut state.groups, decode_status)?;
        let later = state.waiting.split_off(&note.answers.saturating_add(1));
        let answered = std::mem::replace(&mut state.waiting, later);
        let all: Vec<Status> =
            if answered.is_empty() { Vec::new() } else { state.groups.values().cloned().collect() };
        drop(state);
        answered.into_values().for_each(|told| told(all.clone()));
        Ok(())
    }

    fn lose(&self, _why: &Error) {
        let mut state = self.state.lock();
        state.is_open = false;
        state.groups.clear();
        let forgotten = std::mem::take(&mut state.waiting);
        drop(state);
        drop(forgotten);
    }
}

/// The word of another store.
pub(crate) struct WordImage {
    clock: SystemClock,
    state: Mutex<Word>,
}

#[derive(Default)]
struct Word {
    head: Head,
    replicas: BTreeMap<GroupId, Report>,
    heard: Option<Instant>,
    /// Since when it could have been heard.
    since: Instant,
}

impl WordImage {
    pub(crate) fn new(clock: SystemClock) -> Self {
        Self { clock, state: Mutex::new(Word { since: clock.now(), ..Word::default() }) }
    }

    /// The store as it was last heard of; away since then, if that is longer than `silence_max`.
    pub(crate) fn store(&self, now: Instant, silence_max: std::time::Duration) -> Store {
        let state = self.state.lock();
        let Head { labels, standing, keyspaces, editions, copies, .. } = state.head.clone();
        let mut replicas = state.replicas.clone();
        let is_silent = |heard| now.since(heard) > silence_max;
        let reach = match state.heard {
            Some(heard) if !is_silent(heard) => Reach::Up,
            heard => {
                // What it said of those that it leads is of no use any more.
                replicas.values_mut().for_each(|report| report.leading = None);
                Reach::Away { since: heard.unwrap_or(state.since) }
            }
        };
        Store { labels, reach, standing, keyspaces, copies, editions, replicas }
    }
}

impl Talk for WordImage {
    fn speak(&self, questions: Sender<Frame>) -> Speech<'_> {
        // There is nothing to say; but who lets go of the sender has ended.
        Box::pin(async move {
            std::future::pending::<()>().await;
            drop(questions);
        })
    }

    fn hear(&self, data: &Bytes) -> Result<(), Malformed> {
        let note = Note::decode(data)?;
        let head = Head::decode(&note.head)?;
        let now = self.clock.now();
        let mut state = self.state.lock();
        note.apply(&mut state.replicas, |group, data| {
            let mut report = decode_report(group, data)?;
            if let Some(leading) = &mut report.leading {
                let own = |since: Instant| now - head.now.since(since);
                leading.idle_since = leading.idle_since.map(own);
            }
            Ok(report)
        })?;
        (state.head, state.heard) = (head, Some(now));
        Ok(())
    }

    fn lose(&self, _why: &Error) {}
}

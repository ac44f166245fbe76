//! The inbox as it runs at the leader of its range: the real service, from the moment that the store leads
//! until it does no longer.
//!
//! What the service decides goes into the log in its order, one entry at a time, and only in the term in
//! which it read back what was there. Whoever leads next reads back what came of it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_client::{Busy, Done, Fate, Keyspace, Read};
use ratatosk_clock::{Epoch, Instant, Timestamp};
use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{Answer, DueWill};
use ratatosk_contract::sessions::{Delivery, Sessions};
use ratatosk_contract::{ReplyTo, SessionRef, Ticket as CallTicket};
use ratatosk_dist::DistService;
use ratatosk_engine::{Error, KeyRange, Overlay};
use ratatosk_inbox::InboxService;
use ratatosk_store::command::Commands;
use ratatosk_store::host;
use ratatosk_store::log::GroupId;
use ratatosk_store::range::Version;

use super::register::INBOX_SPACE;
use crate::engine::SimEngine;

/// See the module.
pub(super) struct Front {
    pub(super) store: u64,
    pub(super) group: GroupId,
    pub(super) term: u64,
    pub(super) inbox: InboxService,
    pub(super) dist: Arc<DistService>,
    settled: Arc<Settled>,
    journal: Arc<Journal>,
    /// The entry that is on its way.
    sent: Option<Sent>,
}

/// An entry.
struct Sent {
    commands: Vec<(Bytes, Done)>,
    /// It was refused.
    is_to_go_again: bool,
}

/// What the service has for the log.
struct Journal {
    overlay: Arc<Overlay<SimEngine>>,
    submitted: Mutex<VecDeque<(Bytes, Done)>>,
    /// How many commands there were, and how many are done.
    counts: Mutex<(u64, u64)>,
}

/// Notes what callers are told.
#[derive(Default)]
struct Settled(Mutex<Vec<(u64, Settlement)>>);

impl Front {
    /// The service of a store that leads, with what it has.
    pub(super) fn open(
        place: (u64, GroupId, u64),
        overlay: Arc<Overlay<SimEngine>>,
        now: Instant,
    ) -> Result<Self, Error> {
        let (store, group, term) = place;
        let dist = Arc::new(DistService::new());
        let (settled, submitted) = (Arc::new(Settled::default()), Mutex::default());
        let journal = Arc::new(Journal { overlay, submitted, counts: Mutex::default() });
        let epoch = Epoch::new(Instant::ZERO, Timestamp::from_millis(1_000_000));
        let (sessions, keyspace) = (Arc::clone(&settled), Arc::clone(&journal));
        let inbox = InboxService::new(dist.clone(), sessions).kept_in(keyspace, epoch);
        inbox.restore(now)?;
        Ok(Front { store, group, term, inbox, dist, settled, journal, sent: None })
    }

    /// The entry that is to go now, if there is one.
    pub(super) fn next_entry(&mut self, version: Version) -> Option<Vec<u8>> {
        match &mut self.sent {
            Some(sent) => {
                if !std::mem::take(&mut sent.is_to_go_again) {
                    return None;
                }
            }
            None => {
                let commands: Vec<_> = self.journal.submitted.lock().drain(..).collect();
                if commands.is_empty() {
                    return None;
                }
                self.sent = Some(Sent { commands, is_to_go_again: false });
            }
        }
        let mut entry = Commands::new(version);
        let sent = self.sent.iter().flat_map(|sent| &sent.commands);
        sent.for_each(|(command, _)| entry.push(command));
        Some(entry.into_data())
    }

    /// Nothing of the entry is in the log, or was carried out: the range has another version.
    pub(super) fn try_again(&mut self) {
        if let Some(sent) = &mut self.sent {
            sent.is_to_go_again = true;
        }
    }

    /// The entry was carried out; each of its commands has an answer.
    pub(super) fn is_done(&mut self, answers: Vec<Bytes>) -> Result<(), String> {
        let Some(Sent { commands, .. }) = self.sent.take() else {
            return Err("an entry of the inbox is done twice".to_owned());
        };
        if commands.len() != answers.len() {
            return Err(format!("{} commands have {} answers", commands.len(), answers.len()));
        }
        for ((_, done), answer) in commands.into_iter().zip(answers) {
            if !answer.is_empty() {
                return Err(format!("the inbox does not read what it writes: {answer:?}"));
            }
            self.journal.counts.lock().1 += 1;
            done(Fate::Applied(answer));
        }
        Ok(())
    }

    /// How many commands the service has had for the log so far.
    pub(super) fn submitted(&self) -> u64 {
        self.journal.counts.lock().0
    }

    /// How many of them are durable.
    pub(super) fn durable(&self) -> u64 {
        self.journal.counts.lock().1
    }

    /// Who was told what since this was asked last.
    pub(super) fn take_settled(&self) -> Vec<(u64, Settlement)> {
        std::mem::take(&mut self.settled.0.lock())
    }
}

impl Keyspace for Journal {
    fn check(&self) -> Result<(), Busy> {
        Ok(())
    }

    fn submit(&self, _key: &[u8], command: Bytes, done: Done) {
        self.counts.lock().0 += 1;
        self.submitted.lock().push_back((command, done));
    }

    fn read(&self, read: &mut Read<'_>) -> Result<(), Error> {
        host::read_range(&*self.overlay, INBOX_SPACE, &KeyRange::all(), read)
    }
}

impl Sessions for Settled {
    fn inbox_ready(&self, _session: SessionRef) {}

    fn deliver(&self, _session: SessionRef, _delivery: Delivery) {}

    fn settle(&self, _session: SessionRef, ticket: CallTicket, settlement: Settlement) {
        self.0.lock().push((ticket.0, settlement));
    }

    fn answered(&self, _reply_to: ReplyTo, _answer: Answer) {}

    fn publish(&self, _will: DueWill) {}
}

impl std::fmt::Debug for Front {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Front")
            .field("store", &self.store)
            .field("term", &self.term)
            .field("is_sending", &self.sent.is_some())
            .field("counts", &*self.journal.counts.lock())
            .finish_non_exhaustive()
    }
}

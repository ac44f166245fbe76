//! The thread that sends the data of ranges to other stores, and takes in what comes of them: what
//! reads and writes the disk for long, so that no other thread waits for it.

use std::collections::BTreeMap;
use std::time::Duration;

use ratatosk_clock::{Instant, SystemClock};
use ratatosk_engine::{DurableEngine, Engine};

use super::{Shared, Word};
use crate::log::GroupId;
use crate::machine::{Envelope, Input};
use crate::snapshot::depart;
use crate::snapshot::folder::DiskFolder;
use crate::snapshot::receiver::{Receiver, Settled};
use crate::snapshot::sender::{self, Dispatch, Parcel, Receipt, Sender};
use crate::transport::{Outgoing, Packet};

/// What the thread is told.
pub(super) enum Move {
    /// A snapshot of a group is wished for.
    Depart(GroupId),
    /// A store is to get the one that this announces.
    Send { to: u64, envelope: Envelope },
    /// This store leads a group no longer.
    Forget(GroupId),
    /// A part of what another store sends; the machine wants it or not.
    Parcel { from: u64, parcel: Parcel, is_wanted: bool },
    /// How far another store has come.
    Receipt { from: u64, receipt: Receipt },
    /// What the machine made of what had come.
    Settled(Settled),
    /// The host has taken in what had come of a group.
    Installed(GroupId),
    /// The store has left a group as this replica.
    Left { group: GroupId, replica: u64 },
}

/// See the module.
struct Mover<'a> {
    shared: &'a Shared,
    sender: Sender<<DurableEngine as Engine>::View>,
    receiver: Receiver<DiskFolder>,
    dispatch: Dispatch,
    outgoing: Outgoing,
}

pub(super) fn run(shared: &Shared, receiver: Receiver<DiskFolder>) -> Result<(), String> {
    let clock = SystemClock::new();
    let config = sender::Config::default();
    let sender = Sender::new(shared.identity.store, shared.life, clock.now(), config);
    let (dispatch, outgoing) = (Dispatch::default(), BTreeMap::new());
    let mut mover = Mover { shared, sender, receiver, dispatch, outgoing };
    let mut moves = Vec::new();
    loop {
        let now = clock.now();
        let due = mover.sender.next_due(now).into_iter().chain(mover.receiver.next_due()).min();
        let wait = due.map_or(Duration::MAX, |due| due.since(now));
        if shared.moves.take(wait, &mut moves) {
            return Ok(());
        }
        let now = clock.now();
        for item in moves.drain(..) {
            mover.take(now, item).map_err(|error| error.to_string())?;
        }
        mover.sender.poll(now, &mut mover.dispatch).map_err(|error| error.to_string())?;
        mover.receiver.poll(now);
        mover.hand_out();
    }
}

impl Mover<'_> {
    fn take(&mut self, now: Instant, item: Move) -> Result<(), ratatosk_engine::Error> {
        match item {
            Move::Depart(group) => {
                let Shared { overlay, keyspaces, .. } = self.shared;
                if let Some(departure) = depart(overlay, keyspaces, group)? {
                    let snapshot = Box::new(departure.snapshot());
                    self.sender.keep(now, departure);
                    self.tell(Word::Input(Input::Snapshot { group, snapshot }));
                }
            }
            Move::Send { to, envelope } => self.sender.send(to, envelope, &mut self.dispatch),
            Move::Forget(group) => self.sender.forget(group),
            Move::Parcel { from, parcel, is_wanted } => {
                let taken = self.receiver.take(now, from, parcel, |_| is_wanted);
                if let Some(envelope) = taken.message {
                    self.tell(Word::Arrived { from, envelope });
                }
                if let Some(receipt) = taken.receipt {
                    self.outgoing.entry(from).or_default().push(Packet::Receipt(receipt));
                }
            }
            Move::Receipt { from, receipt } => {
                self.sender.take(now, from, receipt, &mut self.dispatch);
            }
            Move::Settled(settled) => self.receiver.settle(settled),
            Move::Installed(group) => self.receiver.installed(group),
            Move::Left { group, replica } => self.receiver.leave(group, replica),
        }
        Ok(())
    }

    fn tell(&self, word: Word) {
        self.shared.inbox.push(word);
    }

    /// Passes on what is to be sent, and to the machine which streams have ended.
    fn hand_out(&mut self) {
        for (to, parcel) in self.dispatch.parcels.drain(..) {
            self.outgoing.entry(to).or_default().push(Packet::Parcel(parcel));
        }
        for (group, to, arrived) in std::mem::take(&mut self.dispatch.ended) {
            self.tell(Word::Input(Input::SnapshotSent { group, to, arrived }));
        }
        for (to, packets) in std::mem::take(&mut self.outgoing) {
            self.shared.transport.send(to, packets);
        }
    }
}

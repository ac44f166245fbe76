//! What stores tell each other, and who carries it.
//!
//! A [`Transport`] may lose packets, repeat them, and bring them late or in another order; the store
//! expects all of that. It must not change them, nor say a wrong sender. Raft's messages of one pair of
//! stores should mostly come in order, or the library sends much again.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use raft::eraftpb::MessageType;

use crate::log::GroupId;
use crate::machine::{Ask, Beat, Envelope, Input, Loan, Output, Sleep, Verdict};
use crate::snapshot::sender::{Parcel, Receipt};

/// What one store tells another.
#[derive(Clone, Debug)]
pub enum Packet {
    /// What the library says. Never the announcement of a snapshot: that is a parcel.
    Raft(Envelope),
    /// A replica asks what became of it.
    Asks(Ask),
    /// What the sender knows of that.
    Tells {
        /// The group.
        group: GroupId,
        /// The replica that asked.
        replica: u64,
        /// What became of it.
        verdict: Verdict,
    },
    /// What the leader of another range wants in a group's log.
    Urges {
        /// The group.
        group: GroupId,
        /// The entry.
        order: Vec<u8>,
    },
    /// The sender lives.
    Beat(Beat),
    /// The sender wants to hear that of this store.
    Inquires,
    /// A group has nothing to do.
    Sleep(Sleep),
    /// What replicas are lent, so that they may serve.
    Loan(Loan),
    /// A part of a range's data.
    Parcel(Parcel),
    /// How far that has come.
    Receipt(Receipt),
}

/// Carries packets to other stores.
pub trait Transport: Send + Sync {
    /// Sends packets to a store, in this order, or loses them. Called on the threads of a store: it
    /// must not wait.
    fn send(&self, to: u64, packets: Vec<Packet>);

    /// The other stores of the cluster, as far as they are known.
    fn stores(&self) -> Vec<u64>;
}

/// Takes what comes for a store.
pub trait Receive: Send + Sync {
    /// Takes packets of another store. Does not wait.
    fn receive(&self, from: u64, packets: Vec<Packet>);
}

/// For a store that stands alone.
#[derive(Copy, Clone, Debug, Default)]
pub struct Nobody;

impl Transport for Nobody {
    fn send(&self, _to: u64, _packets: Vec<Packet>) {}

    fn stores(&self) -> Vec<u64> {
        Vec::new()
    }
}

/// Packets on their way, by the store that they are for.
pub type Outgoing = BTreeMap<u64, Vec<Packet>>;

impl<T> Output<T> {
    /// Takes out what other stores are to be told, of which there are `stores`. What announces snapshots
    /// stays in [`messages`](Output::messages), for their sender.
    pub fn take_packets(&mut self, stores: impl Fn() -> Vec<u64>) -> Outgoing {
        let mut outgoing = Outgoing::new();
        let mut put = |to: u64, packet| outgoing.entry(to).or_default().push(packet);
        self.beats.drain(..).for_each(|(to, beat)| put(to, Packet::Beat(beat)));
        self.inquiries.drain(..).for_each(|to| put(to, Packet::Inquires));
        let is_snapshot = |(_, envelope): &(u64, Envelope)| {
            envelope.message.get_msg_type() == MessageType::MsgSnapshot
        };
        if self.messages.iter().any(is_snapshot) {
            let (kept, sent) =
                std::mem::take(&mut self.messages).into_iter().partition(is_snapshot);
            self.messages = kept;
            let sent: Vec<_> = sent;
            sent.into_iter().for_each(|(to, envelope)| put(to, Packet::Raft(envelope)));
        } else {
            let sent = self.messages.drain(..);
            sent.for_each(|(to, envelope)| put(to, Packet::Raft(envelope)));
        }
        if !self.asks.is_empty() {
            let stores = stores();
            for ask in self.asks.drain(..) {
                stores.iter().for_each(|to| put(*to, Packet::Asks(ask.clone())));
            }
        }
        for (to, group, replica, verdict) in self.verdicts.drain(..) {
            put(to, Packet::Tells { group, replica, verdict });
        }
        for (to, group, order) in self.urges.drain(..) {
            put(to, Packet::Urges { group, order });
        }
        self.sleeps.drain(..).for_each(|(to, sleep)| put(to, Packet::Sleep(sleep)));
        self.loans.drain(..).for_each(|(to, loan)| put(to, Packet::Loan(loan)));
        outgoing
    }
}

impl Packet {
    /// What a machine is told by it.
    ///
    /// # Errors
    /// The packet, if it is for those who send snapshots and take them in.
    pub fn into_input<T>(self, from: u64) -> Result<Input<T>, Moving> {
        Ok(match self {
            Packet::Raft(envelope) => Input::Message { from, envelope: Box::new(envelope) },
            Packet::Asks(ask) => Input::Asked { from, ask },
            Packet::Tells { group, replica, verdict } => Input::Told { group, replica, verdict },
            Packet::Urges { group, order } => Input::Urged { group, order },
            Packet::Beat(beat) => Input::Beat { from, beat },
            Packet::Inquires => Input::Inquired { from },
            Packet::Sleep(sleep) => Input::Sleep { from, sleep },
            Packet::Loan(loan) => Input::Loan { from, loan },
            Packet::Parcel(parcel) => return Err(Moving::Parcel(parcel)),
            Packet::Receipt(receipt) => return Err(Moving::Receipt(receipt)),
        })
    }
}

/// What has to do with data on its way.
#[derive(Clone, Debug)]
pub enum Moving {
    /// For who takes snapshots in.
    Parcel(Parcel),
    /// For who sends them.
    Receipt(Receipt),
}

/// Joins the stores of one process.
#[derive(Default)]
pub struct Exchange {
    stores: RwLock<BTreeMap<u64, Weak<dyn Receive>>>,
}

impl Exchange {
    /// Without stores.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The way of a store to the others.
    #[must_use]
    pub fn transport(self: &Arc<Self>, store: u64) -> Arc<dyn Transport> {
        Arc::new(Line { store, exchange: Arc::clone(self) })
    }

    /// What is for a store comes to this one from now on, as long as somebody else keeps it.
    pub fn attach(&self, store: u64, receiver: &Arc<dyn Receive>) {
        self.stores.write().insert(store, Arc::downgrade(receiver));
    }
}

/// See [`Exchange::transport`].
struct Line {
    store: u64,
    exchange: Arc<Exchange>,
}

impl Transport for Line {
    fn send(&self, to: u64, packets: Vec<Packet>) {
        let receiver = self.exchange.stores.read().get(&to).and_then(Weak::upgrade);
        if let Some(receiver) = receiver {
            receiver.receive(self.store, packets);
        }
    }

    fn stores(&self) -> Vec<u64> {
        let stores = self.exchange.stores.read();
        stores.keys().copied().filter(|store| *store != self.store).collect()
    }
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Exchange").field("stores", &self.stores.read().len()).finish()
    }
}

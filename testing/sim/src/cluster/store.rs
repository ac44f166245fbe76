//! One of the stores, without threads: its machine, host and checkpoints, each moved by a turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::MessageType;
use ratatosk_clock::Instant;
use ratatosk_engine::{Error, KeyRange, Overlay, SpaceId};
use ratatosk_store::command::{self, Commands, Order};
use ratatosk_store::host::{self, Answered, Arrivals, Done, Host, Refusal};
use ratatosk_store::log::{GroupId, Truncated};
use ratatosk_store::machine::{Envelope, Event, Input, Machine, Output, Verdict};
use ratatosk_store::open;
use ratatosk_store::range::Descriptor;
use ratatosk_store::snapshot::{Departure, depart};

use super::agreement::Agreement;
use super::network::Packet;
use super::register::{self, KEYSPACE};
use crate::disk::Disk;
use crate::engine::{SPACES, SimEngine};
use crate::log::SimLog;
use crate::planted::Planted;

/// So few entries are kept for others that some need snapshots.
const KEPT_ENTRIES: u64 = 20;

/// Who waits for an answer: a caller's operation, or an order.
pub(super) type Ticket = u64;

/// What became of what was asked.
pub(super) type Answers = Result<Vec<Bytes>, Refusal>;

/// What a store does in one turn.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// The machine steps.
    Log,
    /// The host applies.
    Apply,
    /// The engine takes what was applied.
    Checkpoint,
}

/// What came of a turn.
#[derive(Debug, Default)]
pub(super) struct Did {
    pub(super) packets: Vec<(u64, Packet)>,
    pub(super) answered: Vec<(Ticket, Answers)>,
    pub(super) notes: Vec<String>,
    pub(super) changes: u64,
    pub(super) merges: u64,
}

/// The store does not go on.
#[derive(Debug)]
pub(super) struct Stopped(pub(super) String);

/// See the module.
pub(super) struct Store {
    number: u64,
    stores: u64,
    overlay: Arc<Overlay<SimEngine>>,
    machine: Machine<SimLog, Ticket>,
    host: Host<SimEngine>,
    inputs: Vec<Input<Ticket>>,
    events: Vec<Event<Ticket>>,
    arrived: Arrived,
    departures: BTreeMap<GroupId, Departure<<SimEngine as ratatosk_engine::Engine>::View>>,
    applied: BTreeMap<GroupId, u64>,
    planted: Option<Planted>,
}

/// Data of snapshots that have come.
#[derive(Debug, Default)]
struct Arrived(BTreeMap<(GroupId, u64, u64), Vec<(Bytes, Bytes)>>);

impl Store {
    /// Opens what is on the disk, or makes a store there, one of so many; the first makes the ranges, too.
    pub(super) fn open(
        number: u64,
        stores: u64,
        disk: &mut Disk,
        planted: Option<Planted>,
    ) -> Result<Self, Stopped> {
        let engine = disk.engine.clone();
        let names = register::keyspaces().names();
        let keyspaces = if number == 1 { &names[..] } else { &[] };
        let asked = open::Asked { store: number, keyspaces, is_new: !disk.has_identity };
        let found = open::find(&*disk.log, &engine, asked).map_err(stopped)?;
        disk.has_identity = true;
        let overlay = Arc::new(Overlay::new(engine, SPACES));
        let mut host = Host::new(number, Arc::clone(&overlay), register::keyspaces());
        let mut applied = BTreeMap::new();
        for opened in &found.groups {
            if let Some(descriptor) = &opened.descriptor {
                host.open(descriptor.clone()).map_err(stopped)?;
                applied.insert(descriptor.group, opened.applied);
            }
        }
        let log = Arc::clone(&disk.log);
        let machine = Machine::open(log, number, found.groups, found.left).map_err(stopped)?;
        let machine = machine.keep_entries(KEPT_ENTRIES);
        Ok(Store {
            number,
            stores,
            overlay,
            machine,
            host,
            inputs: Vec::new(),
            events: Vec::new(),
            arrived: Arrived::default(),
            departures: BTreeMap::new(),
            applied,
            planted,
        })
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(super) fn has_inputs(&self) -> bool {
        !self.inputs.is_empty() || self.machine.is_dirty()
    }

    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.machine.next_tick()
    }

    /// The ranges that it has, as applied.
    pub(super) fn ranges(&self) -> impl Iterator<Item = &Descriptor> {
        self.host.ranges()
    }

    /// How far it is with a group.
    pub(super) fn applied(&self, group: GroupId) -> Option<u64> {
        self.applied.get(&group).copied()
    }

    /// What it has of some keys.
    pub(super) fn content(&self, boundary: &KeyRange) -> Vec<(Bytes, Bytes)> {
        let mut content = crate::engine::content(&self.overlay.view(), SpaceId(1));
        content.retain(|(key, _)| boundary.contains(key));
        content
    }

    /// What it knows, for whoever looks for what went wrong.
    pub(super) fn states(&self) -> Vec<String> {
        let state = |descriptor: &Descriptor| {
            let applied = self.applied(descriptor.group);
            format!("{}: {descriptor:?} applied {applied:?}", self.number)
        };
        self.ranges().map(state).collect()
    }

    /// Asks for something.
    pub(super) fn ask(&mut self, input: Input<Ticket>) {
        self.inputs.push(match self.planted {
            Some(Planted::VersionForgotten) => self.with_own_version(input),
            _ => input,
        });
    }

    /// The fault of the same name.
    fn with_own_version(&self, input: Input<Ticket>) -> Input<Ticket> {
        let Input::Propose { group, data, ticket } = input else { return input };
        let held = self.host.ranges().find(|held| held.group == group);
        let order = command::parse(&data.clone().into()).map(|(_, order)| order);
        let data = match (held, order) {
            (Some(held), Ok(Order::Commands(commands))) => {
                let mut renewed = Commands::new(held.version);
                commands.iter().for_each(|command| renewed.push(command));
                renewed.into_data()
            }
            _ => data,
        };
        Input::Propose { group, data, ticket }
    }

    /// The faults that have to do with merges.
    fn plant_merge_faults(&mut self) {
        for held in self.host.ranges() {
            let Some(frozen) = held.frozen else { continue };
            let (group, me) = (held.group, held.membership.of_store(self.number));
            match (self.planted, me) {
                (Some(Planted::ThawUnproven), Some(me)) => {
                    let (replica, verdict) = (me.id, Verdict::Apart);
                    self.inputs.push(Input::Told { group, replica, verdict });
                }
                (Some(Planted::MergeUnchecked), _) => {
                    let order = command::merge(frozen.expected, held);
                    self.inputs.push(Input::Urged { group: frozen.into, order });
                }
                _ => {}
            }
        }
    }

    /// Takes a packet; answers what the sender is to be told.
    pub(super) fn receive(&mut self, from: u64, packet: Packet) -> Option<Packet> {
        let (envelope, told) = match packet {
            Packet::Raft(envelope) => (envelope, None),
            Packet::Snapshot { envelope, at, data } => {
                let Envelope { group, ref message } = envelope;
                self.arrived.0.insert((group, at.index, at.term), data);
                let replica = message.to;
                (envelope, Some(Packet::Arrived { group, replica }))
            }
            Packet::Arrived { group, replica } => {
                self.inputs.push(Input::SnapshotSent { group, to: replica, arrived: true });
                return None;
            }
            Packet::Missed { group, replica } => {
                self.inputs.push(Input::SnapshotSent { group, to: replica, arrived: false });
                return None;
            }
            Packet::Asks(ask) => {
                self.inputs.push(Input::Asked { from, ask });
                return None;
            }
            Packet::Tells { group, replica, verdict } => {
                self.inputs.push(Input::Told { group, replica, verdict });
                return None;
            }
            Packet::Urges { group, order } => {
                self.inputs.push(Input::Urged { group, order });
                return None;
            }
        };
        self.inputs.push(Input::Message { from, envelope: Box::new(envelope) });
        told
    }

    /// The machine steps.
    pub(super) fn log(&mut self, now: Instant) -> Result<Did, Stopped> {
        self.plant_merge_faults();
        let mut output = Output::default();
        let inputs = std::mem::take(&mut self.inputs);
        self.machine.step(now, inputs, &mut output).map_err(stopped)?;
        self.events.append(&mut output.events);
        let mut did = Did::default();
        for group in output.snapshots {
            let departure = depart(&self.overlay, &register::keyspaces(), group);
            if let Some(departure) = departure.map_err(stopped)? {
                let snapshot = Box::new(departure.snapshot());
                self.inputs.push(Input::Snapshot { group, snapshot });
                self.departures.insert(group, departure);
            }
        }
        for (to, envelope) in output.messages {
            let is_snapshot = envelope.message.get_msg_type() == MessageType::MsgSnapshot;
            let packet = match is_snapshot {
                false => Some(Packet::Raft(envelope)),
                true => self.send_off(envelope, &mut did)?,
            };
            did.packets.extend(packet.map(|packet| (to, packet)));
        }
        for ask in output.asks {
            let others = (1..=self.stores).filter(|other| *other != self.number);
            did.packets.extend(others.map(|to| (to, Packet::Asks(ask.clone()))));
        }
        for (to, group, replica, verdict) in output.verdicts {
            did.packets.push((to, Packet::Tells { group, replica, verdict }));
        }
        for (to, group, order) in output.urges {
            did.packets.push((to, Packet::Urges { group, order }));
        }
        Ok(did)
    }

    /// Packs the data that a snapshot's message announces.
    fn send_off(&mut self, envelope: Envelope, did: &mut Did) -> Result<Option<Packet>, Stopped> {
        let (group, to) = (envelope.group, envelope.message.to);
        let metadata = envelope.message.get_snapshot().get_metadata();
        let at = Truncated { index: metadata.index, term: metadata.term };
        let departure = self.departures.get(&group).filter(|held| held.at() == at);
        let Some(departure) = departure else {
            self.inputs.push(Input::SnapshotSent { group, to, arrived: false });
            return Ok(None);
        };
        let mut data = Vec::new();
        departure.read(&mut |key, value| data.push((key, value))).map_err(stopped)?;
        did.notes.push(format!("sends {} keys of {group:?} at {at:?}", data.len()));
        Ok(Some(Packet::Snapshot { envelope, at, data }))
    }

    /// The host carries out so many events.
    pub(super) fn apply(
        &mut self,
        count: usize,
        agreement: &mut Agreement,
    ) -> Result<Did, Stopped> {
        let mut did = Did::default();
        let count = count.min(self.events.len());
        let events: Vec<_> = self.events.drain(..count).collect();
        for event in &events {
            match event {
                Event::Committed(committed) => {
                    for (entry, _) in &committed.entries {
                        agreement.note_entry(committed.group, entry).map_err(Stopped)?;
                    }
                }
                Event::Leads { group, term, .. } => {
                    did.notes.push(format!("leads {group:?} in term {term}"));
                    agreement.note_leader(*group, *term, self.number).map_err(Stopped)?;
                }
                Event::Install { descriptor, at } => {
                    did.notes.push(format!("installs {:?} at {at:?}", descriptor.group));
                }
                Event::Remove { group, replica } => {
                    did.notes.push(format!("leaves {group:?} as {replica}"));
                }
                Event::Refused { .. } | Event::Follows { .. } => {}
            }
        }
        let mut done = Done::default();
        self.host.run(events, &self.arrived, &mut done).map_err(stopped)?;
        let answered = |Answered { ticket, answers }| (ticket, answers);
        did.answered.extend(done.answered.into_iter().map(answered));
        for input in &done.inputs {
            self.note(input, &mut did);
        }
        self.inputs.append(&mut done.inputs);
        Ok(did)
    }

    fn note(&mut self, input: &Input<Ticket>, did: &mut Did) {
        match input {
            Input::Applied { group, index } => {
                self.applied.insert(*group, *index);
            }
            Input::Configured { descriptor, .. } => {
                did.notes.push(format!("{:?} has {:?}", descriptor.group, descriptor.membership));
                did.changes += 1;
            }
            Input::Described { descriptor } => {
                did.notes.push(format!("is now {descriptor:?}"));
                did.changes += 1;
            }
            Input::Merged { whole, right, .. } => {
                did.notes.push(format!("takes in {right:?}: {whole:?}"));
                did.changes += 1;
                did.merges += 1;
                self.applied.remove(right);
            }
            Input::Split { left, right } => {
                did.notes.push(format!("splits {left:?} from {right:?}"));
                did.changes += 1;
                if let Some(right) = right {
                    self.applied.insert(right.group, ratatosk_store::range::BEGIN_INDEX);
                }
            }
            Input::Installed { descriptor } => {
                let group = descriptor.group;
                let at = self.arrived.0.keys().filter(|(held, ..)| *held == group).map(|key| key.1);
                self.applied.insert(group, at.max().unwrap_or(0));
                self.arrived.0.retain(|(held, ..), _| *held != group);
            }
            Input::Removed { group, .. } => {
                self.applied.remove(group);
            }
            _ => {}
        }
    }

    /// Makes durable what was applied.
    pub(super) fn checkpoint(&mut self) -> Result<Did, Stopped> {
        let groups: Vec<_> = self.host.ranges().map(|descriptor| descriptor.group).collect();
        let durable = host::checkpoint(&*self.overlay, groups).map_err(stopped)?;
        let told = durable.into_iter().map(|(group, index)| {
            let index = match self.planted {
                Some(Planted::TruncatedAhead) => self.applied.get(&group).copied().unwrap_or(index),
                _ => index,
            };
            Input::Checkpointed { group, index }
        });
        self.inputs.extend(told);
        self.departures.clear();
        Ok(Did::default())
    }
}

impl Arrivals for Arrived {
    fn read(
        &self,
        group: GroupId,
        at: Truncated,
        visit: &mut dyn FnMut(Bytes, Bytes),
    ) -> Result<(), Error> {
        let Some(data) = self.0.get(&(group, at.index, at.term)) else {
            let detail = format!("the snapshot of {group:?} at {at:?} did not come to {KEYSPACE}");
            return Err(Error::Corrupt { detail });
        };
        data.iter().for_each(|(key, value)| visit(key.clone(), value.clone()));
        Ok(())
    }
}

fn stopped(reason: impl std::fmt::Display) -> Stopped {
    Stopped(reason.to_string())
}

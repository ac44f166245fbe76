//! One of the stores, without threads: its machine, host and checkpoints, each moved by a turn.

mod noted;
mod planting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_engine::{Engine, Error, KeyRange, Overlay, SpaceId, View as _};
use ratatosk_store::edition::{Edition, Supported};
use ratatosk_store::host::{self, Answered, Done, Host, Refusal};
use ratatosk_store::log::GroupId;
use ratatosk_store::machine::{Envelope, Event, Input, Machine, Output, Status};
use ratatosk_store::open::{self, Asked, Beginning};
use ratatosk_store::range::{Descriptor, Version};
use ratatosk_store::snapshot::depart;
use ratatosk_store::snapshot::receiver::{self, Receiver, Shelf};
use ratatosk_store::snapshot::sender::{self, Dispatch, Sender};
use ratatosk_store::transport::{Moving, Packet};

use super::agreement::Agreement;
use super::register;
use super::serving::Told;
use crate::disk::Disk;
use crate::engine::{SPACES, SimEngine};
use crate::folder::{SimFile, SimFolder};
use crate::log::SimLog;
use crate::planted::Planted;

/// So few entries are kept for others that some need snapshots.
const KEPT_ENTRIES: u64 = 20;
/// So little is in a chunk and in a batch that crashes come in the middle of both.
const CHUNK_BYTES: usize = 300;
const BATCH_BYTES: usize = 150;
const LIMITS: sender::Config = sender::Config {
    chunk_bytes: CHUNK_BYTES,
    window: 3,
    bytes_per_second: 1 << 20,
    streams_max: 2,
    waiting_max: 8,
    view_life: Duration::from_secs(3),
    patience: Duration::from_millis(100),
    stall_max: Duration::from_millis(1_500),
};

/// So soon groups go to sleep.
const SLEEP_TICKS: usize = 3;

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
    /// Snapshots are sent.
    Send,
}

/// How a store begins.
#[derive(Copy, Clone, Debug)]
pub(super) struct Start {
    pub(super) number: u64,
    /// The last edition that its build supports.
    pub(super) newest: Edition,
    pub(super) now: Instant,
    /// How often it was started before.
    pub(super) life: u64,
    pub(super) planted: Option<Planted>,
}

/// What came of a turn.
#[derive(Debug, Default)]
pub(super) struct Did {
    pub(super) packets: Vec<(u64, Packet)>,
    pub(super) answered: Vec<(Ticket, Answers)>,
    pub(super) notes: Vec<String>,
    /// Groups that it leads now, with all before applied, each since when it does.
    pub(super) leads: Vec<(GroupId, u64)>,
    pub(super) changes: u64,
    pub(super) merges: u64,
    pub(super) snapshots: u64,
}

/// The store does not go on.
#[derive(Debug)]
pub(super) enum Stopped {
    /// Something is wrong.
    Failed(String),
    /// Its build does not support what is there.
    Unsupported(String),
}

impl Stopped {
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Failed(text) | Self::Unsupported(text) => text,
        }
    }
}

/// See the module.
pub(super) struct Store {
    pub(super) number: u64,
    newest: Edition,
    /// The other stores, as it knows them.
    others: Vec<u64>,
    overlay: Arc<Overlay<SimEngine>>,
    machine: Machine<SimLog, Ticket>,
    pub(super) host: Host<SimEngine>,
    pub(super) inputs: Vec<Input<Ticket>>,
    events: Vec<Event<Ticket>>,
    sender: Sender<<SimEngine as Engine>::View>,
    receiver: Receiver<SimFolder>,
    shelf: Shelf<SimFile>,
    /// Snapshots that the machine hears of with the next step.
    told: receiver::Told,
    /// A step has begun, and what it has for the log is not written.
    is_writing: bool,
    cut_off: Vec<GroupId>,
    applied: BTreeMap<GroupId, u64>,
    /// Reads on their way, each with its key.
    reads: BTreeMap<Ticket, String>,
    /// In which term it led a group last.
    terms: BTreeMap<GroupId, u64>,
    /// What the host keeps.
    done: Done<Ticket>,
    pub(super) planted: Option<Planted>,
}

impl Store {
    /// Opens what is on the disk, or makes a store there; the first makes the ranges, too.
    pub(super) fn open(start: Start, disk: &mut Disk) -> Result<Self, Stopped> {
        let Start { number, newest, now, life, planted } = start;
        let engine = disk.engine.clone();
        let keyspaces = register::keyspaces(newest);
        let beginning = if number == 1 { Beginning::Alone } else { Beginning::Joining };
        let (store, is_new) = (number, !disk.has_identity);
        let asked = Asked { store, keyspaces: &keyspaces, beginning, is_new };
        let found = open::find(&*disk.log, &engine, asked).map_err(stopped)?;
        disk.has_identity = true;
        let overlay = Arc::new(Overlay::new(engine, SPACES));
        let host = Host::new(number, Arc::clone(&overlay), keyspaces.clone());
        let mut host = host.with_batches(BATCH_BYTES);
        host.clear_leftovers().map_err(stopped)?;
        let receiver = Receiver::open(disk.folder.clone(), receiver::Config::default());
        let receiver = receiver.map_err(stopped)?;
        let cut_off = found.groups.iter().filter(|opened| opened.is_interrupted);
        let cut_off = cut_off.map(|opened| opened.state.group).collect();
        let mut applied = BTreeMap::new();
        for opened in &found.groups {
            if let Some(descriptor) = &opened.descriptor {
                host.open(descriptor.clone()).map_err(stopped)?;
                applied.insert(descriptor.group, opened.applied);
            }
        }
        let log = Arc::clone(&disk.log);
        let machine = Machine::open(log, number, found.groups, found.left).map_err(stopped)?;
        let machine = machine.supporting(keyspaces.supported());
        let machine = machine.keep_entries(KEPT_ENTRIES).with_life(life).sleep_after(SLEEP_TICKS);
        let machine = machine.served_by_replicas(keyspaces.served());
        let machine = match planted {
            Some(Planted::LeaseLong) => machine.lease_for(Duration::from_secs(10)),
            _ => machine,
        };
        Ok(Store {
            number,
            newest,
            others: Vec::new(),
            overlay,
            machine,
            host,
            inputs: Vec::new(),
            events: Vec::new(),
            sender: Sender::new(number, life << 32, now, LIMITS),
            shelf: receiver.shelf(),
            receiver,
            told: receiver::Told::default(),
            is_writing: false,
            cut_off,
            applied,
            reads: BTreeMap::new(),
            terms: BTreeMap::new(),
            done: Done::default(),
            planted,
        })
    }

    /// It hears which other stores there are.
    pub(super) fn hear_of(&mut self, others: Vec<u64>) {
        self.others = others;
    }

    /// Whether it is about to write what others may have been told.
    pub(super) fn is_writing(&self) -> bool {
        self.is_writing
    }

    /// The groups for which time passes.
    pub(super) fn awake(&self) -> impl Iterator<Item = GroupId> {
        self.machine.awake()
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(super) fn has_inputs(&self) -> bool {
        self.is_writing || !self.inputs.is_empty() || self.machine.is_dirty()
    }

    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.machine.next_tick()
    }

    /// When it has to send something, unless it is told something before.
    pub(super) fn next_send(&self, now: Instant) -> Option<Instant> {
        self.sender.next_due(now).into_iter().chain(self.receiver.next_due()).min()
    }

    /// Ranges that were half there when it was opened.
    pub(super) fn cut_off(&self) -> &[GroupId] {
        &self.cut_off
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
    pub(super) fn content(&self, space: SpaceId, boundary: &KeyRange) -> Vec<(Bytes, Bytes)> {
        let mut content = crate::engine::content(&self.overlay.view(), space);
        content.retain(|(key, _)| boundary.contains(key));
        content
    }

    /// The keyspace of a group's range.
    pub(super) fn keyspace(&self, group: GroupId) -> Option<&str> {
        let mut ranges = self.host.ranges();
        ranges.find(|held| held.group == group).map(|held| &held.keyspace[..])
    }

    /// The version of a group's range, as applied.
    pub(super) fn version(&self, group: GroupId) -> Option<Version> {
        self.host.ranges().find(|held| held.group == group).map(|held| held.version)
    }

    /// What it has applied.
    pub(super) fn overlay(&self) -> Arc<Overlay<SimEngine>> {
        Arc::clone(&self.overlay)
    }

    /// What it knows, for whoever looks for what went wrong.
    pub(super) fn states(&self) -> Vec<String> {
        let state = |descriptor: &Descriptor| {
            let applied = self.applied(descriptor.group);
            format!("{}: {descriptor:?} applied {applied:?}", self.number)
        };
        let awake: Vec<_> = self.machine.awake().collect();
        let awake = format!("{}: awake are {awake:?}", self.number);
        self.ranges().map(state).chain([awake]).collect()
    }

    /// What it knows of each of its ranges.
    pub(super) fn status(&self) -> Vec<Status> {
        self.machine.status()
    }

    /// The editions of commands that its build supports.
    pub(super) fn supported(&self) -> Supported {
        register::keyspaces(self.newest).supported()
    }

    /// Asks for something.
    pub(super) fn ask(&mut self, input: Input<Ticket>) {
        self.inputs.push(match self.planted {
            Some(Planted::VersionForgotten) => self.with_own_version(input),
            _ => input,
        });
    }

    /// Asks how many values a key has.
    pub(super) fn ask_to_read(&mut self, range: &Descriptor, ticket: Ticket, key: &str) {
        self.reads.insert(ticket, key.to_owned());
        let (group, version) = (range.group, range.version);
        self.inputs.push(Input::Read { group, version, ticket });
    }

    /// Whether it may answer by itself what a group's range has.
    pub(super) fn may_serve(&self, now: Instant, group: GroupId) -> bool {
        self.host.lease(group).is_some_and(|lease| lease.holds(now))
    }

    /// Answers by itself how many values a key has, if it may, and sees to it that it goes on to.
    pub(super) fn serve(&mut self, now: Instant, key: &str) -> Result<Option<Told>, Stopped> {
        let place = register::place(key);
        let has_it = |held: &&Descriptor| {
            held.keyspace == register::KEYSPACE && held.boundary.contains(place)
        };
        let mut ranges = self.host.ranges().filter(has_it);
        let Some(group) = ranges.next().map(|held| held.group) else { return Ok(None) };
        let Some(lease) = self.host.lease(group) else { return Ok(None) };
        if lease.is_due(now) {
            self.inputs.push(Input::Serve { group, ticket: None });
        }
        if !lease.holds(now) {
            return Ok(Some(Told::NotNow(group)));
        }
        let found = self.overlay.view().get(register::SPACE, place).map_err(stopped)?;
        let count = found.as_ref().and_then(register::answer).unwrap_or(0);
        Ok(Some(Told::Count(group, count)))
    }

    /// What a read that may be answered finds.
    fn answer(&mut self, ticket: Ticket, answers: Answers) -> Result<Answers, Stopped> {
        let Some(key) = self.reads.remove(&ticket) else { return Ok(answers) };
        let Ok(_) = answers else { return Ok(answers) };
        let view = self.overlay.view();
        let found = view.get(register::SPACE, register::place(&key)).map_err(stopped)?;
        Ok(Ok(vec![found.unwrap_or_else(|| Bytes::from_static(&[0; 8]))]))
    }

    /// Takes a packet; answers what the sender is to be told.
    pub(super) fn receive(&mut self, now: Instant, from: u64, packet: Packet) -> Option<Packet> {
        match self.misheard(from, packet).into_input(from) {
            Ok(input) => {
                self.inputs.push(input);
                None
            }
            Err(Moving::Parcel(parcel)) => {
                let wants = |envelope: &Envelope| self.machine.wants(envelope);
                let taken = self.receiver.take(now, from, parcel, wants);
                if let Some(envelope) = taken.message {
                    self.told.note(&envelope);
                    self.inputs.push(Input::Message { from, envelope });
                }
                taken.receipt.map(Packet::Receipt)
            }
            Err(Moving::Receipt(receipt)) => {
                let mut dispatch = Dispatch::default();
                self.sender.take(now, from, receipt, &mut dispatch);
                self.hear(dispatch);
                None
            }
        }
    }

    /// Tells the machine which streams have ended; answers what is to be sent.
    fn hear(&mut self, dispatch: Dispatch) -> Vec<(u64, Packet)> {
        let sent = |(group, to, arrived)| Input::SnapshotSent { group, to, arrived };
        self.inputs.extend(dispatch.ended.into_iter().map(sent));
        let parcels = dispatch.parcels.into_iter();
        parcels.map(|(to, parcel)| (to, Packet::Parcel(parcel))).collect()
    }

    /// Snapshots go on their way.
    pub(super) fn send(&mut self, now: Instant) -> Result<Did, Stopped> {
        let (mut did, mut dispatch) = (Did::default(), Dispatch::default());
        self.sender.poll(now, &mut dispatch).map_err(stopped)?;
        self.receiver.poll(now);
        did.packets.extend(self.hear(dispatch));
        Ok(did)
    }

    /// The machine begins a step, or ends it: other stores and the host may work on the first half
    /// before the log has the second.
    pub(super) fn log(&mut self, now: Instant) -> Result<Did, Stopped> {
        let mut output = Output::default();
        if std::mem::take(&mut self.is_writing) {
            self.machine.finish(&mut output).map_err(stopped)?;
        } else {
            self.plant_merge_faults();
            self.plant_upgrades();
            let mut inputs = std::mem::take(&mut self.inputs);
            self.plant_loan_fault(now, &mut inputs);
            self.machine.begin(now, inputs, &mut output).map_err(stopped)?;
            for settled in self.told.settle(&output.events) {
                self.receiver.settle(settled);
            }
            self.is_writing = true;
        }
        self.hand_out(now, output)
    }

    /// Passes on what came of a step.
    fn hand_out(&mut self, now: Instant, mut output: Output<Ticket>) -> Result<Did, Stopped> {
        for event in &output.events {
            if let Event::Follows { group } = event {
                self.sender.forget(*group);
            }
        }
        self.plant_answer_faults(&mut output.events);
        self.events.append(&mut output.events);
        let (mut did, mut dispatch) = (Did::default(), Dispatch::default());
        for (to, packets) in output.take_packets(|| self.others.clone()) {
            did.packets.extend(packets.into_iter().map(|packet| (to, packet)));
        }
        for group in output.snapshots {
            let departure = depart(&self.overlay, &register::keyspaces(self.newest), group);
            if let Some(departure) = departure.map_err(stopped)? {
                let snapshot = Box::new(departure.snapshot());
                self.inputs.push(Input::Snapshot { group, snapshot });
                self.sender.keep(now, departure);
            }
        }
        for (to, envelope) in output.messages {
            self.sender.send(to, envelope, &mut dispatch);
        }
        did.packets.extend(self.hear(dispatch));
        Ok(did)
    }

    /// Whether the data of a range comes or goes with the next so many events.
    pub(super) fn moves_data(&self, count: usize) -> bool {
        let mut next = self.events.iter().take(count);
        next.any(|event| matches!(event, Event::Install { .. } | Event::Remove { .. }))
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
                        agreement.note_entry(committed.group, entry).map_err(Stopped::Failed)?;
                    }
                }
                Event::Leads { group, term, .. } => {
                    did.notes.push(format!("leads {group:?} in term {term}"));
                    self.terms.insert(*group, *term);
                    if self.planted == Some(Planted::RestoredEarly) {
                        did.leads.push((*group, *term));
                    }
                    agreement.note_leader(*group, *term, self.number).map_err(Stopped::Failed)?;
                }
                Event::Install { descriptor, at, keeps_log } => {
                    let log = if *keeps_log { " below its log" } else { "" };
                    did.notes.push(format!("installs {:?} at {at:?}{log}", descriptor.group));
                }
                Event::Remove { group, replica } => {
                    did.notes.push(format!("leaves {group:?} as {replica}"));
                }
                // Nobody orders a recovery.
                Event::Recover { .. }
                | Event::Refused { .. }
                | Event::Read { .. }
                | Event::Follows { .. }
                | Event::Serve { .. }
                | Event::Lapsed { .. }
                | Event::Withhold { .. } => {}
            }
        }
        let installed = events.iter().filter_map(|event| match event {
            Event::Install { descriptor, at, .. } => Some((descriptor.group, at.index)),
            _ => None,
        });
        let installed: Vec<_> = installed.collect();
        self.host.run(events, &self.shelf, &mut self.done).map_err(|error| match error {
            Error::Unsupported { detail } => Stopped::Unsupported(detail),
            other => stopped(other),
        })?;
        did.snapshots += installed.len() as u64;
        self.applied.extend(installed);
        for Answered { ticket, answers } in std::mem::take(&mut self.done.answered) {
            did.answered.push((ticket, self.answer(ticket, answers)?));
        }
        for group in std::mem::take(&mut self.done.leads) {
            did.leads.push((group, self.terms.get(&group).copied().unwrap_or(0)));
        }
        let mut inputs = std::mem::take(&mut self.done.inputs);
        for input in &inputs {
            self.note(input, &mut did);
            if let Input::Split { left, right: Some(right) } = input {
                agreement.note_split(left.group, right.group);
            }
        }
        self.note_editions(&inputs, agreement)?;
        self.inputs.append(&mut inputs);
        Ok(did)
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
        Ok(Did::default())
    }
}

fn stopped(reason: impl std::fmt::Display) -> Stopped {
    Stopped::Failed(reason.to_string())
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Stopped::Failed(what) | Stopped::Unsupported(what)) = self;
        formatter.write_str(what)
    }
}

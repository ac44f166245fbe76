//! Where committed entries take effect: every range's coprocessor, above one overlay.
//!
//! A host applies what the [`Machine`](crate::machine::Machine) commits, each range's entries in
//! order, all that came together as one change of the overlay, with how far each range came: a
//! checkpoint that takes the one takes the other, so after a crash nothing is applied twice.

mod boundary;
mod configuration;
mod install;
mod lease;
mod range;
mod recovery;
mod withheld;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use raft::eraftpb::Entry;
use ratatosk_clock::SystemClock;
use ratatosk_engine::{Batch, Engine, Error, KeyRange, Overlay, SpaceId, View};

use crate::command::{self, Order};
use crate::coprocessor::{Keyspaces, Reader, SpaceReader};
use crate::edition::{self, Edition};
use crate::log::{GroupId, Truncated};
use crate::machine::{Committed, Event, Input, changes_members};
use crate::membership::NoStep;
use crate::range::{Applied, Descriptor, META, Tombstone, Version};
use install::Coming;
pub(crate) use install::behind;
pub use lease::Lease;
use range::Range;
pub(crate) use range::SharedCoprocessor;
pub use recovery::Rest;
use withheld::Withheld;
pub(crate) use work::Work;
pub use work::Worked;

/// See the module.
pub struct Host<E> {
    store: u64,
    overlay: Arc<Overlay<E>>,
    keyspaces: Keyspaces,
    ranges: BTreeMap<GroupId, Range>,
    /// See [`Host::with_batches`].
    batch_bytes: usize,
    /// What the work is timed with.
    clock: Option<SystemClock>,
}

/// What became of a proposal.
#[derive(Debug)]
pub struct Answered<T> {
    /// The proposal's.
    pub ticket: T,
    /// What the coprocessor answers to each of its commands, or why none was carried out. An order to
    /// the range itself has no answers.
    pub answers: Result<Vec<Bytes>, Refusal>,
}

/// Why a proposal was not carried out. Nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This store does not lead the group.
    NotLeader,
    /// Another entry took its place in the log.
    Lost,
    /// It was meant for an older version of the range, which is this now. KV-002
    Version(Box<Descriptor>),
    /// It was written for a newer edition than the one that is active: a replica may not support it.
    Edition {
        /// What it was written for.
        written: Edition,
        /// That of the range.
        active: Edition,
    },
    /// The key does not part the range, or something else is underway.
    Split,
    /// The range is about to be taken in by its neighbour; or it is not possible to take it in, or to
    /// let it go, now.
    Merging,
    /// The members do not change.
    Step(NoStep),
    /// It has a leader: there is nothing to recover.
    Led,
}

/// What a host did, and what it keeps from one call to the next: a store has one.
#[derive(Debug)]
pub struct Done<T> {
    /// Proposals of this store, in the order of their entries.
    pub answered: Vec<Answered<T>>,
    /// What the machine has to know, in this order.
    pub inputs: Vec<Input<T>>,
    /// Groups that this store leads from now on, with all before applied.
    pub leads: Vec<GroupId>,
    /// Other stores wait to hear how far the data has come: the machine is to be told soon.
    pub is_awaited: bool,
    /// Answers that wait for other replicas.
    withheld: Withheld<T>,
}

/// Where the data of snapshots is that have arrived.
pub trait Arrivals {
    /// Shows every key and value that came with a snapshot of a group, in the order of the keys.
    ///
    /// # Errors
    /// The disk's, or those of `visit`; or [`Error::Corrupt`] if it is not there, or not whole.
    fn read(
        &self,
        group: GroupId,
        at: Truncated,
        visit: &mut dyn FnMut(Bytes, Bytes) -> Result<(), Error>,
    ) -> Result<(), Error>;
}

/// Nobody is there from whom a snapshot could come: for a store that stands alone.
#[derive(Copy, Clone, Debug, Default)]
pub struct Alone;

impl Arrivals for Alone {
    fn read(
        &self,
        group: GroupId,
        at: Truncated,
        _visit: &mut dyn FnMut(Bytes, Bytes) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let detail = format!("no snapshot of group {} at entry {} has come", group.0, at.index);
        Err(Error::Corrupt { detail })
    }
}

/// What a call of the host has changed and not yet made visible.
#[derive(Default)]
struct Turn {
    changes: Batch,
    touched: BTreeSet<GroupId>,
}

impl<T> Default for Done<T> {
    fn default() -> Self {
        Self {
            answered: Vec::new(),
            inputs: Vec::new(),
            leads: Vec::new(),
            is_awaited: false,
            withheld: Withheld::default(),
        }
    }
}

impl<E: Engine> Host<E> {
    /// The host of a store, above an overlay, without a range.
    pub fn new(store: u64, overlay: Arc<Overlay<E>>, keyspaces: Keyspaces) -> Self {
        let batch_bytes = install::BATCH_BYTES;
        Self { store, overlay, keyspaces, ranges: BTreeMap::new(), batch_bytes, clock: None }
    }

    /// Times what the ranges have to do.
    #[must_use]
    pub fn timed_by(self, clock: SystemClock) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// Takes in a range as the overlay has it, and lets its coprocessor derive what it needs.
    ///
    /// # Errors
    /// The engine's and the coprocessor's; [`Error::Corrupt`] for a keyspace that is not known, and
    /// [`Error::Unsupported`] for an edition.
    pub fn open(&mut self, descriptor: Descriptor) -> Result<(), Error> {
        let keyspace = &descriptor.keyspace;
        let place = self.keyspaces.space(keyspace).zip(self.keyspaces.coprocessor(keyspace));
        let Some((space, mut coprocessor)) = place else { return Err(unknown(&descriptor)) };
        self.check_edition(&descriptor)?;
        let view = self.overlay.view();
        let applied = read_applied(&view, descriptor.group)?;
        let reader = SpaceReader::new(&view, space, &descriptor.boundary);
        coprocessor.reset(&descriptor.boundary, &reader)?;
        drop(view);
        let coprocessor = Arc::new(RwLock::new(coprocessor));
        let range = Range {
            descriptor,
            space,
            coprocessor,
            applied,
            leads_from: None,
            led: None,
            reign: None,
            is_parted: false,
            work: Arc::default(),
            lease: Arc::default(),
        };
        self.ranges.insert(range.descriptor.group, range);
        Ok(())
    }

    /// The ranges that are here, as they are now.
    pub fn ranges(&self) -> impl Iterator<Item = &Descriptor> {
        self.ranges.values().map(|range| &range.descriptor)
    }

    /// A range, with the space of its data and what it had to do.
    pub(crate) fn place(&self, group: GroupId) -> Option<(&Descriptor, SpaceId, &Arc<Work>)> {
        let range = self.ranges.get(&group)?;
        Some((&range.descriptor, range.space, &range.work))
    }

    /// What answers questions to a range, if it is here.
    pub(crate) fn coprocessor(&self, group: GroupId) -> Option<&SharedCoprocessor> {
        self.ranges.get(&group).map(|range| &range.coprocessor)
    }

    /// Until when this store may serve a group's range, if it is here.
    #[must_use]
    pub fn lease(&self, group: GroupId) -> Option<&Arc<Lease>> {
        self.ranges.get(&group).map(|range| &range.lease)
    }

    /// Whether this store leads a group, with all before applied.
    pub(crate) fn is_leader(&self, group: GroupId) -> bool {
        self.ranges.get(&group).is_some_and(|range| range.led.is_some())
    }

    /// Carries out what the machine says, in its order.
    ///
    /// # Errors
    /// The engine's; nothing may be applied any more, and what this call did may be visible.
    pub fn run<T>(
        &mut self,
        events: impl IntoIterator<Item = Event<T>>,
        arrivals: &impl Arrivals,
        done: &mut Done<T>,
    ) -> Result<(), Error> {
        let mut turn = Turn::default();
        done.is_awaited = false;
        for event in events {
            match event {
                Event::Committed(committed) => self.commit(committed, &mut turn, done)?,
                Event::Read { group, version, ticket } => {
                    self.show(&mut turn, done);
                    let answers = self.may_read(group, version).map(|()| Vec::new());
                    done.answered.push(Answered { ticket, answers });
                }
                Event::Serve { group, version, until, tickets } => {
                    self.show(&mut turn, done);
                    let may = self.may_read(group, version);
                    if let Some(range) = self.ranges.get(&group).filter(|_| may.is_ok()) {
                        range.lease.extend(until);
                    }
                    let answers = || may.clone().map(|()| Vec::new());
                    let answered = |ticket| Answered { ticket, answers: answers() };
                    done.answered.extend(tickets.into_iter().map(answered));
                }
                Event::Lapsed { group } => {
                    if let Some(range) = self.ranges.get(&group) {
                        range.lease.end();
                    }
                }
                Event::Withhold { group, behind } => {
                    done.withheld.set(group, behind, &mut done.answered);
                }
                Event::Refused { ticket, refusal } => {
                    done.answered.push(Answered { ticket, answers: Err(refusal) });
                }
                Event::Leads { group, term, index } => {
                    if let Some(range) = self.ranges.get_mut(&group) {
                        range.follow();
                        range.leads_from = Some((term, index));
                        turn.touched.insert(group);
                    }
                }
                Event::Follows { group } => {
                    if let Some(range) = self.ranges.get_mut(&group) {
                        range.follow();
                    }
                }
                Event::Install { descriptor, at, keeps_log } => {
                    self.show(&mut turn, done);
                    self.install(*descriptor, Coming { at, keeps_log }, arrivals, done)?;
                }
                Event::Recover { rest, ticket } => {
                    self.go_on_alone(rest, ticket, &mut turn, done)?;
                }
                Event::Remove { group, replica } => {
                    self.show(&mut turn, done);
                    self.remove(group, replica, done)?;
                }
            }
        }
        self.show(&mut turn, done);
        Ok(())
    }

    /// Whether what is visible now answers a read of a range.
    fn may_read(&self, group: GroupId, version: Version) -> Result<(), Refusal> {
        let Some(range) = self.ranges.get(&group) else { return Err(Refusal::NotLeader) };
        let held = &range.descriptor;
        if held.version != version {
            return Err(Refusal::Version(Box::new(held.clone())));
        }
        // Its neighbour may have taken it in already, and go on without this store.
        if held.frozen.is_some() { Err(Refusal::Merging) } else { Ok(()) }
    }

    /// Makes what was changed visible, all at once.
    fn show<T>(&mut self, turn: &mut Turn, done: &mut Done<T>) {
        let Turn { mut changes, touched } = std::mem::take(turn);
        for group in &touched {
            let Some(range) = self.ranges.get(group) else { continue };
            changes.put(META, Applied::key(*group), range.applied.encode());
            let index = range.applied.index;
            done.is_awaited |= range.lease.is_lent();
            done.inputs.push(Input::Applied { group: *group, index });
        }
        self.overlay.apply(changes);
        // Visible now: a leader may act on it.
        for group in touched {
            let Some(range) = self.ranges.get_mut(&group) else { continue };
            let is_reached = |(_, index): &mut (u64, u64)| *index <= range.applied.index;
            if let Some((term, _)) = range.leads_from.take_if(is_reached) {
                range.led = Some(term);
                done.leads.push(group);
            }
            range.begin_reign();
        }
    }

    /// Answers a question to a range from what was applied; `None` if it is not here.
    ///
    /// # Errors
    /// The engine's.
    pub fn query(&self, group: GroupId, question: &Bytes) -> Result<Option<Bytes>, Error> {
        let Some(range) = self.ranges.get(&group) else { return Ok(None) };
        let view = self.overlay.view();
        let reader = SpaceReader::new(&view, range.space, &range.descriptor.boundary);
        range.coprocessor.read().query(question, &reader).map(Some)
    }

    fn commit<T>(
        &mut self,
        committed: Committed<T>,
        turn: &mut Turn,
        done: &mut Done<T>,
    ) -> Result<(), Error> {
        let Committed { group, entries, lost } = committed;
        let answered = |ticket| Answered { ticket, answers: Err(Refusal::Lost) };
        done.answered.extend(lost.into_iter().map(answered));
        for (entry, ticket) in entries {
            let Some(range) = self.ranges.get_mut(&group) else {
                // It was told to leave, or has just read in the log that it does.
                done.answered.extend(ticket.map(answered));
                continue;
            };
            range.reach(&entry)?;
            turn.touched.insert(group);
            let answers = if changes_members(&entry) {
                self.configure(group, &entry, turn, done)?
            } else if entry.data.is_empty() {
                // A new leader's first entry says nothing.
                Ok(Vec::new())
            } else {
                self.obey(group, &entry, turn, done)?
            };
            let answered = ticket.map(|ticket| Answered { ticket, answers });
            let kept = |answered| done.withheld.keep(group, entry.index, answered);
            done.answered.extend(answered.and_then(kept));
        }
        Ok(())
    }

    /// Carries out an entry that says something.
    fn obey<T>(
        &mut self,
        group: GroupId,
        entry: &Entry,
        turn: &mut Turn,
        done: &mut Done<T>,
    ) -> Result<Result<Vec<Bytes>, Refusal>, Error> {
        let Some(range) = self.ranges.get(&group) else { return Ok(Err(Refusal::Lost)) };
        let Ok((version, order)) = command::parse(&entry.data) else {
            return Err(range.corrupt(entry, "is of a newer format, or damaged"));
        };
        if version != range.descriptor.version {
            return Ok(Err(Refusal::Version(Box::new(range.descriptor.clone()))));
        }
        let active = range.descriptor.edition;
        match order {
            Order::Commands { .. } if range.descriptor.frozen.is_some() => {
                Ok(Err(Refusal::Merging))
            }
            Order::Commands { edition: written, .. } if written > active => {
                Ok(Err(Refusal::Edition { written, active }))
            }
            Order::Commands { commands, .. } => {
                let (changes, clock) = (&mut turn.changes, self.clock.as_ref());
                range.apply(&self.overlay, entry, &commands, changes, clock).map(Ok)
            }
            order => {
                let done = self.reshape(group, entry, order, turn, done)?;
                Ok(done.map(|()| Vec::new()))
            }
        }
    }

    /// Whether the edition of a range is one that this build carries out.
    fn check_edition(&self, descriptor: &Descriptor) -> Result<(), Error> {
        check_edition(&self.keyspaces, descriptor)
    }
}

/// Whether this build can carry out what a range may be given.
fn check_edition(keyspaces: &Keyspaces, descriptor: &Descriptor) -> Result<(), Error> {
    let supported = keyspaces.editions(&descriptor.keyspace);
    match supported.is_some_and(|editions| editions.contains(descriptor.edition)) {
        true => Ok(()),
        false => Err(Error::Unsupported { detail: edition::refusal(descriptor, supported) }),
    }
}

fn unknown(descriptor: &Descriptor) -> Error {
    let keyspace = &descriptor.keyspace;
    Error::Corrupt { detail: format!("there is a range of {keyspace:?}, which is not known here") }
}

/// Makes durable what was applied so far; answers how far that is, group by group.
///
/// # Errors
/// The engine's; nothing counts as durable.
pub fn checkpoint<E: Engine>(
    overlay: &Overlay<E>,
    groups: impl IntoIterator<Item = GroupId>,
) -> Result<Vec<(GroupId, u64)>, Error> {
    overlay.checkpoint()?;
    // What the engine has, not what the overlay shows: more may have been applied meanwhile.
    let view = overlay.engine().view();
    let applied = |group| Ok((group, read_applied(&view, group)?.index));
    groups.into_iter().map(applied).collect()
}

/// How far a group's data came, as a view has it.
pub(crate) fn read_applied(view: &impl View, group: GroupId) -> Result<Applied, Error> {
    let Some(found) = view.get(META, &Applied::key(group))? else { return Ok(Applied::default()) };
    Applied::decode(&found).map_err(|_| Error::Corrupt {
        detail: format!("how far group {} came is not readable", group.0),
    })
}

/// The highest number of a replica of a group that this store has left; 0 if it never had one.
pub(crate) fn read_tombstone(view: &impl View, group: GroupId) -> Result<u64, Error> {
    let Some(found) = view.get(META, &Tombstone::key(group))? else { return Ok(0) };
    let Ok(Tombstone(replica)) = Tombstone::decode(&found) else {
        let detail = format!("which replica of group {} was here is not readable", group.0);
        return Err(Error::Corrupt { detail });
    };
    Ok(replica)
}

impl<E> std::fmt::Debug for Host<E> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Host").field("ranges", &self.ranges.len()).finish_non_exhaustive()
    }
}

/// Reads a range's data as an overlay has it.
///
/// # Errors
/// The engine's, or those of `read`.
pub fn read_range<E: Engine>(
    overlay: &Overlay<E>,
    space: SpaceId,
    boundary: &KeyRange,
    read: &mut dyn FnMut(&dyn Reader) -> Result<(), Error>,
) -> Result<(), Error> {
    read(&SpaceReader::new(&overlay.view(), space, boundary))
}

//! Where committed entries take effect: every range's coprocessor, above one overlay.
//!
//! A host applies what the [`Machine`](crate::machine::Machine) commits, each range's entries in
//! order, all that came together as one change of the overlay, with how far each range came: a
//! checkpoint that takes the one takes the other, so after a crash nothing is applied twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use raft::eraftpb::{Entry, EntryType};
use ratatosk_engine::{Batch, Engine, Error, KeyRange, Overlay, SpaceId, View};

use crate::command;
use crate::coprocessor::{Coprocessor, Position, Reader, SpaceReader, Writer};
use crate::log::GroupId;
use crate::machine::{Committed, Event};
use crate::range::{Applied, Descriptor, META};

/// See the module.
pub struct Host<E> {
    overlay: Arc<Overlay<E>>,
    ranges: BTreeMap<GroupId, Range>,
}

struct Range {
    descriptor: Descriptor,
    space: SpaceId,
    coprocessor: Shared,
    applied: Applied,
    /// Leads once the entry of this index is applied.
    leads_from: Option<u64>,
    is_leader: bool,
}

type Shared = Arc<RwLock<Box<dyn Coprocessor>>>;

/// What became of a proposal.
#[derive(Debug)]
pub struct Answered<T> {
    /// The proposal's.
    pub ticket: T,
    /// What the coprocessor answers to each of its commands, or why none was carried out.
    pub answers: Result<Vec<Bytes>, Refusal>,
}

/// Why the commands of a proposal were not carried out. Nothing of them was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This store does not lead the group.
    NotLeader,
    /// Another entry took its place in the log.
    Lost,
    /// They were meant for an older version of the range, which is this now. KV-002
    Version(Descriptor),
}

/// What a host did.
#[derive(Debug)]
pub struct Done<T> {
    /// Proposals of this store, in the order of their entries.
    pub answered: Vec<Answered<T>>,
    /// How far each group came.
    pub applied: Vec<(GroupId, u64)>,
    /// Groups that this store leads from now on, with all before applied.
    pub leads: Vec<GroupId>,
}

impl<T> Default for Done<T> {
    fn default() -> Self {
        Self { answered: Vec::new(), applied: Vec::new(), leads: Vec::new() }
    }
}

impl<E: Engine> Host<E> {
    /// Above an overlay, without a range.
    pub fn new(overlay: Arc<Overlay<E>>) -> Self {
        Self { overlay, ranges: BTreeMap::new() }
    }

    /// Takes in a range as the overlay has it, and lets its coprocessor derive what it needs.
    /// Answers the last entry whose effects are there.
    ///
    /// # Errors
    /// The engine's and the coprocessor's.
    pub fn open(
        &mut self,
        descriptor: Descriptor,
        space: SpaceId,
        mut coprocessor: Box<dyn Coprocessor>,
    ) -> Result<u64, Error> {
        let view = self.overlay.view();
        let applied = read_applied(&view, descriptor.group)?;
        coprocessor
            .reset(&descriptor.boundary, &SpaceReader::new(&view, space, &descriptor.boundary))?;
        drop(view);
        let range = Range {
            space,
            coprocessor: Arc::new(RwLock::new(coprocessor)),
            applied,
            leads_from: None,
            is_leader: false,
            descriptor,
        };
        self.ranges.insert(range.descriptor.group, range);
        Ok(applied.index)
    }

    /// Carries out what the machine says, in its order.
    ///
    /// # Errors
    /// The engine's; nothing of this call is visible, and nothing may be applied any more.
    pub fn run<T>(
        &mut self,
        events: impl IntoIterator<Item = Event<T>>,
        done: &mut Done<T>,
    ) -> Result<(), Error> {
        let mut changes = Batch::new();
        let mut touched = BTreeSet::new();
        for event in events {
            match event {
                Event::Committed(committed) => {
                    touched.insert(committed.group);
                    self.commit(committed, &mut changes, done)?;
                }
                Event::Refused { ticket } => {
                    done.answered.push(Answered { ticket, answers: Err(Refusal::NotLeader) });
                }
                Event::Leads { group, index } => {
                    if let Some(range) = self.ranges.get_mut(&group) {
                        range.leads_from = Some(index);
                        touched.insert(group);
                    }
                }
                Event::Follows { group } => {
                    if let Some(range) = self.ranges.get_mut(&group) {
                        range.leads_from = None;
                        if std::mem::take(&mut range.is_leader) {
                            range.coprocessor.write().lead(false);
                        }
                    }
                }
            }
        }
        for group in &touched {
            let Some(range) = self.ranges.get(group) else { continue };
            changes.put(META, Applied::key(*group), range.applied.encode());
            done.applied.push((*group, range.applied.index));
        }
        self.overlay.apply(changes);
        // Visible now: a leader may act on it.
        for group in touched {
            let Some(range) = self.ranges.get_mut(&group) else { continue };
            if range.leads_from.take_if(|index| *index <= range.applied.index).is_some() {
                range.is_leader = true;
                range.coprocessor.write().lead(true);
                done.leads.push(group);
            }
        }
        Ok(())
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
        changes: &mut Batch,
        done: &mut Done<T>,
    ) -> Result<(), Error> {
        let Committed { group, entries, lost } = committed;
        let answered = |ticket| Answered { ticket, answers: Err(Refusal::Lost) };
        done.answered.extend(lost.into_iter().map(answered));
        let Some(range) = self.ranges.get_mut(&group) else {
            let corrupt = format!("group {} has entries and no range", group.0);
            return Err(Error::Corrupt { detail: corrupt });
        };
        for (entry, ticket) in entries {
            let answers = range.apply(&self.overlay, &entry, changes)?;
            done.answered.extend(ticket.map(|ticket| Answered { ticket, answers }));
        }
        Ok(())
    }
}

impl Range {
    fn apply<E: Engine>(
        &mut self,
        overlay: &Overlay<E>,
        entry: &Entry,
        changes: &mut Batch,
    ) -> Result<Result<Vec<Bytes>, Refusal>, Error> {
        let corrupt = |what: &str| Error::Corrupt {
            detail: format!("entry {} of group {} {what}", entry.index, self.descriptor.group.0),
        };
        if entry.index <= self.applied.index {
            return Err(corrupt("was applied already"));
        }
        self.applied = Applied { index: entry.index, term: entry.term };
        if entry.get_entry_type() != EntryType::EntryNormal {
            return Err(corrupt("changes the members of a group, which this version does not do"));
        }
        // A new leader's first entry says nothing.
        if entry.data.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        let Ok((version, commands)) = command::parse(&entry.data) else {
            return Err(corrupt("is of a newer format, or damaged"));
        };
        if version != self.descriptor.version {
            return Ok(Err(Refusal::Version(self.descriptor.clone())));
        }
        let mut coprocessor = self.coprocessor.write();
        let mut answers = Vec::with_capacity(commands.len());
        for (number, command) in (0..).zip(&commands) {
            let position = Position { index: entry.index, number };
            let mut writer = Writer::new(overlay, self.space, &self.descriptor.boundary, changes);
            answers.push(coprocessor.apply(position, command, &mut writer)?);
        }
        Ok(Ok(answers))
    }
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

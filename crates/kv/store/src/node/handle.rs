//! The way to a store that others have.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ratatosk_engine::{KeyRange, Weight};

use super::{Located, Move, Reply, Served, Shared, Told, Word};
use crate::Identity;
use crate::coprocessor::{Reader, SpaceReader};
use crate::edition::Supported;
use crate::host::{self, Refusal, Worked};
use crate::log::GroupId;
use crate::machine::Input;
use crate::membership::Target;
use crate::range::{Descriptor, Version};
use crate::snapshot::sender::Parcel;
use crate::transport::{Moving, Packet, Receive};

/// A way to the store that can be kept by many.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Who the store is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// The editions of commands that it supports, by keyspace.
    #[must_use]
    pub fn supported(&self) -> Supported {
        self.shared.keyspaces.supported()
    }

    /// The ranges of a keyspace that this store has a part in, in the order of their keys, as they were
    /// last applied here.
    #[must_use]
    pub fn ranges(&self, keyspace: &str) -> Vec<Descriptor> {
        let ranges = self.shared.ranges.read();
        let ranges = ranges.values().map(|located| &located.descriptor);
        let mut found: Vec<_> =
            ranges.filter(|descriptor| descriptor.keyspace == keyspace).cloned().collect();
        found.sort_by(|one, two| one.boundary.start.cmp(&two.boundary.start));
        found
    }

    /// Proposes an entry for a group. Entries of one group are in the log in the order of the calls.
    /// Never calls `reply` itself.
    pub fn propose(&self, group: GroupId, data: Vec<u8>, reply: Reply) {
        self.ask(Input::Propose { group, term: None, data, ticket: reply });
    }

    /// The same, if this store leads the group in a term: nothing of what was proposed in it before is
    /// overtaken.
    pub fn propose_in(&self, term: u64, group: GroupId, data: Vec<u8>, reply: Reply) {
        self.ask(Input::Propose { group, term: Some(term), data, ticket: reply });
    }

    /// Asks for a moment in which what is visible here has all that was acknowledged before, of a range
    /// in this version: then `reply` is called without answers, or with why not. KV-009
    pub fn ask_to_read(&self, group: GroupId, version: Version, reply: Reply) {
        self.ask(Input::Read { group, version, ticket: reply });
    }

    /// Asks a range's coprocessor, if this store leads the range in this version: the answer shows all that
    /// was acknowledged before. It is given on the thread that applies, for which the question is to be
    /// short. KV-009
    pub fn query(&self, group: GroupId, version: Version, question: Bytes, reply: Reply) {
        let shared = Arc::downgrade(&self.shared);
        let told = move |answers: Result<_, _>| match answers {
            Err(refusal) => reply(Err(refusal)),
            Ok(_) => {
                match shared.upgrade().map(|shared| (shared.query(group, &question), shared)) {
                    Some((Ok(Some(answer)), _)) => reply(Ok(vec![answer])),
                    Some((Ok(None), _)) => reply(Err(Refusal::NotLeader)),
                    // Nobody is told: the store ends.
                    Some((Err(error), shared)) => shared.fail(&error.to_string()),
                    None => {}
                }
            }
        };
        self.ask_to_read(group, version, Box::new(told));
    }

    /// A look at whether this store may answer by itself what a range has, if the range is here. KV-010
    #[must_use]
    pub fn served(&self, group: GroupId) -> Option<Served> {
        let lease = Arc::clone(&self.shared.ranges.read().get(&group)?.lease);
        Some(Served::new(Arc::clone(&self.shared), group, lease))
    }

    /// Takes the next step towards these members of a range that this store leads, if it has this version
    /// still. KV-008
    pub fn change(&self, group: GroupId, version: Version, target: Target, reply: Reply) {
        self.ask(Input::Change { group, expected: Some(version), target, ticket: reply });
    }

    /// Has a range that this store leads taken in by its left neighbour, if it has this version still;
    /// `reply` hears of the first step. KV-015
    pub fn merge(&self, group: GroupId, version: Version, reply: Reply) {
        self.ask(Input::Merge { group, expected: Some(version), ticket: reply });
    }

    /// Lets another store lead a group that this one leads, if it can.
    pub fn transfer(&self, group: GroupId, to: u64) {
        self.ask(Input::Transfer { group, to });
    }

    fn ask(&self, input: Input<Reply>) {
        self.shared.inbox.push(Word::Input(input));
    }

    /// The groups that this store leads, with everything before applied.
    #[must_use]
    pub fn leads(&self) -> Vec<GroupId> {
        self.shared.leads.lock().iter().copied().collect()
    }

    /// Has somebody told what is known of the groups, on the thread of the log, for which it is to be
    /// short; never, if the store stops before.
    pub fn ask_status(&self, told: Told) {
        self.shared.inbox.push(Word::Asked(told));
    }

    /// What was applied to a range since the store was opened or got the range; `None` if it is not here.
    #[must_use]
    pub fn worked(&self, group: GroupId) -> Option<Worked> {
        let ranges = self.shared.ranges.read();
        ranges.get(&group).map(|located| located.work.so_far())
    }

    /// Has a range that has lost its quorum go on with this store alone, in a version above the given one,
    /// once it has carried out all that its log has. What only lost replicas had is lost; they must never
    /// come back with what they have. Refused with [`Refusal::Led`] as long as a leader is known. KV-027
    ///
    /// [`Refusal::Led`]: crate::host::Refusal::Led
    pub fn recover(&self, group: GroupId, above: Version, reply: Reply) {
        self.ask(Input::Recover { group, above, ticket: reply });
    }

    /// The keys of a range that were changed as of late, each with how often: a bounded sample, in which what
    /// was seen before counts half with each look. KV-024
    #[must_use]
    pub fn look_at_keys(&self, group: GroupId) -> BTreeMap<Bytes, u64> {
        let ranges = self.shared.ranges.read();
        ranges.get(&group).map(|located| located.work.look_at_keys()).unwrap_or_default()
    }

    /// About how much data a range has, and a key near its middle; nothing if it is not here.
    #[must_use]
    pub fn weigh(&self, group: GroupId) -> Weight {
        let ranges = self.shared.ranges.read();
        let Some(Located { descriptor, space, .. }) = ranges.get(&group).cloned() else {
            return Weight::default();
        };
        drop(ranges);
        self.shared.overlay.engine().weigh(space, &descriptor.boundary)
    }

    /// Takes what other stores send.
    #[must_use]
    pub fn receiver(&self) -> Arc<dyn Receive> {
        Arc::clone(&self.shared) as Arc<dyn Receive>
    }

    /// Whether so little room is left, on the disk or for what is not on it yet, that nothing should
    /// be proposed. DUR-006
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.shared.admission.is_short()
    }

    /// Shows the data of a group's range as it was applied.
    ///
    /// # Errors
    /// The engine's, or those of `read`.
    pub fn read(
        &self,
        group: GroupId,
        read: &mut dyn FnMut(&dyn Reader) -> Result<(), ratatosk_engine::Error>,
    ) -> Result<(), ratatosk_engine::Error> {
        let ranges = self.shared.ranges.read();
        let Some(Located { descriptor, space, .. }) = ranges.get(&group).cloned() else {
            return Ok(());
        };
        drop(ranges);
        host::read_range(&*self.shared.overlay, space, &descriptor.boundary, read)
    }

    /// The same for some of the keys, if all of them are in the group's range; says whether they are.
    ///
    /// # Errors
    /// The engine's, or those of `read`.
    pub fn read_whole(
        &self,
        group: GroupId,
        keys: &KeyRange,
        read: &mut dyn FnMut(&dyn Reader) -> Result<(), ratatosk_engine::Error>,
    ) -> Result<bool, ratatosk_engine::Error> {
        let ranges = self.shared.ranges.read();
        let Some(Located { descriptor, space, .. }) = ranges.get(&group).cloned() else {
            return Ok(false);
        };
        drop(ranges);
        if descriptor.boundary.intersection(keys) != *keys {
            return Ok(false);
        }
        host::read_range(&*self.shared.overlay, space, keys, read).map(|()| true)
    }

    /// A key near another where a range may be parted, if it is here and there is one. KV-014
    #[must_use]
    pub fn parting(&self, group: GroupId, key: &Bytes) -> Option<Bytes> {
        let Located { descriptor, coprocessor, .. } =
            self.shared.ranges.read().get(&group)?.clone();
        let parting = coprocessor.read().parting(&descriptor.boundary, key)?;
        let parts = descriptor.boundary.contains(&parting) && parting != descriptor.boundary.start;
        parts.then_some(parting)
    }

    /// Bytes of memory that the engine has.
    #[must_use]
    pub fn engine_bytes(&self) -> u64 {
        self.shared.overlay.engine().memory_bytes()
    }

    /// About how many bytes of memory hold what is applied and not on disk.
    #[must_use]
    pub fn overlay_bytes(&self) -> usize {
        self.shared.overlay.memory_bytes()
    }
}

impl Shared {
    /// Answers a question from what was applied; `None` if the range is not here.
    fn query(
        &self,
        group: GroupId,
        question: &Bytes,
    ) -> Result<Option<Bytes>, ratatosk_engine::Error> {
        let Some(located) = self.ranges.read().get(&group).cloned() else { return Ok(None) };
        let Located { descriptor, space, coprocessor, .. } = located;
        let view = self.overlay.view();
        let reader = SpaceReader::new(&view, space, &descriptor.boundary);
        coprocessor.read().query(question, &reader).map(Some)
    }
}

impl Receive for Shared {
    fn receive(&self, from: u64, packets: Vec<Packet>) {
        let (mut words, mut moves) = (Vec::with_capacity(packets.len()), Vec::new());
        for packet in packets {
            match packet.into_input(from) {
                Ok(input) => words.push(Word::Input(input)),
                // Whether it is wanted is for the machine to say.
                Err(Moving::Parcel(parcel @ Parcel::Begin { .. })) => {
                    words.push(Word::Announced { from, parcel });
                }
                Err(Moving::Parcel(parcel)) => {
                    moves.push(Move::Parcel { from, parcel, is_wanted: true });
                }
                Err(Moving::Receipt(receipt)) => moves.push(Move::Receipt { from, receipt }),
            }
        }
        self.inbox.extend(&mut words);
        self.moves.extend(&mut moves);
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Handle")
            .field("folder", &self.shared.folder)
            .finish_non_exhaustive()
    }
}

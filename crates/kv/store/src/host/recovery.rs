//! A range that has lost its quorum goes on with one replica. KV-027

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry};
use ratatosk_engine::wire::Parser;
use ratatosk_engine::{Engine, Error};

use super::configuration::read_change;
use super::{Answered, Done, Host, Refusal, Turn, check_edition};
use crate::command::{self, Order};
use crate::log::{GroupId, Truncated};
use crate::machine::{Input, changes_members};
use crate::membership::Membership;
use crate::range::{Descriptor, META, Version};

/// What is left of a group's log, and what is to become of it.
#[derive(Debug)]
pub struct Rest {
    /// The group.
    pub group: GroupId,
    /// The entries behind those that were handed over, committed or not.
    pub entries: Vec<Entry>,
    /// The range is to have a newer version than this one.
    pub above: Version,
}

impl<E: Engine> Host<E> {
    /// Carries out the commands that the log has still, as they would have been in their place, and makes
    /// this replica the only one, durably. What the rest says of the range itself is not done: it may have
    /// been done only by those that are lost.
    pub(super) fn go_on_alone<T>(
        &mut self,
        rest: Rest,
        ticket: T,
        turn: &mut Turn,
        done: &mut Done<T>,
    ) -> Result<(), Error> {
        let Rest { group, entries, above } = rest;
        let Some(range) = self.ranges.get_mut(&group) else {
            done.answered.push(Answered { ticket, answers: Err(Refusal::NotLeader) });
            return Ok(());
        };
        // The range as it would be by now.
        let mut shadow = range.descriptor.clone();
        for entry in &entries {
            range.reach(entry)?;
            if changes_members(entry) {
                shadow = reconfigured(shadow, entry);
                continue;
            }
            if entry.data.is_empty() {
                continue;
            }
            let Ok((version, order)) = command::parse(&entry.data) else {
                return Err(range.corrupt(entry, "is of a newer format, or damaged"));
            };
            if version != shadow.version {
                continue;
            }
            match order {
                Order::Commands { edition, .. }
                    if shadow.frozen.is_some() || edition > shadow.edition => {}
                Order::Commands { commands, .. } => {
                    let changes = &mut turn.changes;
                    range.apply(&self.overlay, entry, &commands, changes, self.clock.as_ref())?;
                }
                Order::Split(key) if !range.parts_at(&key) => {}
                order => {
                    shadow = reshaped(&shadow, &order, entry).unwrap_or(shadow);
                    check_edition(&self.keyspaces, &shadow)?;
                    range.descriptor.edition = shadow.edition;
                }
            }
        }
        let version = Version {
            boundary: shadow.version.boundary.max(above.boundary),
            config: shadow.version.config.max(above.config) + 1,
        };
        let (membership, frozen) = (range.descriptor.membership.only(self.store), shadow.frozen);
        range.descriptor = Descriptor { version, membership, frozen, ..range.descriptor.clone() };
        let (descriptor, applied) = (range.descriptor.clone(), range.applied.index);
        turn.changes.put(META, Descriptor::key(group), descriptor.encode());
        turn.touched.insert(group);
        self.show(turn, done);
        // Before anybody hears of it: whoever was told that the range goes on may let the others go.
        self.overlay.checkpoint()?;
        done.inputs.push(Input::Recovered { descriptor: Box::new(descriptor), applied });
        done.answered.push(Answered { ticket, answers: Ok(Vec::new()) });
        Ok(())
    }
}

/// What an order would have made of a range.
fn reshaped(range: &Descriptor, order: &Order, entry: &Entry) -> Option<Descriptor> {
    let at = Truncated { index: entry.index, term: entry.term };
    match order {
        Order::Commands { .. } => None,
        Order::Split(key) => range.split(key, entry.index).map(|(left, _)| left),
        Order::Merge(right) => range.take_in(right),
        Order::Freeze { into, expected } => range.freeze(*into, *expected, at),
        Order::Raise => Some(range.raised()).filter(|_| range.frozen.is_none()),
        Order::Thaw => range.thaw(),
        Order::Upgrade(edition) if *edition <= range.edition => None,
        Order::Upgrade(edition) => range.upgrade(*edition),
    }
}

/// What an entry for the members would have made of a range.
fn reconfigured(range: Descriptor, entry: &Entry) -> Descriptor {
    let mut parser = Parser::new(&entry.context);
    let membership: Option<Membership> = match ConfChangeV2::parse_from_bytes(&entry.data) {
        Ok(change) if change.changes.is_empty() => Some(range.membership.left()),
        Ok(_) => read_change(&mut parser)
            .filter(|(version, _)| *version == range.version && range.frozen.is_none())
            .map(|(_, membership)| membership),
        Err(_) => None,
    };
    let Some(membership) = membership else { return range };
    let version = Version { config: range.version.config + 1, ..range.version };
    Descriptor { membership, version, ..range }
}

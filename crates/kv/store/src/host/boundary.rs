//! What a host does when ranges part or join.

use raft::eraftpb::Entry;
use ratatosk_engine::{Engine, Error};

use super::range::corrupt;
use super::{Done, Host, Refusal, Turn, read_tombstone};
use crate::command::Order;
use crate::log::{GroupId, Truncated};
use crate::machine::Input;
use crate::mark::Removing;
use crate::range::{Applied, BEGIN_INDEX, BEGIN_TERM, Descriptor, META, OVER, Tombstone};

impl<E: Engine> Host<E> {
    /// Carries out an order to a range itself.
    pub(super) fn reshape<T>(
        &mut self,
        group: GroupId,
        entry: &Entry,
        order: Order,
        turn: &mut Turn,
        done: &mut Done<T>,
    ) -> Result<Result<(), Refusal>, Error> {
        let Some(range) = self.ranges.get(&group) else { return Ok(Err(Refusal::Lost)) };
        let held = &range.descriptor;
        let at = Truncated { index: entry.index, term: entry.term };
        let now = match order {
            // Commands are the coprocessor's.
            Order::Commands { .. } => return Ok(Ok(())),
            Order::Split(key) => {
                let parts = held.split(&key, entry.index).filter(|_| range.parts_at(&key));
                let Some((left, right)) = parts else { return Ok(Err(Refusal::Split)) };
                return self.split(left, right, turn, done).map(Ok);
            }
            Order::Merge(right) => {
                let Some(whole) = held.take_in(&right) else { return Ok(Err(Refusal::Merging)) };
                return self.merge(&whole, &right, entry, turn, done).map(Ok);
            }
            Order::Freeze { into, expected } => held.freeze(into, expected, at),
            Order::Raise => Some(held.raised()).filter(|_| held.frozen.is_none()),
            Order::Thaw => held.thaw(),
            Order::Upgrade(written) if written <= held.edition => {
                let active = held.edition;
                return Ok(Err(Refusal::Edition { written, active }));
            }
            Order::Upgrade(edition) => {
                let now = held.upgrade(edition);
                // What follows would be carried out as this build understands it.
                now.iter().try_for_each(|now| self.check_edition(now))?;
                now
            }
        };
        let Some(now) = now else { return Ok(Err(Refusal::Merging)) };
        self.describe(now, turn, done);
        Ok(Ok(()))
    }

    /// A range is another from now on, with the same keys.
    fn describe<T>(&mut self, now: Descriptor, turn: &mut Turn, done: &mut Done<T>) {
        turn.changes.put(META, Descriptor::key(now.group), now.encode());
        if let Some(range) = self.ranges.get_mut(&now.group) {
            // Its neighbour may take it in, and go on without this store.
            if now.frozen.is_some() {
                range.lease.end();
                range.end_reign();
            }
            range.descriptor = now.clone();
        }
        done.inputs.push(Input::Described { descriptor: Box::new(now) });
    }

    /// Two ranges take the place of one. Their data stays where it is. KV-013
    fn split<T>(
        &mut self,
        left: Descriptor,
        right: Descriptor,
        turn: &mut Turn,
        done: &mut Done<T>,
    ) -> Result<(), Error> {
        let group = left.group;
        turn.changes.put(META, Descriptor::key(group), left.encode());
        let me = right.membership.of_store(self.store).map_or(0, |replica| replica.id);
        let stays = me > read_tombstone(&self.overlay.view(), right.group)?;
        if stays {
            let applied = Applied { index: BEGIN_INDEX, term: BEGIN_TERM, installed: BEGIN_INDEX };
            turn.changes.put(META, Descriptor::key(right.group), right.encode());
            turn.changes.put(META, Applied::key(right.group), applied.encode());
        }
        if let Some(range) = self.ranges.get_mut(&group) {
            range.part();
            range.descriptor = left.clone();
        }
        let Descriptor { keyspace, boundary, .. } = right.clone();
        let mark = (!stays).then_some(Removing { keyspace, boundary });
        if let Some(mark) = &mark {
            turn.changes.put(META, Removing::key(right.group), mark.encode());
        }
        let told = stays.then(|| Box::new(right.clone()));
        done.inputs.push(Input::Split { left: Box::new(left), right: told });
        self.show(turn, done);
        let right_group = right.group;
        // First: what the coprocessors of both tell others lacks no key in between.
        if stays {
            self.open(right)?;
        }
        if let Some(range) = self.ranges.get_mut(&group) {
            range.reset(&self.overlay)?;
        }
        let Some(mark) = mark else { return Ok(()) };
        self.overlay.checkpoint()?;
        self.clear(right_group, &mark)
    }

    /// One range takes the place of two. The data stays where it is: the machine has seen to it that the
    /// right one is whole. It is durable then, so that the right one's log may go. KV-015
    fn merge<T>(
        &mut self,
        whole: &Descriptor,
        right: &Descriptor,
        entry: &Entry,
        turn: &mut Turn,
        done: &mut Done<T>,
    ) -> Result<(), Error> {
        let group = right.group;
        let is_whole = self.ranges.get(&group).is_some_and(|held| held.descriptor == *right);
        let Some(mut taken) = self.ranges.remove(&group).filter(|_| is_whole) else {
            let what = format!("takes in group {}, which is not here as it froze", group.0);
            return Err(corrupt(entry, whole.group, &what));
        };
        taken.end_reign();
        turn.touched.remove(&group);
        turn.changes.put(META, Descriptor::key(whole.group), whole.encode());
        turn.changes.remove(META, Descriptor::key(group));
        turn.changes.remove(META, Applied::key(group));
        turn.changes.put(META, Tombstone::key(group), Tombstone(OVER).encode());
        if let Some(range) = self.ranges.get_mut(&whole.group) {
            range.part();
            range.descriptor = whole.clone();
        }
        let told = Box::new(whole.clone());
        done.inputs.push(Input::Merged { whole: told, right: group });
        self.show(turn, done);
        if let Some(range) = self.ranges.get_mut(&whole.group) {
            range.reset(&self.overlay)?;
        }
        // Behind the left one, which has its keys now.
        taken.leave();
        self.overlay.checkpoint()?;
        Ok(())
    }
}

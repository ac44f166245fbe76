//! Messages that the sessions of a partition have and that may come again: each is queued once.
//!
//! A message that goes in several commands is brought again with the number that its publisher's session gave it
//! ([`exchanges`](crate::exchanges)). In one command with its entries each partition notes the number, and forgets
//! those of the publisher that do not come again. What is below, or noted, is not queued; so what was on its way
//! for long comes to nothing, too.
//!
//! What is noted is bounded: of a publisher what it had begun at a time, as it does not give numbers up otherwise;
//! a note goes after a day, whether its publisher's session is there or not, and the oldest go where a partition
//! has too many. Whoever brings a message again after that brings it twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ratatosk_clock::Instant;
use ratatosk_contract::{
    inbox::{InboxId, Targets},
    serving::Once,
};
use ratatosk_telemetry::memory::{Accountant, Hold, Share};

use crate::{
    InboxService,
    append::partitions_of,
    effect::Effect,
    journal::Effects,
    partition::PARTITION_COUNT,
    partitions::{Locks, PartitionSet, Sequel},
    schema::NoteRecord,
};

/// How long a note is kept.
pub(crate) const NOTE_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// How many notes a partition has.
pub(crate) const NOTES_MAX: usize = 16_384;
/// So many at most are forgotten at a time because they are old.
const FORGOTTEN_MAX: usize = 256;
/// What a note takes in the tables, about.
const NOTE_BYTES: usize = 96;

/// What a partition has noted.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    by_publisher: BTreeMap<InboxId, Known>,
    /// All of them: since when, of whom, which.
    by_age: BTreeSet<(u64, InboxId, u64)>,
    hold: Option<Hold>,
}

/// What is known of a publisher.
#[derive(Debug, Default)]
struct Known {
    /// What is below does not come again. As of the notes that there were at a time.
    low: u64,
    /// Its messages, and since when they are noted.
    numbers: BTreeMap<u64, u64>,
}

impl Notes {
    /// A note as it was stored.
    pub(crate) fn restore(&mut self, publisher: InboxId, number: u64, record: NoteRecord) {
        let known = self.by_publisher.entry(publisher).or_default();
        known.low = known.low.max(record.low);
        known.numbers.insert(number, record.since_ms);
        self.by_age.insert((record.since_ms, publisher, number));
    }

    /// Whether a message was queued, or may not come any more.
    pub(crate) fn has(&self, once: &Once) -> bool {
        let known = self.by_publisher.get(&once.publisher);
        known.is_some_and(|it| once.number < it.low || it.numbers.contains_key(&once.number))
    }

    /// Notes a message that comes at a time, and forgets what that makes needless: in a command of `at`.
    fn note(&mut self, once: &Once, since_ms: u64, at: InboxId, effects: &mut Effects) {
        let Once { publisher, number, low } = *once;
        self.restore(publisher, number, NoteRecord { low, since_ms });
        let known = self.by_publisher.entry(publisher).or_default();
        let kept = known.numbers.split_off(&known.low);
        let over = std::mem::replace(&mut known.numbers, kept);
        over.iter().for_each(|(number, since_ms)| {
            self.by_age.remove(&(*since_ms, publisher, *number));
        });
        let record = NoteRecord { low: known.low, since_ms };
        effects.push(&Effect::Noted { inbox: at, publisher, number, record });
        if !over.is_empty() {
            let numbers = over.into_keys().collect();
            effects.push(&Effect::Unnoted { inbox: at, publisher, numbers });
        }
        while self.by_age.len() > NOTES_MAX {
            self.forget_oldest(at, effects);
        }
    }

    /// Forgets the oldest note, in a command.
    fn forget_oldest(&mut self, at: InboxId, effects: &mut Effects) {
        let Some((_, publisher, number)) = self.by_age.pop_first() else { return };
        if let Some(known) = self.by_publisher.get_mut(&publisher) {
            known.numbers.remove(&number);
            if known.numbers.is_empty() {
                self.by_publisher.remove(&publisher);
            }
        }
        effects.push(&Effect::Unnoted { inbox: at, publisher, numbers: vec![number] });
    }

    /// Since when the oldest is noted.
    fn oldest(&self) -> Option<u64> {
        self.by_age.first().map(|oldest| oldest.0)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Tells the accountant how much they take.
    pub(crate) fn charge(&mut self, memory: &Accountant) {
        let bytes = self.len() * NOTE_BYTES;
        if bytes > 0 || self.hold.is_some() {
            let hold = || memory.account("").hold(Share::Queues, 0);
            self.hold.get_or_insert_with(hold).resize(bytes);
        }
    }

    /// Panics unless all is noted in both tables.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let all = self.by_publisher.iter().flat_map(|(publisher, known)| {
            assert!(!known.numbers.is_empty(), "{publisher:?}");
            known.numbers.iter().map(|(number, since_ms)| (*since_ms, *publisher, *number))
        });
        assert_eq!(all.collect::<BTreeSet<_>>(), self.by_age);
    }
}

impl InboxService {
    /// Of those for whom a message is, the partitions that have it. The locks of all are held.
    pub(crate) fn partitions_having(
        &self,
        locks: &mut Locks<'_>,
        targets: Targets<'_>,
        once: Option<Once>,
    ) -> PartitionSet {
        let mut having = PartitionSet::default();
        let Some(once) = once.filter(|_| self.seats().is_some()) else { return having };
        let asked = partitions_of(targets).numbers();
        asked.filter(|number| locks.at(*number).notes.has(&once)).for_each(|number| {
            having.insert(number);
        });
        having
    }

    /// Notes that a partition has a message. Its lock is held.
    pub(crate) fn note_once(
        &self,
        locks: &mut Locks<'_>,
        number: usize,
        (once, since_ms): (&Once, u64),
        effects: &mut Effects,
    ) {
        let notes = &mut locks.at(number).notes;
        notes.note(once, since_ms, InboxId(number as u64), effects);
        notes.charge(&self.memory);
    }

    /// Forgets notes that are old, some of each partition at a time.
    pub(crate) fn forget_old_notes(&self, now: Instant) {
        let Some(journal) = &self.journal else { return };
        let life_ms = u64::try_from(NOTE_LIFE.as_millis()).unwrap_or(u64::MAX);
        let Some(until) = journal.epoch.stamp(now).as_millis().checked_sub(life_ms) else { return };
        for number in 0..PARTITION_COUNT {
            let mut locks = self.partitions.lock_one(number);
            let partition = locks.at(number);
            let at = InboxId(number as u64);
            let mut effects = Effects::new(journal.epoch);
            for _ in 0..FORGOTTEN_MAX {
                if !partition.is_served || partition.notes.oldest().is_none_or(|it| it > until) {
                    break;
                }
                partition.notes.forget_oldest(at, &mut effects);
            }
            if !effects.is_empty() {
                partition.notes.charge(&self.memory);
                journal.submit(at, effects, Sequel::default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatosk_clock::Epoch;

    use super::*;

    fn once(publisher: u64, number: u64, low: u64) -> Once {
        Once { publisher: InboxId(publisher), number, low }
    }

    fn note(notes: &mut Notes, once: &Once, since_ms: u64) {
        notes.note(once, since_ms, InboxId(3), &mut Effects::new(Epoch::default()));
        notes.check_invariants();
    }

    /// DUR-010: what was queued, or lies behind its publisher, is known; what was not is not.
    #[test]
    fn what_was_noted_or_is_over_is_known() {
        let mut notes = Notes::default();
        for number in [1, 2, 4] {
            note(&mut notes, &once(70, number, 1), number);
        }
        assert!(notes.has(&once(70, 2, 1)) && !notes.has(&once(70, 3, 1)));
        assert!(!notes.has(&once(71, 2, 1)), "of somebody else");
        note(&mut notes, &once(70, 5, 4), 9);
        assert_eq!(notes.len(), 2, "what does not come again is forgotten");
        assert!(notes.has(&once(70, 3, 1)), "it was on its way for long");
        assert!(!notes.has(&once(70, 6, 4)));
        // Whoever was late does not bring back what is over.
        note(&mut notes, &once(70, 6, 2), 9);
        assert!(notes.has(&once(70, 3, 2)));
    }

    /// MEM-001: a partition has so many notes at most, and the oldest go.
    #[test]
    fn the_oldest_notes_go_where_there_are_too_many() {
        let mut notes = Notes::default();
        let count = NOTES_MAX as u64 + 10;
        let mut effects = Effects::new(Epoch::default());
        for number in 0..count {
            notes.note(&once(70 + number, 1, 1), number, InboxId(3), &mut effects);
        }
        notes.check_invariants();
        assert_eq!(notes.len(), NOTES_MAX);
        assert!(!notes.has(&once(79, 1, 1)) && notes.has(&once(80, 1, 1)));
    }
}

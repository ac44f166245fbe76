//! Callers: each reads and writes one key after the other, at whichever store it believes leads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ratatosk_clock::Instant;
use ratatosk_store::command::Commands;
use ratatosk_store::edition::Edition;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::machine::Input;
use ratatosk_testkit::dice::Dice;

use super::inbox::ENTRY;
use super::linear::Operation;
use super::register::{self, Deed};
use super::serving::READER;
use super::store::{Answers, Ticket};
use super::{Cluster, Happening, cover};
use crate::simulation::Checked;

/// How many there are.
const CALLERS: usize = 64;
/// The keys, spread over the space of keys.
pub(super) const KEYS: [&str; 16] =
    ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];
/// Who gets no answer for so long gives up; what became of it nobody knows.
const PATIENCE: Duration = Duration::from_millis(300);
/// Callers hear of the ranges no more often.
const LOOK: Duration = Duration::from_millis(50);
/// Orders have tickets above.
pub(super) const ORDER: Ticket = 1 << 40;

/// See the module.
pub(super) struct Callers {
    dice: Dice,
    callers: Vec<Caller>,
    history: Vec<Operation>,
    /// Who answered last, group by group.
    leaders: BTreeMap<GroupId, u64>,
    /// The keys that were not written since the faults ended; `None` before.
    unwritten: Option<BTreeSet<&'static str>>,
    next_look: Instant,
}

/// One of them.
#[derive(Debug, Default)]
struct Caller {
    /// Its place in the history, and since when it waits.
    pending: Option<(usize, Instant)>,
    /// Which store was asked, about which group.
    asked: Option<(GroupId, u64)>,
    /// Was refused, so that it is asked again elsewhere.
    is_refused: bool,
}

impl Callers {
    pub(super) fn new(dice: Dice) -> Self {
        let callers = (0..CALLERS).map(|_| Caller::default()).collect();
        let (history, leaders) = (Vec::new(), BTreeMap::new());
        Callers { dice, callers, history, leaders, unwritten: None, next_look: Instant::ZERO }
    }

    pub(super) fn len(&self) -> usize {
        self.callers.len()
    }

    /// Who is believed to lead a group.
    pub(super) fn leader(&self, group: GroupId) -> Option<u64> {
        self.leaders.get(&group).copied()
    }

    pub(super) fn history(&self) -> &[Operation] {
        &self.history
    }

    /// From now on each key has to be written once.
    pub(super) fn finish(&mut self) {
        self.unwritten = Some(KEYS.into());
    }

    pub(super) fn is_finished(&self) -> bool {
        self.unwritten.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// Whether they are to come to an end.
    pub(super) fn has_finish(&self) -> bool {
        self.unwritten.is_some()
    }

    /// The keys that are still to be written.
    pub(super) fn left(&self) -> Vec<&'static str> {
        self.unwritten.iter().flatten().copied().collect()
    }

    fn begin(&mut self, caller: usize, now: Instant) -> usize {
        let unwritten = self.left();
        // Every fourth second only a few keys are wanted, so that the ranges of others have rest.
        let is_narrow = self.unwritten.is_none() && now.since(Instant::ZERO).as_secs() % 4 == 3;
        let keys = if is_narrow { &KEYS[..3] } else { &KEYS[..] };
        let key = self.dice.pick(&unwritten).or_else(|| self.dice.pick(keys)).unwrap_or(&"a");
        let place = self.history.len();
        let is_read = self.unwritten.is_none() && self.dice.once_in(2);
        let deed = if is_read { Deed::Count } else { Deed::Add(place as u64 + 1) };
        let key = (*key).to_owned();
        self.history.push(Operation { key, deed, begun: now, ended: None });
        self.callers[caller].pending = Some((place, now));
        place
    }
}

impl Cluster {
    /// A caller begins something, or asks again, or gives up.
    pub(super) fn call(&mut self, caller: usize) -> Checked {
        if self.callers.is_finished() {
            return Ok(());
        }
        let now = self.now;
        let held = &mut self.callers.callers[caller];
        let is_lost = held.pending.is_some_and(|(_, since)| now.since(since) > PATIENCE);
        if is_lost {
            held.pending = None;
            if let Some((group, _)) = held.asked.take() {
                self.callers.leaders.remove(&group);
            }
        }
        let held = &mut self.callers.callers[caller];
        let asks = match held.pending {
            None => {
                self.outcome.operations += 1;
                Some(self.callers.begin(caller, now))
            }
            Some((place, _)) => std::mem::take(&mut held.is_refused).then_some(place),
        };
        self.callers.callers[caller].is_refused = false;
        if let Some(place) = asks {
            self.ask(caller, place);
        }
        // Looks again later, whether it was answered or not.
        let span = Duration::from_micros(500 + self.callers.dice.below(10_000) as u64);
        self.after(span, Happening::Calls { caller });
        Ok(())
    }

    fn ask(&mut self, caller: usize, place: usize) {
        let Operation { key, deed, .. } = &self.callers.history[place];
        let range = self.ranges.iter().find(|held| held.boundary.contains(register::place(key)));
        let Some(range) = range else {
            self.callers.callers[caller].is_refused = true;
            self.look_again();
            return;
        };
        let stores: Vec<u64> =
            range.membership.replicas().iter().map(|replica| replica.store).collect();
        // Whoever led once may believe that it does still.
        let is_read = *deed == Deed::Count;
        let is_elsewhere = is_read && self.callers.dice.once_in(3);
        let known = self.callers.leader(range.group).filter(|_| !is_elsewhere);
        let picked = known.or_else(|| self.callers.dice.pick(&stores).copied());
        let Some(store) = picked else { return };
        let group = range.group;
        let ticket = (place * CALLERS + caller) as Ticket;
        self.callers.callers[caller].asked = Some((group, store));
        // What is read is read from what was applied, but for a few reads that go through the log.
        let is_read = is_read && !self.callers.dice.once_in(8);
        let held = self.stores.get_mut(&store).and_then(|held| held.store.as_mut());
        match held {
            Some(held) if is_read => {
                held.ask_to_read(range, ticket, key);
                self.wake(store, super::store::Work::Log);
            }
            Some(held) => {
                // Whoever proposes may be of an older build.
                let written = match self.callers.dice.once_in(4) {
                    true => Edition::FIRST,
                    false => range.edition,
                };
                let mut commands = Commands::in_edition(range.version, written);
                commands.push(&register::command(key, *deed, written));
                let data = commands.into_data();
                held.ask(Input::Propose { group, term: None, data, ticket });
                self.wake(store, super::store::Work::Log);
            }
            None => self.refused(caller),
        }
    }

    /// A caller asks again, elsewhere.
    fn refused(&mut self, caller: usize) {
        let held = &mut self.callers.callers[caller];
        held.is_refused = true;
        if let Some((group, store)) = held.asked.take()
            && self.callers.leaders.get(&group) == Some(&store)
        {
            self.callers.leaders.remove(&group);
        }
        self.look_again();
    }

    /// Callers hear which ranges there are, if that is some time ago.
    fn look_again(&mut self) {
        if self.now >= self.callers.next_look {
            self.callers.next_look = self.now + LOOK;
            self.ranges = cover::ranges(self.live());
        }
    }

    /// Somebody is answered.
    pub(super) fn answered(&mut self, ticket: Ticket, answers: Answers) -> Checked {
        if ticket >= ENTRY {
            return self.inbox_answered(ticket, answers);
        }
        if ticket >= READER {
            return self.may_serve(ticket, &answers);
        }
        if ticket >= ORDER {
            return Ok(());
        }
        let ticket = usize::try_from(ticket).unwrap_or(usize::MAX);
        let (place, caller) = (ticket / CALLERS, ticket % CALLERS);
        if let Some(told) = told(&answers) {
            let Operation { key, deed, .. } = &self.callers.history[place];
            self.serving.note(key, *deed, told);
        }
        let held = &mut self.callers.callers[caller];
        if held.pending.is_none_or(|(known, _)| known != place) {
            // It has given up; what it hears now it does not count on.
            return Ok(());
        }
        match answers {
            Ok(answers) => {
                let told = answers.first().and_then(register::answer);
                let told = told.ok_or_else(|| format!("{answers:?} is no answer"))?;
                held.pending = None;
                self.callers.leaders.extend(held.asked.take());
                let operation = &mut self.callers.history[place];
                operation.ended = Some((self.now, told));
                self.outcome.answered += 1;
                if let (Some(unwritten), Deed::Add(_)) =
                    (&mut self.callers.unwritten, operation.deed)
                {
                    unwritten.retain(|key| *key != operation.key);
                }
            }
            // Nothing was carried out, and never will be.
            Err(Refusal::NotLeader) => self.refused(caller),
            Err(Refusal::Version(_)) => {
                held.is_refused = true;
                self.look_again();
            }
            // Perhaps it was, under a leader that was not one any more; or not.
            Err(_) => held.pending = None,
        }
        Ok(())
    }
}

/// How many values there were, by an answer.
fn told(answers: &Answers) -> Option<u64> {
    answers.as_ref().ok()?.first().and_then(register::answer)
}

//! The oracle of service: what a replica answers by itself has whatever was acknowledged to anybody
//! before. KV-010, DUR-012
//!
//! Readers come to any store at any time and look there at a key, if the store may serve it by its own
//! clock; the oracle counts in the time that is true. A key is a list that grows, so what is there is
//! told by a number.

use std::collections::BTreeMap;
use std::time::Duration;

use ratatosk_store::log::GroupId;
use ratatosk_store::machine::Input;
use ratatosk_testkit::dice::Dice;

use super::callers::KEYS;
use super::register::Deed;
use super::store::{Answers, Stopped, Ticket, Work};
use super::{Cluster, Happening, cover, local};
use crate::simulation::Checked;

/// How many readers there are.
const READERS: usize = 8;
/// Readers that wait have tickets above.
pub(super) const READER: Ticket = 1 << 41;
/// How long replicas may take until they serve, once all is well.
const LENDING: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Serving {
    dice: Dice,
    /// How many values of each key were acknowledged.
    acknowledged: BTreeMap<String, u64>,
    /// Where each reader waits, for which key.
    waiting: Vec<Option<(u64, &'static str)>>,
}

/// What a store says to a reader.
#[derive(Copy, Clone, Debug)]
pub(super) enum Told {
    /// So many values are there, of a group's range.
    Count(GroupId, u64),
    /// It may not serve that group now.
    NotNow(GroupId),
}

impl Serving {
    pub(super) fn new(dice: Dice) -> Self {
        let waiting = (0..READERS).map(|_| None).collect();
        Serving { dice, acknowledged: BTreeMap::new(), waiting }
    }

    pub(super) fn readers(&self) -> usize {
        self.waiting.len()
    }

    /// Somebody was told that a value of a key stands at a place.
    pub(super) fn note(&mut self, key: &str, deed: Deed, told: u64) {
        if let Deed::Add(_) = deed {
            let known = self.acknowledged.entry(key.to_owned()).or_default();
            *known = (*known).max(told + 1);
        }
    }

    fn check(&self, store: u64, key: &str, count: u64) -> Checked {
        match self.acknowledged.get(key).copied().unwrap_or(0) {
            known if count >= known => Ok(()),
            known => Err(format!(
                "{store} serves {key} with {count} values, and {known} were acknowledged before"
            )),
        }
    }
}

impl Cluster {
    /// A reader comes to some store.
    pub(super) fn read_anywhere(&mut self, reader: usize) -> Checked {
        if self.callers.has_finish() {
            return Ok(());
        }
        let dice = &mut self.serving.dice;
        let places: Vec<u64> = self.stores.keys().copied().collect();
        let store = dice.pick(&places).copied().unwrap_or(1);
        let key = dice.pick(&KEYS).copied().unwrap_or("a");
        let (waits, span) = (dice.once_in(2), Duration::from_millis(2 + dice.below(20) as u64));
        if let Some(Told::NotNow(group)) = self.read_at(store, key)? {
            let ticket = waits.then_some(READER + reader as Ticket);
            self.serving.waiting[reader] = waits.then_some((store, key));
            self.ask_to_serve(store, group, ticket);
        }
        self.after(span, Happening::Reads { reader });
        Ok(())
    }

    fn ask_to_serve(&mut self, store: u64, group: GroupId, ticket: Option<Ticket>) {
        let place = self.stores.get_mut(&store);
        if let Some(held) = place.and_then(|place| place.store.as_mut()) {
            held.ask(Input::Serve { group, ticket });
            self.wake(store, Work::Log);
        }
    }

    /// Looks at a key in a store; `None` if that is down, or does not have it.
    fn read_at(&mut self, store: u64, key: &str) -> Checked<Option<Told>> {
        let now = self.now;
        let Some(place) = self.stores.get_mut(&store) else { return Ok(None) };
        let Some(held) = &mut place.store else { return Ok(None) };
        let told = held.serve(local(now, place.clock_rate), key).map_err(Stopped::into_text)?;
        self.wake(store, Work::Log);
        if let Some(Told::Count(group, count)) = told {
            self.outcome.served += 1;
            let leads = self.agreement.leader(group) == Some(store);
            self.outcome.served_apart += u64::from(!leads);
            self.serving.check(store, key, count)?;
        }
        Ok(told)
    }

    /// A reader that waited is told.
    pub(super) fn may_serve(&mut self, ticket: Ticket, answers: &Answers) -> Checked {
        let place = usize::try_from(ticket - READER).unwrap_or(usize::MAX);
        let waiting = self.serving.waiting.get_mut(place).and_then(Option::take);
        match waiting.filter(|_| answers.is_ok()) {
            Some((store, key)) => self.read_at(store, key).map(drop),
            None => Ok(()),
        }
    }

    /// Every replica comes to serve. KV-010
    pub(super) fn serve_everywhere(&mut self) -> Checked {
        let end = self.now + LENDING;
        loop {
            let idle = self.not_serving();
            if idle.is_empty() {
                return Ok(());
            }
            if self.now >= end {
                return Err(format!("{LENDING:?} after all was well these do not serve: {idle:?}"));
            }
            idle.into_iter().for_each(|(store, group)| self.ask_to_serve(store, group, None));
            let next = self.now + Duration::from_millis(100);
            self.until(next, |_| false)?;
            self.now = self.now.max(next);
        }
    }

    /// Replicas that may not serve now, each with its store.
    fn not_serving(&self) -> Vec<(u64, GroupId)> {
        let mut found = Vec::new();
        for range in cover::ranges(self.live()) {
            for replica in range.membership.replicas() {
                let place = self.stores.get(&replica.store);
                let serves = place.is_some_and(|place| {
                    let now = local(self.now, place.clock_rate);
                    let held = place.store.as_ref();
                    held.is_some_and(|held| held.may_serve(now, range.group))
                });
                if !serves {
                    found.push((replica.store, range.group));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_what_was_acknowledged_is_found() {
        let mut serving = Serving::new(Dice::new(1, 1));
        assert_eq!(serving.check(1, "a", 0), Ok(()));
        serving.note("a", Deed::Add(9), 3);
        serving.note("a", Deed::Add(8), 2);
        serving.note("b", Deed::Count, 7);
        assert!(serving.check(1, "a", 3).is_err(), "it lacks the last");
        assert_eq!(serving.check(1, "a", 4), Ok(()));
        assert_eq!(serving.check(1, "b", 0), Ok(()), "nobody has written it");
    }
}

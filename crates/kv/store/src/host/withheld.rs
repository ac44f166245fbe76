//! Answers that wait until every replica has applied what they are about that may serve. DUR-012
//!
//! They leave in the order of their entries: `withheld ⇒ index > behind`, rising.

use std::collections::{BTreeMap, VecDeque};

use super::Answered;
use crate::log::GroupId;

/// See the module.
#[derive(Debug)]
pub(super) struct Withheld<T>(BTreeMap<GroupId, Waiting<T>>);

#[derive(Debug)]
struct Waiting<T> {
    /// Answers to this entry and those before leave at once.
    behind: u64,
    answers: VecDeque<(u64, Answered<T>)>,
}

impl<T> Default for Withheld<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Withheld<T> {
    /// Keeps the answer to an entry if it has to wait, or gives it back.
    pub(super) fn keep(
        &mut self,
        group: GroupId,
        index: u64,
        answered: Answered<T>,
    ) -> Option<Answered<T>> {
        if self.0.is_empty() {
            return Some(answered);
        }
        match self.0.get_mut(&group).filter(|waiting| index > waiting.behind) {
            Some(waiting) => waiting.answers.push_back((index, answered)),
            None => return Some(answered),
        }
        None
    }

    /// From now on answers behind an entry wait, and no others; those that need not any more go to
    /// `answered`.
    pub(super) fn set(&mut self, group: GroupId, behind: u64, answered: &mut Vec<Answered<T>>) {
        let waiting = self.0.entry(group).or_insert_with(|| Waiting::new(behind));
        waiting.behind = behind;
        while let Some((_, answer)) = waiting.answers.pop_front_if(|(index, _)| *index <= behind) {
            answered.push(answer);
        }
        if behind == u64::MAX {
            self.0.remove(&group);
        }
    }
}

impl<T> Waiting<T> {
    fn new(behind: u64) -> Self {
        Self { behind, answers: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(3);

    fn keep(withheld: &mut Withheld<u64>, index: u64) -> bool {
        let answered = Answered { ticket: index, answers: Ok(Vec::new()) };
        withheld.keep(GROUP, index, answered).is_none()
    }

    fn set(withheld: &mut Withheld<u64>, behind: u64) -> Vec<u64> {
        let mut answered = Vec::new();
        withheld.set(GROUP, behind, &mut answered);
        answered.into_iter().map(|answered| answered.ticket).collect()
    }

    #[test]
    fn answers_leave_in_order_once_they_may() {
        let mut withheld = Withheld::default();
        assert!(!keep(&mut withheld, 5));
        assert_eq!(set(&mut withheld, 5), []);
        assert!(keep(&mut withheld, 6) && keep(&mut withheld, 7) && keep(&mut withheld, 9));
        assert_eq!(set(&mut withheld, 7), [6, 7]);
        assert_eq!(set(&mut withheld, 0), [], "a new leader does not know who may serve");
        assert!(keep(&mut withheld, 10));
        assert_eq!(set(&mut withheld, u64::MAX), [9, 10]);
        assert!(!keep(&mut withheld, 11));
    }
}

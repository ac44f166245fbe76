//! What was decided, step by step, and up to where that must be there after a crash.
//!
//! A service decides in memory, and the log keeps what it decided in that order. So what a crash
//! leaves is what was there after some decision: none before the last that was acknowledged, and
//! all that came before it.

use std::collections::VecDeque;

/// The states after each decision, from the last acknowledged one on.
#[derive(Debug)]
pub(crate) struct History<S> {
    /// Never empty.
    states: VecDeque<S>,
    /// The number of the first of them.
    floor: usize,
}

impl<S: Clone> History<S> {
    /// One that begins with this.
    pub(crate) fn new(state: S) -> Self {
        History { states: VecDeque::from([state]), floor: 0 }
    }

    /// The state now.
    pub(crate) fn now(&self) -> &S {
        self.states.back().unwrap_or_else(|| unreachable!("it is never empty"))
    }

    /// The last state that must be there after a crash, or a later one.
    pub(crate) fn kept(&self) -> &S {
        &self.states[0]
    }

    /// The number of that state.
    pub(crate) fn floor(&self) -> usize {
        self.floor
    }

    /// The number of the state now.
    pub(crate) fn last(&self) -> usize {
        self.floor + self.states.len() - 1
    }

    /// Something was decided; answers the number of what is there now.
    pub(crate) fn push(&mut self, state: S) -> usize {
        self.states.push_back(state);
        self.last()
    }

    /// All up to this state was acknowledged.
    pub(crate) fn acknowledge(&mut self, number: usize) {
        while self.floor < number && self.states.len() > 1 {
            self.states.pop_front();
            self.floor += 1;
        }
    }

    /// Something was said at once to hold for ever: so the decision that made it so is acknowledged.
    /// False if it does not hold now.
    pub(crate) fn vouch(&mut self, holds: impl Fn(&S) -> bool) -> bool {
        let count = self.states.iter().rev().take_while(|state| holds(state)).count();
        self.acknowledge(self.last() + 1 - count);
        count > 0
    }

    /// Every state that may be there after a crash, with its number, the latest first.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = (usize, &S)> {
        self.states.iter().enumerate().rev().map(|(place, state)| (self.floor + place, state))
    }

    /// A crash took what was decided later.
    pub(crate) fn return_to(&mut self, number: usize) {
        self.states.truncate(number.saturating_sub(self.floor) + 1);
    }
}

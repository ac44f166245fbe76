//! When what was gathered to be proposed goes: before anything else happens to its group, and at the end
//! of what came together.

use super::{Input, Machine, Output};
use crate::log::RaftLog;

impl<L: RaftLog, T> Machine<L, T> {
    /// Proposes what was gathered for whoever an input may do something to.
    pub(super) fn propose_before(&mut self, input: &Input<T>, output: &mut Output<T>) {
        let group = match input {
            Input::Propose { .. } | Input::Read { .. } => return,
            Input::Message { envelope, .. } => envelope.group,
            Input::Applied { group, .. } => *group,
            _ => return self.propose_all(output),
        };
        if self.gathering.remove(&group)
            && let Some(held) = self.groups.get_mut(&group)
        {
            held.propose_gathered(output);
        }
    }

    /// Proposes all that was gathered.
    pub(super) fn propose_all(&mut self, output: &mut Output<T>) {
        for group in std::mem::take(&mut self.gathering) {
            if let Some(held) = self.groups.get_mut(&group) {
                held.propose_gathered(output);
            }
        }
    }
}

//! What others want of a session's subscriptions, on behalf of its client. DICT-002
//!
//! It is done as if the client had asked, but no packet answers it: who wants it is told when the answer
//! could have left, once all that the session changed so far is durable. DUR-009
//!
//! One after the other: what has to wait, for a permission or for the inbox, keeps the next. What is not
//! answered at the end of the connection remains in doubt.
//!
//! `waiting + unsaved ≤ WAITING_MAX`

use std::collections::VecDeque;

use ratatosk_contract::{
    SessionRef,
    session_dict::{Change, ChangeAnswer, Changed},
};
use ratatosk_session::OnBehalf;

use super::Shard;

/// How many changes of one session are unanswered.
const WAITING_MAX: usize = 64;

/// Of one session.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    waiting: VecDeque<(OnBehalf, ChangeAnswer)>,
    /// What was done, and is not durable yet.
    unsaved: Vec<(Changed, ChangeAnswer)>,
}

impl Changes {
    /// About how many bytes they hold.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.waiting.capacity() * size_of::<(OnBehalf, ChangeAnswer)>()
            + self.waiting.iter().map(|(wanted, _)| wanted.memory_bytes()).sum::<usize>()
            + self.unsaved.capacity() * size_of::<(Changed, ChangeAnswer)>()
    }

    /// All that the session changed is durable.
    pub(super) fn are_saved(&mut self) {
        for (changed, answer) in std::mem::take(&mut self.unsaved) {
            answer.tell(changed);
        }
    }
}

impl Shard {
    /// Somebody wants something of a session's subscriptions.
    pub(super) fn change(&mut self, session: SessionRef, change: Change, answer: ChangeAnswer) {
        let live = self.connection(session).filter(|connection| connection.session.is_live());
        let Some(connection) = live else { return answer.tell(Changed::NotConnected) };
        let changes = &mut connection.local.rare().changes;
        if changes.waiting.len() + changes.unsaved.len() >= WAITING_MAX {
            return answer.tell(Changed::Busy);
        }
        changes.waiting.push_back((OnBehalf::new(change), answer));
        if changes.waiting.len() == 1 {
            self.go_on_changing(session);
        }
    }

    /// Does what waits, as far as all is known that it needs.
    pub(super) fn go_on_changing(&mut self, session: SessionRef) {
        while let Some((mut wanted, answer)) = self.next_change(session) {
            let mut outcome = None;
            self.drive(session, |machine, _, link| {
                outcome = machine.change(&mut wanted, link);
                let is_saved = link.local.unsaved == 0;
                let changes = &mut link.local.rare().changes;
                match outcome {
                    None => changes.waiting.push_front((wanted, answer)),
                    Some(changed) if !is_saved => changes.unsaved.push((changed, answer)),
                    Some(changed) => answer.tell(changed),
                }
            });
            if outcome.is_none() {
                return;
            }
        }
    }

    fn next_change(&mut self, session: SessionRef) -> Option<(OnBehalf, ChangeAnswer)> {
        let rare = self.connection(session)?.local.rare.as_mut()?;
        rare.changes.waiting.pop_front()
    }
}

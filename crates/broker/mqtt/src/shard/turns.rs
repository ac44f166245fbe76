//! Whose turn it is: who brings little goes before who brings much.
//!
//! Tasks run in the order in which they became ready, and a turn of a connection that sends large
//! packets or a thousand filters takes a thousand times as long as that of one that sends a small
//! message. So connections that brought much of late share a budget of time between two flushes;
//! who finds it used up waits in a line and comes first after the next flush. While there are few
//! of them nobody waits, and whatever the others leave is theirs.

use std::{collections::VecDeque, time::Duration};

use ratatosk_clock::Instant;
use ratatosk_contract::SessionRef;

use super::{Shard, connection::Connection};

/// Who brought more within a second or two brings much.
const INTAKE_BYTES_MIN: usize = 128 * 1024;
/// Whose filters take long to add and to remove.
const FILTERS_MIN: usize = 256;
/// How long those who bring much may take between two flushes.
const SPAN_MAX: Duration = Duration::from_millis(4);
/// How many of them are called at once.
const CALLED_MAX: usize = 64;

/// The line of those who bring much.
#[derive(Debug, Default)]
pub(super) struct Turns {
    spent: Duration,
    waiting: VecDeque<SessionRef>,
}

impl Turns {
    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl Shard {
    /// Whether a connection brings much.
    #[inline]
    pub(super) fn is_heavy(&self, connection: &Connection) -> bool {
        connection.intake.recent(self.now) > INTAKE_BYTES_MIN
            || connection.local.filters() > FILTERS_MIN
    }

    /// Lets a connection that brings much wait, if others of its kind took all the time there is.
    pub(super) fn defers(&mut self, session: SessionRef, connection: &mut Connection) -> bool {
        if self.turns.spent < SPAN_MAX {
            return false;
        }
        if !connection.is_deferred {
            connection.is_deferred = true;
            self.turns.waiting.push_back(session);
        }
        true
    }

    /// Takes note of the time that a connection took which brings much.
    pub(super) fn spend(&mut self, since: Instant) {
        self.turns.spent += self.node.clock.now().since(since);
    }

    /// Begins anew after a flush; true if some still wait.
    pub(super) fn call_waiting(&mut self) -> bool {
        self.turns.spent = Duration::ZERO;
        for _ in 0..CALLED_MAX {
            let Some(session) = self.turns.waiting.pop_front() else { break };
            if let Some(connection) = self.connection(session) {
                connection.is_deferred = false;
                connection.wake();
            }
        }
        self.turns.is_waited_for()
    }
}

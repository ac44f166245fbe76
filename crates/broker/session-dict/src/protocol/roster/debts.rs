//! What is still to be settled with nodes that were not reached: a session that is live here, and
//! may be there, too.
//!
//! A debt comes of a claim that did not wait any longer, or of a server that names two. It is paid
//! when the node says that it has nothing, or that it has the newer one.

use std::collections::BTreeMap;
use std::sync::Arc;

use ratatosk_clock::Instant;
use ratatosk_contract::SessionIdentity;

use super::{Effects, Roster, Standing};
use crate::protocol::message::{Registration, Verdict};
use crate::protocol::stamp::{Host, Time};

/// Debts that are looked at in one tick.
const LOOKS: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Debts {
    owed: BTreeMap<(Host, Arc<SessionIdentity>), Debt>,
    /// Nothing is due before.
    next: Option<Instant>,
    /// Where to go on.
    at: Option<(Host, Arc<SessionIdentity>)>,
}

#[derive(Copy, Clone, Debug)]
struct Debt {
    since: Instant,
    /// When to ask; `None` while it is being asked.
    next: Option<Instant>,
}

impl Debts {
    pub(super) fn len(&self) -> usize {
        self.owed.len()
    }

    /// Looks at all of them: nodes have come.
    pub(super) fn wake(&mut self, now: Instant) {
        if !self.owed.is_empty() {
            self.next = Some(now);
        }
    }

    pub(super) fn settle(&mut self, host: Host, identity: &Arc<SessionIdentity>) {
        self.owed.remove(&(host, Arc::clone(identity)));
    }

    pub(super) fn retry(&mut self, host: Host, identity: &Arc<SessionIdentity>, next: Instant) {
        if let Some(debt) = self.owed.get_mut(&(host, Arc::clone(identity))) {
            debt.next = Some(next);
            self.next = Some(self.next.map_or(next, |before| before.min(next)));
        }
    }
}

impl Roster {
    /// A node may have a session that is, or is about to be, live here.
    pub(super) fn owe(&mut self, now: Instant, host: Host, identity: &Arc<SessionIdentity>) {
        let key = (host, Arc::clone(identity));
        if self.debts.owed.contains_key(&key) {
            return;
        }
        if self.debts.owed.len() >= self.tuning.debts_max {
            self.stats.debts_dropped += 1;
            return;
        }
        self.debts.owed.insert(key, Debt { since: now, next: Some(now) });
        self.debts.next = Some(now);
    }

    /// A server has named other nodes for a session that is live here.
    pub(super) fn conflict(
        &mut self,
        time: Time,
        identity: &Arc<SessionIdentity>,
        others: &[Registration],
    ) {
        for other in others {
            self.owe(time.now, other.host, identity);
        }
    }

    /// Asks those that are due.
    pub(super) fn pay(&mut self, time: Time, effects: &mut Effects) {
        use std::ops::Bound::{Excluded, Unbounded};
        let now = time.now;
        if self.debts.next.is_none_or(|next| next > now) {
            return;
        }
        let from = self.debts.at.take();
        let range = (from.as_ref().map_or(Unbounded, Excluded), Unbounded);
        let (mut over, mut due, mut seen) = (Vec::new(), Vec::new(), 0);
        for (key, debt) in self.debts.owed.range_mut::<(Host, Arc<SessionIdentity>), _>(range) {
            seen += 1;
            let (host, identity) = key;
            let held = self.sessions.get(identity);
            let is_owed = held.is_some_and(|held| held.standing != Standing::Ending);
            if !is_owed || now.since(debt.since) >= self.tuning.debt_lasts {
                over.push(key.clone());
            } else if debt.next.is_some_and(|next| next <= now) {
                // A claim meets by itself, and who is not there is not asked.
                let is_live = held.is_some_and(|held| held.standing == Standing::Live);
                if is_live && self.peers.contains(host) {
                    debt.next = None;
                    due.push(key.clone());
                } else {
                    debt.next = Some(now + self.tuning.again);
                }
            }
            if seen == LOOKS {
                self.debts.at = Some(key.clone());
                break;
            }
        }
        for key in over {
            self.debts.owed.remove(&key);
        }
        for (host, identity) in due {
            self.meet(host, &identity, effects);
        }
        let is_whole = self.debts.at.is_none();
        self.debts.next = match is_whole {
            _ if self.debts.owed.is_empty() => None,
            true => Some(now + self.tuning.again),
            false => Some(now),
        };
    }

    /// A node has answered for a session that is live here.
    pub(super) fn live_met(
        &mut self,
        time: Time,
        host: Host,
        identity: &Arc<SessionIdentity>,
        verdict: Option<Verdict>,
        effects: &mut Effects,
    ) {
        let Some(held) = self.sessions.get(identity) else { return };
        let own = (held.stamp, self.me);
        match verdict {
            None => self.debts.retry(host, identity, time.now + self.tuning.again),
            Some(Verdict::Again) => self.debts.retry(host, identity, time.now),
            // A claim over there meets this node by itself.
            Some(Verdict::Gone { .. } | Verdict::Stays { is_live: false, .. }) => {
                self.debts.settle(host, identity);
            }
            Some(Verdict::Stays { stamp, is_live: true }) if (stamp, host) > own => {
                self.debts.settle(host, identity);
                self.stats.taken_over += 1;
                self.end(identity, effects);
            }
            Some(Verdict::Stays { .. }) => {
                self.debts.retry(host, identity, time.now + self.tuning.again);
            }
        }
    }
}

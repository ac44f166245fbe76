//! Meetings: two nodes that have one session, of which exactly one is to be left.
//!
//! - Of two claims the newer one goes on, by (stamp, host).
//! - A claim ends what was told that it is alone: if that has the larger stamp by some clock, the
//!   claim takes a larger one and comes again.
//! - Of two that were told so, in parts of a network that did not see each other, the newer stays.
//!
//! Whoever is to go is told to end, and the answer comes when it has ended.

use std::sync::Arc;

use ratatosk_clock::Instant;
use ratatosk_contract::SessionIdentity;

use super::{Effect, Effects, Roster, STRANGERS_MAX, Standing};
use crate::protocol::message::{Meeting, Verdict};
use crate::protocol::stamp::{Host, Stamp, Time};

/// A node that waits for the end of a session.
#[derive(Copy, Clone, Debug)]
pub(super) struct Asker {
    pub(super) ticket: u64,
    host: Host,
    stamp: Stamp,
    is_claim: bool,
    /// When it is told that it goes on.
    due: Instant,
}

impl Roster {
    /// Another node asks, and is to be answered under `ticket`, by [`Effect::Answer`].
    pub fn asked(
        &mut self,
        time: Time,
        from: Host,
        ticket: u64,
        meeting: &Meeting,
        effects: &mut Effects,
    ) {
        let Meeting { identity, stamp, is_claim, view, is_unsure, .. } = meeting;
        self.clock.observe(*stamp);
        if *is_unsure || *is_claim && *view != self.view.id() {
            // The server that this node asks may not be the one that the other asked.
            self.unsettled_until = Some(time.now + self.tuning.unsettled);
        }
        self.hear(time, from);
        let Some((identity, _)) = self.sessions.get_key_value(identity) else {
            effects.push_back(Effect::Answer(ticket, Verdict::Gone { was_held: false }));
            return;
        };
        let identity = Arc::clone(identity);
        let due = time.now + self.tuning.interim;
        let asker = Asker { ticket, host: from, stamp: *stamp, is_claim: *is_claim, due };
        let Some(held) = self.sessions.get_mut(&identity) else { return };
        let askers = &mut held.more().askers;
        // One that asks anew does not wait for the answer of before.
        if let Some(before) = askers.iter_mut().find(|other| other.host == from) {
            let before = std::mem::replace(before, asker);
            effects.push_back(Effect::Answer(before.ticket, Verdict::Again));
        } else {
            askers.push(asker);
        }
        self.judge(time, &identity, effects);
        self.tidy(&identity);
        if self.sessions.get(&identity).is_some_and(|held| held.more.is_some()) {
            self.arm(&identity, due);
        }
    }

    /// Somebody has asked: if it is not seen, it is about to be, and is to be asked, too.
    fn hear(&mut self, time: Time, host: Host) {
        if self.peers.contains(&host) || host == self.me {
            return;
        }
        self.departed.retain(|other| *other != host);
        if self.heard.len() < STRANGERS_MAX || self.heard.contains_key(&host) {
            self.heard.insert(host, time.now + self.tuning.unsettled);
        }
    }

    /// Decides between what this node has and those who ask for it.
    pub(super) fn judge(
        &mut self,
        time: Time,
        identity: &Arc<SessionIdentity>,
        effects: &mut Effects,
    ) {
        let Some(held) = self.sessions.get(identity) else { return };
        let Some(more) = &held.more else { return };
        for asker in more.askers.clone() {
            let Some(held) = self.sessions.get(identity) else { return };
            let is_newer = (asker.stamp, asker.host) > (held.stamp, self.me);
            let stays = match held.standing {
                Standing::Ending => false,
                Standing::Live => !is_newer,
                // Whoever asks was told that it is alone, so it has to be ended from here.
                Standing::Claiming if !asker.is_claim => {
                    self.overtake(time, identity, asker.stamp, effects);
                    self.wait_for(time, identity, asker.host, None, effects);
                    true
                }
                Standing::Claiming => !is_newer,
            };
            let Some(held) = self.sessions.get_mut(identity) else { return };
            if stays {
                let (stamp, is_live) = (held.stamp, held.standing == Standing::Live);
                held.more().askers.retain(|other| other.ticket != asker.ticket);
                let verdict = Verdict::Stays { stamp, is_live };
                effects.push_back(Effect::Answer(asker.ticket, verdict));
            } else if held.standing != Standing::Ending {
                match held.standing {
                    Standing::Claiming => self.stats.lost += 1,
                    _ => self.stats.taken_over += 1,
                }
                self.end(identity, effects);
            }
        }
    }

    /// A time has come for a session.
    pub(super) fn look(
        &mut self,
        time: Time,
        identity: &Arc<SessionIdentity>,
        effects: &mut Effects,
    ) {
        self.reconsider(time, identity, effects);
        let Some(held) = self.sessions.get_mut(identity) else { return };
        if let Some(more) = &mut held.more {
            let mut next: Option<Instant> = None;
            more.askers.retain(|asker| {
                let goes_on = asker.due > time.now;
                if goes_on {
                    next = Some(next.map_or(asker.due, |next| next.min(asker.due)));
                } else {
                    effects.push_back(Effect::Answer(asker.ticket, Verdict::Again));
                }
                goes_on
            });
            if let Some(due) = next {
                self.arm(identity, due);
            }
        }
        self.tidy(identity);
    }

    /// What another node said to a meeting; `None`: it was not heard.
    pub fn met(
        &mut self,
        time: Time,
        host: Host,
        meeting: &Meeting,
        verdict: Option<Verdict>,
        effects: &mut Effects,
    ) {
        if let Some(Verdict::Stays { stamp, .. }) = verdict {
            self.clock.observe(stamp);
        }
        let Some((identity, held)) = self.sessions.get_key_value(&meeting.identity) else {
            self.debts.settle(host, &meeting.identity);
            return;
        };
        let identity = Arc::clone(identity);
        if held.session != meeting.session {
            self.debts.retry(host, &identity, time.now);
            return;
        }
        match held.standing {
            Standing::Claiming => {
                // A debt of before: it is looked at when the claim is granted.
                self.debts.retry(host, &identity, time.now + self.tuning.again);
                self.claim_met(time, host, &identity, verdict, effects);
            }
            Standing::Live => self.live_met(time, host, &identity, verdict, effects),
            Standing::Ending => self.debts.settle(host, &identity),
        }
    }
}

//! What servers have of this node: all sessions that belong to them, as soon as they are seen.
//!
//! For each server the node begins by saying by which view it has told all before; the server says
//! what is missing. That is registered, bounded in time and in what is on the way, and when all of
//! it was answered the node commits. Every so often it begins anew, which mostly ends at once: so a
//! server that lost sight of the node is told again. Whatever fails makes the server be told all.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use ratatosk_clock::Instant;
use ratatosk_contract::SessionIdentity;

use super::{Effect, Effects, Held, Roster};
use crate::protocol::message::{Begun, Question};
use crate::protocol::stamp::{Host, Time};
use crate::protocol::view::{View, ViewId};

/// Sessions that are looked at in one tick for one server.
const LOOKS: usize = 8_192;

/// A server as it is told.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// By which view it has all.
    base: Option<Arc<View>>,
    stage: Stage,
    /// When to begin anew.
    next: Option<Instant>,
    /// Registrations without an answer that are no claims.
    asked: usize,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// It was asked what is missing, beyond what it has by a base.
    Begun(Arc<View>, Option<ViewId>),
    /// It is being told.
    Telling(Telling),
    /// It was told all, in a round.
    Committing(Arc<View>, u64),
}

#[derive(Debug)]
struct Telling {
    view: Arc<View>,
    /// What belongs to it by this one it has.
    except: Option<Arc<View>>,
    round: u64,
    /// The last that was looked at.
    at: Option<Arc<SessionIdentity>>,
    is_at_end: bool,
}

impl Link {
    /// The view changes. What a server had by an earlier view than the one before is worth nothing:
    /// sessions that came in between were told to others.
    pub(super) fn leave(&mut self, before: ViewId) {
        self.base.take_if(|base| base.id() != before);
        if matches!(self.stage, Stage::Telling(_) | Stage::Committing(..)) {
            self.base = None;
        }
        (self.stage, self.next) = (Stage::Idle, None);
    }

    /// It is not seen any more.
    pub(super) fn forget(&mut self) {
        (self.base, self.stage, self.next) = (None, Stage::Idle, None);
    }

    pub(super) fn has(&self, view: ViewId) -> bool {
        self.base.as_ref().is_some_and(|base| base.id() == view)
    }
}

impl Roster {
    /// A registration that is no claim is on its way.
    pub(super) fn link_asked(&mut self, server: Host) {
        if let Some(link) = self.links.get_mut(&server) {
            link.asked += 1;
        }
    }

    pub(super) fn link_answered(&mut self, server: Host) {
        if let Some(link) = self.links.get_mut(&server) {
            link.asked = link.asked.saturating_sub(1);
        }
    }

    /// What a server has is in doubt.
    pub(super) fn link_broke(&mut self, time: Time, server: Host) {
        let again = self.tuning.again;
        if let Some(link) = self.links.get_mut(&server) {
            link.base = None;
            link.stage = Stage::Idle;
            link.next = Some(time.now + again);
        }
    }

    /// A server has said what is missing.
    pub(super) fn begun(
        &mut self,
        time: Time,
        server: Host,
        asked: (ViewId, Option<ViewId>),
        begun: Begun,
        round: u64,
    ) {
        let beat = self.tuning.beat;
        let Some(link) = self.links.get_mut(&server) else { return };
        let Stage::Begun(of, base) = &link.stage else { return };
        if (of.id(), *base) != asked {
            return;
        }
        let view = Arc::clone(of);
        let except = match begun {
            Begun::Nothing => {
                (link.base, link.stage) = (Some(view), Stage::Idle);
                link.next = Some(time.now + beat);
                return;
            }
            Begun::Rest => link.base.clone(),
            Begun::All => None,
        };
        link.stage = Stage::Telling(Telling { view, except, round, at: None, is_at_end: false });
    }

    /// A server has all.
    pub(super) fn committed(&mut self, time: Time, server: Host, view: ViewId, round: u64) {
        let beat = self.tuning.beat;
        let Some(link) = self.links.get_mut(&server) else { return };
        if let Stage::Committing(of, in_round) = &link.stage
            && (of.id(), *in_round) == (view, round)
        {
            link.base = Some(Arc::clone(of));
            link.stage = Stage::Idle;
            link.next = Some(time.now + beat);
        }
    }

    /// Goes on telling.
    pub(super) fn sync(&mut self, time: Time, effects: &mut Effects) {
        self.allow(time.now);
        let mut links = std::mem::take(&mut self.links);
        let servers = self.view.servers().to_vec();
        // One that is gone is kept until it has answered, lest its answers count for its next life.
        links.retain(|server, link| servers.contains(server) || link.asked > 0);
        for (server, link) in &mut links {
            if servers.contains(server) {
                self.sync_one(time, *server, link, effects);
            }
        }
        self.links = links;
    }

    fn sync_one(&mut self, time: Time, server: Host, link: &mut Link, effects: &mut Effects) {
        let view = &self.view;
        match &mut link.stage {
            Stage::Idle => {
                let is_due = link.next.is_none_or(|next| next <= time.now);
                // What is new is told at once, but not while something is wrong.
                let is_behind = link.base.as_ref().is_some_and(|base| base.id() != view.id());
                if is_due || is_behind {
                    let base = link.base.as_ref().map(|base| base.id());
                    link.stage = Stage::Begun(Arc::clone(view), base);
                    let question = Question::Begin { view: view.id(), base };
                    effects.push_back(Effect::Ask(server, question));
                }
            }
            Stage::Begun(..) | Stage::Committing(..) => {}
            Stage::Telling(telling) => {
                while !telling.is_at_end
                    && link.asked < self.tuning.sync_window
                    && self.allowance.0 > 0
                {
                    let room = self.tuning.sync_window - link.asked;
                    let told = tell(&self.sessions, server, telling, room, self.allowance.0);
                    let (told, is_enough) = told;
                    for identity in &told {
                        self.register(server, identity, false, effects);
                        link.asked += 1;
                        self.allowance.0 = self.allowance.0.saturating_sub(1);
                        self.stats.registered_anew += 1;
                    }
                    if is_enough {
                        break;
                    }
                }
                if telling.is_at_end && link.asked == 0 {
                    let (view, round) = (telling.view.id(), telling.round);
                    link.stage = Stage::Committing(Arc::clone(&telling.view), round);
                    effects.push_back(Effect::Ask(server, Question::Commit { view, round }));
                }
            }
        }
    }

    /// Counts how many may be registered anew since the last time: never more than what a fifth of
    /// a second allows at once.
    fn allow(&mut self, now: Instant) {
        let rate = u64::from(self.tuning.sync_per_second);
        let (allowed, counted) = self.allowance;
        let since = counted.map_or(20, |counted| now.since(counted).as_millis());
        let more = rate.saturating_mul(u64::try_from(since).unwrap_or(u64::MAX)) / 1_000;
        if more > 0 || counted.is_none() {
            self.allowance = ((allowed + more).min((rate / 5).max(1)), Some(now));
        }
    }
}

/// The next sessions that a server is to be told, at most so many; and whether enough were looked
/// at for now.
fn tell(
    sessions: &BTreeMap<Arc<SessionIdentity>, Held>,
    server: Host,
    telling: &mut Telling,
    room: usize,
    allowed: u64,
) -> (Vec<Arc<SessionIdentity>>, bool) {
    let count_max = room.min(usize::try_from(allowed).unwrap_or(usize::MAX));
    let from = telling.at.clone();
    let range = (from.as_ref().map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
    let (mut told, mut looks) = (Vec::new(), 0);
    for (identity, _) in sessions.range::<Arc<SessionIdentity>, _>(range) {
        if told.len() == count_max || looks == LOOKS {
            return (told, looks == LOOKS);
        }
        looks += 1;
        telling.at = Some(Arc::clone(identity));
        let number = identity.publisher();
        let belongs = |view: &Arc<View>| view.server_of(number) == Some(server);
        // One that is ending is told, too: who claims it has to wait.
        if belongs(&telling.view) && !telling.except.as_ref().is_some_and(belongs) {
            told.push(Arc::clone(identity));
        }
    }
    telling.is_at_end = true;
    (told, true)
}

#[cfg(test)]
#[path = "sync_test.rs"]
mod tests;

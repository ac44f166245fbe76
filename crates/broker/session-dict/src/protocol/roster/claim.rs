//! Claims: from a client that has come to a session that is its connection's alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use ratatosk_clock::Instant;
use ratatosk_contract::{SessionIdentity, SessionRef};

use super::{Effect, Effects, Held, More, Roster, Standing};
use crate::protocol::message::{Meeting, Question, Registration, Reply, Verdict};
use crate::protocol::stamp::{Host, Stamp, Time};

/// A claim that is not granted yet.
#[derive(Debug, Default)]
pub(super) struct Claim {
    /// The server whose answer is waited for, and until when.
    asked: Option<(Host, Instant)>,
    /// The nodes that may have the session, too.
    waits: BTreeMap<Host, Wait>,
    /// Its server did not answer.
    is_unsure: bool,
}

/// A node that a claim waits for.
#[derive(Copy, Clone, Debug)]
struct Wait {
    /// When it was heard last, or the waiting began.
    heard: Instant,
    /// When to ask it again; `None` while it is being asked.
    next: Option<Instant>,
    /// What the server has of it.
    listed: Option<Stamp>,
    /// The same when it was asked last: what it says is about that one.
    asked_for: Option<Stamp>,
    meetings: u32,
}

impl Claim {
    pub(super) fn is_waiting(&self) -> bool {
        self.asked.is_some() || !self.waits.is_empty()
    }
}

impl Roster {
    /// A client has come, and `session` is to have this session. True if it is alone already;
    /// otherwise it will be told by [`Effect::Grant`], or told to end. Whoever had the session here
    /// is told to end.
    pub fn claim(
        &mut self,
        time: Time,
        identity: &Arc<SessionIdentity>,
        session: SessionRef,
        effects: &mut Effects,
    ) -> bool {
        let stamp = self.clock.tick(time.wall);
        if let Some(held) = self.sessions.get_mut(identity) {
            if held.session == session && held.standing != Standing::Ending {
                return held.standing == Standing::Live;
            }
            self.stats.replaced += 1;
            self.end(identity, effects);
            let held = self.sessions.get_mut(identity).expect("it was there");
            let before = std::mem::replace(&mut held.session, session);
            held.stamp = stamp;
            held.standing = Standing::Claiming;
            let more = held.more();
            more.ending.push(before);
            more.claim = Some(Claim::default());
        } else {
            let more = More { claim: Some(Claim::default()), ..More::default() };
            let (standing, more) = (Standing::Claiming, Some(Box::new(more)));
            self.sessions.insert(Arc::clone(identity), Held { stamp, session, standing, more });
        }
        match self.view.server(identity) {
            Some(server) => {
                let due = time.now + self.tuning.server_patience;
                self.on_claim(identity, |claim| claim.asked = Some((server, due)));
                self.arm(identity, due);
                self.register(server, identity, true, effects);
            }
            None => self.ask_all_unsure(time, identity, effects),
        }
        // Whoever waits for the one before waits for this one now.
        self.judge(time, identity, effects);
        self.try_grant(identity, effects)
    }

    /// A connection has ended that had the session, or was to have it, or had it before. False if
    /// it is not known.
    pub fn remove(
        &mut self,
        time: Time,
        identity: &SessionIdentity,
        session: SessionRef,
        effects: &mut Effects,
    ) -> bool {
        let Some((identity, held)) = self.sessions.get_key_value(identity) else { return false };
        let identity = &Arc::clone(identity);
        let before = held.more.as_ref().map_or(&[][..], |more| &more.ending[..]);
        if held.session != session {
            if !before.contains(&session) {
                return false;
            }
            let held = self.sessions.get_mut(identity).expect("it is there");
            held.more().ending.retain(|other| *other != session);
            self.try_grant(identity, effects);
            self.tidy(identity);
            return true;
        }
        if before.is_empty() {
            self.forget(identity, effects);
            return true;
        }
        // Those before it are still ending.
        let held = self.sessions.get_mut(identity).expect("it is there");
        held.standing = Standing::Ending;
        let more = held.more();
        more.claim = None;
        held.session = held.more().ending.pop().expect("there is one");
        self.judge(time, identity, effects);
        self.tidy(identity);
        true
    }

    /// Nobody has the session here any more.
    fn forget(&mut self, identity: &Arc<SessionIdentity>, effects: &mut Effects) {
        let Some(held) = self.sessions.remove(identity) else { return };
        if let Some(more) = held.more {
            if let Some(due) = more.due {
                self.timers.remove(&(due, Arc::clone(identity)));
            }
            for asker in &more.askers {
                effects.push_back(Effect::Answer(asker.ticket, Verdict::Gone { was_held: true }));
            }
        }
        if let Some(server) = self.view.server(identity) {
            let (identity, host) = (Arc::clone(identity), self.me);
            let question = Question::Remove { identity, host, stamp: None };
            effects.push_back(Effect::Ask(server, question));
        }
    }

    /// Registers a session at its server.
    pub(super) fn register(
        &self,
        server: Host,
        identity: &Arc<SessionIdentity>,
        is_claim: bool,
        effects: &mut Effects,
    ) {
        let Some(held) = self.sessions.get(identity) else { return };
        let question = Question::Register {
            view: self.view.id(),
            identity: Arc::clone(identity),
            session: held.session,
            stamp: held.stamp,
            is_claim,
        };
        effects.push_back(Effect::Ask(server, question));
    }

    /// A server has answered a registration, or has not.
    pub(super) fn registered(
        &mut self,
        time: Time,
        server: Host,
        identity: &Arc<SessionIdentity>,
        session: SessionRef,
        reply: Option<Reply>,
        effects: &mut Effects,
    ) {
        let is_known = matches!(reply, Some(Reply::Registered { .. }));
        let (stamp, others, is_complete) = match reply {
            Some(Reply::Registered { stamp, others, is_complete }) => (stamp, others, is_complete),
            _ => (Stamp::default(), Vec::new(), false),
        };
        self.clock.observe(stamp);
        let is_settled = is_complete && !self.is_unsettled(time.now);
        let Some(held) = self.sessions.get_mut(identity) else { return };
        if held.session != session {
            return;
        }
        match held.standing {
            Standing::Ending => {}
            Standing::Live => self.conflict(time, identity, &others),
            Standing::Claiming => {
                held.stamp = held.stamp.max(stamp);
                for Registration { host, stamp, .. } in others {
                    self.wait_for(time, identity, host, Some(stamp), effects);
                }
                let is_awaited = self
                    .on_claim(identity, |claim| {
                        claim.asked.take_if(|asked| asked.0 == server).is_some()
                    })
                    .unwrap_or(false);
                if is_awaited && !is_known {
                    self.ask_all_unsure(time, identity, effects);
                } else if is_awaited && !is_settled {
                    self.ask_all(time, identity, effects);
                }
                self.try_grant(identity, effects);
            }
        }
    }

    /// Asks every node that is not asked already.
    fn ask_all(&mut self, time: Time, identity: &Arc<SessionIdentity>, effects: &mut Effects) {
        self.stats.asked_all += 1;
        let heard = self.heard.iter().filter(|(_, until)| **until > time.now);
        let peers: Vec<Host> =
            self.peers.iter().chain(heard.map(|(host, _)| host)).copied().collect();
        for host in peers {
            self.wait_for(time, identity, host, None, effects);
        }
    }

    /// The same, and has those who are asked do so, too, for some time: there is a session now that
    /// its server may not know.
    fn ask_all_unsure(
        &mut self,
        time: Time,
        identity: &Arc<SessionIdentity>,
        effects: &mut Effects,
    ) {
        self.on_claim(identity, |claim| claim.is_unsure = true);
        self.ask_all(time, identity, effects);
    }

    /// Has a claim wait until another node has nothing of the session.
    pub(super) fn wait_for(
        &mut self,
        time: Time,
        identity: &Arc<SessionIdentity>,
        host: Host,
        listed: Option<Stamp>,
        effects: &mut Effects,
    ) {
        if host == self.me {
            return;
        }
        if self.departed.contains(&host) {
            self.owe(time.now, host, identity);
            return;
        }
        let is_new = self.on_claim(identity, |claim| {
            if let Some(wait) = claim.waits.get_mut(&host) {
                wait.listed = listed.or(wait.listed);
                return false;
            }
            let (heard, next, asked_for) = (time.now, None, None);
            let wait = Wait { heard, next, listed, asked_for, meetings: 0 };
            claim.waits.insert(host, wait);
            true
        });
        if is_new == Some(true) {
            self.arm(identity, time.now + self.tuning.node_patience);
            self.ask_node(host, identity, effects);
        }
    }

    /// Asks a node that a claim waits for.
    fn ask_node(&mut self, host: Host, identity: &Arc<SessionIdentity>, effects: &mut Effects) {
        self.on_claim(identity, |claim| {
            if let Some(wait) = claim.waits.get_mut(&host) {
                (wait.next, wait.asked_for) = (None, wait.listed);
            }
        });
        self.meet(host, identity, effects);
    }

    /// Asks a node about the session.
    pub(super) fn meet(&self, host: Host, identity: &Arc<SessionIdentity>, effects: &mut Effects) {
        let Some(held) = self.sessions.get(identity) else { return };
        let claim = held.more.as_ref().and_then(|more| more.claim.as_ref());
        let meeting = Meeting {
            identity: Arc::clone(identity),
            session: held.session,
            stamp: held.stamp,
            is_claim: held.standing == Standing::Claiming,
            view: self.view.id(),
            is_unsure: claim.is_some_and(|claim| claim.is_unsure),
        };
        effects.push_back(Effect::Meet(host, meeting));
    }

    /// A node that a claim waits for has answered, or has not. The session is claiming.
    pub(super) fn claim_met(
        &mut self,
        time: Time,
        host: Host,
        identity: &Arc<SessionIdentity>,
        verdict: Option<Verdict>,
        effects: &mut Effects,
    ) {
        let me = self.me;
        let Some(held) = self.sessions.get_mut(identity) else { return };
        let own = (held.stamp, me);
        let Some(wait) = held.claim().and_then(|claim| claim.waits.get_mut(&host)) else { return };
        if verdict.is_some() {
            wait.heard = time.now;
        }
        match verdict {
            None => {
                let next = time.now + self.tuning.again;
                wait.next = Some(next);
                self.arm(identity, next);
            }
            Some(Verdict::Again) => self.ask_node(host, identity, effects),
            Some(Verdict::Gone { was_held }) => {
                let listed = wait.asked_for.filter(|_| !was_held);
                self.on_claim(identity, |claim| claim.waits.remove(&host));
                if let (Some(stamp), Some(server)) = (listed, self.view.server(identity)) {
                    // The server is behind.
                    let (identity, stamp) = (Arc::clone(identity), Some(stamp));
                    let question = Question::Remove { identity, host, stamp };
                    effects.push_back(Effect::Ask(server, question));
                }
                self.try_grant(identity, effects);
            }
            Some(Verdict::Stays { stamp, is_live }) => {
                wait.meetings += 1;
                let is_beaten = !is_live && (stamp, host) > own;
                if is_beaten || wait.meetings > self.tuning.meetings_max {
                    self.stats.lost += 1;
                    self.end(identity, effects);
                    self.judge(time, identity, effects);
                    self.tidy(identity);
                    return;
                }
                // Whoever has just come is newer than whoever was there.
                self.overtake(time, identity, stamp, effects);
                self.ask_node(host, identity, effects);
            }
        }
    }

    /// Makes a claim newer than a stamp.
    pub(super) fn overtake(
        &mut self,
        time: Time,
        identity: &Arc<SessionIdentity>,
        stamp: Stamp,
        effects: &mut Effects,
    ) {
        self.clock.observe(stamp);
        let newer = self.clock.tick(time.wall);
        let Some(held) = self.sessions.get_mut(identity) else { return };
        if held.stamp > stamp {
            return;
        }
        held.stamp = newer;
        if let Some(server) = self.view.server(identity) {
            self.register(server, identity, false, effects);
            self.link_asked(server);
        }
    }

    /// The membership has changed, or a time has come.
    pub(super) fn reconsider(
        &mut self,
        time: Time,
        identity: &Arc<SessionIdentity>,
        effects: &mut Effects,
    ) {
        let (now, patience) = (time.now, self.tuning.node_patience);
        let Some(claim) = self.sessions.get_mut(identity).and_then(Held::claim) else { return };
        let servers = self.view.servers();
        let late = claim.asked.take_if(|(server, due)| *due <= now || !servers.contains(server));
        let departed = &self.departed;
        let is_lost =
            |host: &Host, wait: &Wait| departed.contains(host) || now.since(wait.heard) >= patience;
        let lost: Vec<Host> = claim
            .waits
            .extract_if(.., |host, wait| is_lost(host, wait))
            .map(|(host, _)| host)
            .collect();
        let is_due = |wait: &Wait| wait.next.is_some_and(|next| next <= now);
        let again = claim.waits.iter().filter(|(_, wait)| is_due(wait));
        let again: Vec<Host> = again.map(|(host, _)| *host).collect();
        for host in again {
            self.ask_node(host, identity, effects);
        }
        for host in lost {
            self.stats.given_up += 1;
            self.owe(now, host, identity);
        }
        if let Some((server, _)) = late {
            self.link_broke(time, server);
            self.ask_all_unsure(time, identity, effects);
        }
        if !self.try_grant(identity, effects)
            && let Some(due) = self.claim_due(identity)
        {
            self.arm(identity, due);
        }
    }

    fn claim_due(&mut self, identity: &Arc<SessionIdentity>) -> Option<Instant> {
        let patience = self.tuning.node_patience;
        let claim = self.sessions.get_mut(identity)?.claim()?;
        let asked = claim.asked.map(|(_, due)| due);
        let waits = claim.waits.values().map(|wait| {
            let lost = wait.heard + patience;
            wait.next.map_or(lost, |next| next.min(lost))
        });
        asked.into_iter().chain(waits).min()
    }

    /// Grants a claim that waits for nobody; whether it did.
    pub(super) fn try_grant(
        &mut self,
        identity: &Arc<SessionIdentity>,
        effects: &mut Effects,
    ) -> bool {
        let Some(held) = self.sessions.get_mut(identity) else { return false };
        let Some(more) = &mut held.more else { return false };
        let is_waiting = more.claim.as_ref().is_none_or(Claim::is_waiting);
        if is_waiting || !more.ending.is_empty() {
            return false;
        }
        more.claim = None;
        held.standing = Standing::Live;
        effects.push_back(Effect::Grant(held.session));
        self.tidy(identity);
        true
    }

    fn on_claim<T>(
        &mut self,
        identity: &Arc<SessionIdentity>,
        change: impl FnOnce(&mut Claim) -> T,
    ) -> Option<T> {
        self.sessions.get_mut(identity)?.claim().map(change)
    }
}

#[cfg(test)]
#[path = "claim_test.rs"]
mod tests;

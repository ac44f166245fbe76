//! A node's part of the directory: the sessions that it holds, and the claims of clients that have
//! just come.
//!
//! A claim is granted once nobody else has the session: nobody here, none of the nodes that its
//! server names, and, unless the server says that it knows all, no node at all. Whoever has it is
//! met (`meet`): of two that meet, one is left. A server that is asked no more or that is new is
//! told all sessions that belong to it (`sync`); that is no claim, and kicks only what is older.
//!
//! Invariants:
//!
//! - a session that was granted is alone here: whatever the node had of it before has ended;
//! - a session that is to end was told so once, and stays until it has ended;
//! - a claim waits for somebody, or for its server, or has its answer.
//!
//! What a claim waits for has an end in time: a server that does not answer is passed over, and a
//! node that is not heard is given up, and owed an end to what it may have (`debts`).

mod claim;
mod debts;
mod meet;
mod sync;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ratatosk_clock::Instant;
use ratatosk_contract::{SessionIdentity, SessionRef};
use smallvec::SmallVec;

use self::claim::Claim;
use self::debts::Debts;
use self::meet::Asker;
use self::sync::Link;
use crate::protocol::message::{Meeting, Question, Reply, Verdict};
use crate::protocol::stamp::{Host, Stamp, StampClock, Time};
use crate::protocol::view::View;

/// Hosts that went, and hosts that are not seen yet, that are remembered.
const STRANGERS_MAX: usize = 1_024;

/// Times and bounds.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How long a server has to answer before it is passed over.
    pub server_patience: Duration,
    /// How long a node has to be heard before it is taken for unreachable.
    pub node_patience: Duration,
    /// When whoever waits for the end of a session is told that it goes on.
    pub interim: Duration,
    /// Time between two attempts at the same.
    pub again: Duration,
    /// How long a node asks all the others after it has met one that sees other servers, or that
    /// could not rely on its server.
    pub unsettled: Duration,
    /// Time between two looks at what a server has of this node.
    pub beat: Duration,
    /// Sessions that are registered anew in a second, at all servers together.
    pub sync_per_second: u32,
    /// Of those, how many may be without an answer at one server.
    pub sync_window: usize,
    /// How long a node that was given up is owed the end of its sessions.
    pub debt_lasts: Duration,
    /// Debts at a time; what is more is forgotten, and found again when servers are told.
    pub debts_max: usize,
    /// How often one claim meets the same node again because it has just been overtaken there.
    pub meetings_max: u32,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            server_patience: Duration::from_millis(1_500),
            node_patience: Duration::from_secs(3),
            interim: Duration::from_millis(100),
            again: Duration::from_millis(200),
            unsettled: Duration::from_secs(15),
            beat: Duration::from_secs(1),
            sync_per_second: 200_000,
            sync_window: 4_096,
            debt_lasts: Duration::from_secs(600),
            debts_max: 65_536,
            meetings_max: 16,
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask a server. What it says is to be told by [`Roster::replied`]; in order.
    Ask(Host, Question),
    /// Ask another node. What it says is to be told by [`Roster::met`].
    Meet(Host, Meeting),
    /// Answer another node that asked under this ticket.
    Answer(u64, Verdict),
    /// End a session: a newer connection has it, or it cannot be registered. [`Roster::remove`]
    /// tells when it has ended.
    End(SessionRef),
    /// Tell a session that it is alone.
    Grant(SessionRef),
}

/// What is to be done, in order. Bounded by what one input can cause: a few for each node.
pub type Effects = VecDeque<Effect>;

/// See the module.
#[derive(Debug)]
pub struct Roster {
    me: Host,
    tuning: Tuning,
    view: Arc<View>,
    /// The other nodes.
    peers: BTreeSet<Host>,
    /// Nodes that were there, the last to go last.
    departed: VecDeque<Host>,
    /// Nodes that have asked and are not seen yet, and until when they are remembered.
    heard: BTreeMap<Host, Instant>,
    clock: StampClock,
    sessions: BTreeMap<Arc<SessionIdentity>, Held>,
    links: BTreeMap<Host, Link>,
    debts: Debts,
    /// When to look at a session next.
    timers: BTreeSet<(Instant, Arc<SessionIdentity>)>,
    unsettled_until: Option<Instant>,
    /// Sessions that may be registered anew, and when that was counted.
    allowance: (u64, Option<Instant>),
    stats: RosterStats,
}

/// What a roster did so far.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct RosterStats {
    /// Claims that took a session over, here or elsewhere.
    pub replaced: u64,
    /// Sessions that were ended for a newer connection at another node.
    pub taken_over: u64,
    /// Claims that were refused, because another one was newer.
    pub lost: u64,
    /// Claims for which every node was asked.
    pub asked_all: u64,
    /// Nodes that were given up while a claim waited for them.
    pub given_up: u64,
    /// Sessions that were registered anew.
    pub registered_anew: u64,
    /// Debts that had no room.
    pub debts_dropped: u64,
    /// Debts now.
    pub debts: u64,
}

/// A session of this node.
#[derive(Debug)]
struct Held {
    stamp: Stamp,
    session: SessionRef,
    standing: Standing,
    more: Option<Box<More>>,
}

const _: () = assert!(size_of::<Held>() <= 32, "there is one for each of millions of sessions");

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// It waits for others to end.
    Claiming,
    /// It is alone.
    Live,
    /// It was told to end.
    Ending,
}

/// What few sessions have.
#[derive(Debug, Default)]
struct More {
    /// Connections that had the session here before, and have not ended yet.
    ending: SmallVec<[SessionRef; 2]>,
    /// There is one as long as it is [`Standing::Claiming`].
    claim: Option<Claim>,
    /// Who waits for its end.
    askers: SmallVec<[Asker; 1]>,
    /// When it is looked at.
    due: Option<Instant>,
}

impl Held {
    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    fn claim(&mut self) -> Option<&mut Claim> {
        self.more.as_mut()?.claim.as_mut()
    }
}

impl Roster {
    /// The roster of a node that sees nobody yet.
    #[must_use]
    pub fn new(me: Host, tuning: Tuning) -> Self {
        Self {
            me,
            tuning,
            view: Arc::default(),
            peers: BTreeSet::new(),
            departed: VecDeque::new(),
            heard: BTreeMap::new(),
            clock: StampClock::default(),
            sessions: BTreeMap::new(),
            links: BTreeMap::new(),
            debts: Debts::default(),
            timers: BTreeSet::new(),
            unsettled_until: None,
            allowance: (0, None),
            stats: RosterStats::default(),
        }
    }

    /// Sees these servers and these nodes from now on.
    pub fn set_members(
        &mut self,
        time: Time,
        view: View,
        peers: &BTreeSet<Host>,
        effects: &mut Effects,
    ) {
        let gone: Vec<Host> = self.peers.difference(peers).copied().collect();
        self.peers.clone_from(peers);
        self.peers.remove(&self.me);
        self.departed.retain(|host| !peers.contains(host));
        self.heard.retain(|host, until| *until > time.now && !peers.contains(host));
        self.departed.extend(gone.iter().filter(|host| **host != self.me));
        while self.departed.len() > STRANGERS_MAX {
            self.departed.pop_front();
        }
        if view.id() != self.view.id() {
            let before = std::mem::replace(&mut self.view, Arc::new(view));
            self.links.values_mut().for_each(|link| link.leave(before.id()));
        }
        let servers = self.view.servers();
        for (_, link) in self.links.iter_mut().filter(|(host, _)| !servers.contains(host)) {
            link.forget();
        }
        for host in servers {
            self.links.entry(*host).or_default();
        }
        self.debts.wake(time.now);
        // Claims that wait for one that is gone, whichever that is. Only those that wait have timers.
        let waiting: Vec<_> =
            self.timers.iter().map(|(_, identity)| Arc::clone(identity)).collect();
        for identity in waiting {
            self.reconsider(time, &identity, effects);
        }
    }

    /// Ends what has taken too long, and goes on telling servers. To be called every 20 ms or so.
    pub fn tick(&mut self, time: Time, effects: &mut Effects) {
        while let Some((due, identity)) = self.timers.first().cloned() {
            if due > time.now {
                break;
            }
            self.timers.remove(&(due, Arc::clone(&identity)));
            if let Some(held) = self.sessions.get_mut(&identity) {
                held.more().due = None;
            }
            self.look(time, &identity, effects);
        }
        self.sync(time, effects);
        self.pay(time, effects);
    }

    /// A server has answered, or what it was asked is in doubt.
    pub fn replied(
        &mut self,
        time: Time,
        server: Host,
        question: &Question,
        reply: Option<Reply>,
        effects: &mut Effects,
    ) {
        match question {
            Question::Register { identity, session, is_claim, .. } => {
                if !is_claim {
                    self.link_answered(server);
                }
                let is_known = matches!(reply, Some(Reply::Registered { .. }));
                if !is_known {
                    self.link_broke(time, server);
                }
                self.registered(time, server, identity, *session, reply, effects);
            }
            Question::Remove { .. } if reply.is_none() => self.link_broke(time, server),
            Question::Remove { .. } => {}
            Question::Begin { view, base } => match reply {
                Some(Reply::Begun(begun, round)) => {
                    self.begun(time, server, (*view, *base), begun, round);
                }
                _ => self.link_broke(time, server),
            },
            Question::Commit { view, round } => match reply {
                Some(Reply::Committed) => self.committed(time, server, *view, *round),
                _ => self.link_broke(time, server),
            },
        }
    }

    /// The connection that has a session now, whether it was told so or not.
    #[must_use]
    pub fn find(&self, identity: &SessionIdentity) -> Option<SessionRef> {
        self.sessions.get(identity).map(|held| held.session)
    }

    /// The same, and since when it is registered.
    #[must_use]
    pub fn held(&self, identity: &SessionIdentity) -> Option<(SessionRef, Stamp)> {
        self.sessions.get(identity).map(|held| (held.session, held.stamp))
    }

    /// The sessions of this node from one on, in the order of identities.
    pub fn sessions(
        &self,
        from: std::ops::Bound<&SessionIdentity>,
    ) -> impl Iterator<Item = (&Arc<SessionIdentity>, SessionRef)> {
        let range = self.sessions.range::<SessionIdentity, _>((from, std::ops::Bound::Unbounded));
        range.map(|(identity, held)| (identity, held.session))
    }

    /// How many sessions this node has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> RosterStats {
        RosterStats { debts: self.debts.len() as u64, ..self.stats }
    }

    /// The servers as this node sees them.
    #[must_use]
    pub const fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The other nodes.
    #[must_use]
    pub const fn peers(&self) -> &BTreeSet<Host> {
        &self.peers
    }

    /// Whether all servers have all that this node holds.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        let has = |host| self.links.get(host).is_some_and(|link| link.has(self.view.id()));
        self.view.servers().iter().all(has)
    }

    /// Whether a session was told that it is alone, and has not been told to end.
    #[must_use]
    pub fn is_live(&self, identity: &SessionIdentity) -> bool {
        self.sessions.get(identity).is_some_and(|held| held.standing == Standing::Live)
    }

    /// Looks at a session at a time at the latest.
    fn arm(&mut self, identity: &Arc<SessionIdentity>, due: Instant) {
        let Some(held) = self.sessions.get_mut(identity) else { return };
        let more = held.more();
        if more.due.is_some_and(|before| before <= due) {
            return;
        }
        if let Some(before) = more.due.replace(due) {
            self.timers.remove(&(before, Arc::clone(identity)));
        }
        self.timers.insert((due, Arc::clone(identity)));
    }

    /// Forgets what a session does not need any more.
    fn tidy(&mut self, identity: &Arc<SessionIdentity>) {
        let Some(held) = self.sessions.get_mut(identity) else { return };
        let Some(more) = &held.more else { return };
        if more.claim.is_none() && more.askers.is_empty() {
            if let Some(due) = more.due {
                self.timers.remove(&(due, Arc::clone(identity)));
            }
            if more.ending.is_empty() {
                held.more = None;
            } else {
                held.more().due = None;
            }
        }
    }

    /// Tells the newest connection of a session to end.
    fn end(&mut self, identity: &Arc<SessionIdentity>, effects: &mut Effects) {
        let Some(held) = self.sessions.get_mut(identity) else { return };
        if held.standing == Standing::Ending {
            return;
        }
        held.standing = Standing::Ending;
        if let Some(more) = &mut held.more {
            more.claim = None;
        }
        effects.push_back(Effect::End(held.session));
    }

    fn is_unsettled(&self, now: Instant) -> bool {
        self.unsettled_until.is_some_and(|until| now < until)
    }

    /// Checks what must hold between two inputs.
    ///
    /// # Panics
    /// If it does not.
    pub fn check_invariants(&self) {
        for (identity, held) in &self.sessions {
            let more = held.more.as_deref();
            let claim = more.and_then(|more| more.claim.as_ref());
            let is_claiming = held.standing == Standing::Claiming;
            assert_eq!(claim.is_some(), is_claiming, "{identity}: {held:?}");
            if held.standing == Standing::Live {
                assert!(more.is_none_or(|more| more.ending.is_empty()), "{identity}: {held:?}");
            }
            if let Some(due) = more.and_then(|more| more.due) {
                assert!(self.timers.contains(&(due, Arc::clone(identity))), "{identity}: {held:?}");
            }
            let has_timer = more.is_some_and(|more| more.due.is_some());
            let waits = claim.is_some_and(Claim::is_waiting);
            assert!(!waits || has_timer, "{identity}: nobody looks at it: {held:?}");
        }
        assert!(self.timers.len() <= self.sessions.len());
    }
}

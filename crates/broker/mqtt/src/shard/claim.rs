//! From CONNECT to a session that is this connection's alone.
//!
//! First the provider says who the client is. Then the directory says who holds the session now;
//! that connection is ended first, wherever it is, and only then the state is taken over: so two
//! owners never both act.
//!
//! A directory of one node names the predecessor, which is sent a kick, and its shard sends word
//! when it has ended. A connection that ends while it waits, because it is taken over itself or for
//! a reason of its own, leaves an orphan behind: what was to tell it that its predecessor has ended
//! is passed on to who took it over, or to the directory. An orphan lasts until its predecessor's
//! shard has seen one note.
//!
//! A directory of several nodes sees to all of that itself, and says when the session is free or
//! that this connection is to end; it is told of every end.
//!
//! The session's inbox may be on another host, and answer later. A connection that ends meanwhile is an
//! orphan, too: it may become the state's owner yet, and so who comes next waits until it has given it
//! back, for a bounded time.

use std::sync::Arc;

use ratatosk_clock::Instant;
use ratatosk_codec::ReasonCode;
use ratatosk_contract::{
    SessionIdentity, SessionRef,
    inbox::NotServed,
    session_dict::{EndCause, Registered},
};
use ratatosk_plugin::answer::Answer as Later;
use ratatosk_session::{Answer, ClaimRequest, Farewell, Request};

use super::{
    Shard,
    connection::{Connection, Flow, Rare},
    events::connection_number,
    mailbox::Note,
    runner,
    shaper::Shapers,
};
use crate::gate::{self, Decision};

/// A connection that ended while it waited for its predecessor's end, or for its inbox.
pub(super) struct Orphan {
    /// The session that it waited for.
    identity: Arc<SessionIdentity>,
    /// Who took it over, and waits in its place.
    heir: Option<SessionRef>,
    /// When its inbox is not waited for any more; a predecessor's end always comes.
    until: Option<Instant>,
}

impl Shard {
    /// Sets about what the session asked for. The connection is in hands.
    pub(super) fn start_request(&mut self, session: SessionRef, connection: &mut Box<Connection>) {
        let later = match connection.session.take_request() {
            None => return,
            Some(Request::Authenticate(credentials)) => {
                let rare = connection.local.rare.as_ref();
                let proven = rare.and_then(|rare| rare.proven.clone());
                let asked = gate::Asked {
                    credentials: *credentials,
                    peer: connection.peer,
                    listener: &connection.listener,
                    certificate: connection
                        .pipeline
                        .as_ref()
                        .and_then(|layers| layers.pipeline.peer().certificate.as_deref()),
                    connection: connection_number(session),
                    identity: proven.as_deref(),
                };
                gate::authenticate(&self.node.plugins, asked, &mut connection.local)
            }
            Some(Request::Exchange(data)) => {
                gate::exchange(&self.node.plugins, &data, &mut connection.local)
            }
            Some(Request::Claim(claim)) => {
                self.claim(session, connection, claim);
                return;
            }
        };
        match later {
            Later::Now(decision) => self.decide(session, connection, decision),
            Later::Later(decision) => runner::spawn(async move {
                let decision = decision.await;
                runner::with(|shard| shard.decided(session, decision));
            }),
        }
    }

    /// A decision came later.
    fn decided(&mut self, session: SessionRef, decision: Decision) {
        self.now = self.node.clock.now();
        self.hold(session, |shard, connection| shard.decide(session, connection, decision));
        self.wake_flusher();
    }

    fn decide(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        decision: Decision,
    ) {
        let answer = match decision {
            Decision::Granted { mut grant, identity } => {
                grant.tenant = self.node.tenants.share(&grant.tenant);
                // Where everybody may do everything nobody needs to be asked who he is.
                let is_free = self.node.plugins.allows_everything() || identity.superuser;
                let identity = Arc::new(identity);
                if let Some(rare) =
                    connection.local.rare.as_mut().filter(|rare| rare.exchange.is_some())
                {
                    rare.proven = Some(Arc::clone(&identity));
                }
                connection.local.identity = (!is_free).then_some(identity);
                Answer::Granted(grant)
            }
            Decision::Continue { data } => Answer::Continue { data },
            Decision::Denied(denial) => Answer::Denied(denial),
        };
        self.answer(session, connection, answer);
    }

    /// Hands an answer to the session, and goes on with what it asks next.
    pub(super) fn answer(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        answer: Answer,
    ) {
        let was_live = connection.session.is_live();
        self.lend(session, connection, |machine, now, link| machine.answer(now, answer, link));
        if connection.session.farewell().is_some() {
            self.after_session(session, connection);
            return;
        }
        if !was_live && connection.session.is_live() {
            self.on_live(session, connection);
        }
        if connection.state == Flow::Waiting {
            connection.read_on(self.now);
        }
        self.start_request(session, connection);
        self.after_session(session, connection);
    }

    fn on_live(&mut self, session: SessionRef, connection: &mut Connection) {
        self.stats.connected += 1;
        self.stats.live += 1;
        connection.connect_by = None;
        connection.shapers = Shapers::new(self.now, connection.session.settings());
        if let Some(due) = connection.next_deadline() {
            self.file_in_hands(session, connection, due);
        }
        self.report_connected(session, connection);
        if let Some(identity) = connection.session.identity() {
            tracing::debug!(
                tenant = identity.tenant.as_str(),
                client = identity.client.as_str(),
                peer = %connection.peer,
                version = %connection.session.version(),
                "client connected"
            );
        }
    }

    /// Makes this connection the session's owner, once nobody else is.
    fn claim(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        claim: Box<ClaimRequest>,
    ) {
        connection.state = Flow::Waiting;
        let tenant = self.node.tenants.number(&claim.identity.tenant);
        self.open_tenant(tenant);
        connection.local.tenant = Some(tenant);
        connection.local.incarnation = self.node.incarnation(self.now);
        connection.hold.move_to(self.tenant(tenant).account.clone());
        let before = match self.node.session_dict.register(&claim.identity, session) {
            Registered::Replaces(before) if before != session => before,
            Registered::Pending => {
                let rare = connection.local.rare();
                rare.pending_claim = Some(claim);
                rare.is_claim_with_directory = true;
                return;
            }
            Registered::Alone | Registered::Replaces(_) => {
                self.own(session, connection, claim);
                return;
            }
        };
        connection.local.rare().pending_claim = Some(claim);
        let mailbox = &self.node.mailboxes[before.shard.index()];
        mailbox.note(Note::Kick { session: before, by: session });
    }

    /// Ends a session that `by` takes over. [MQTT-3.1.4-3] MQTT-042
    pub(super) fn kick(&mut self, session: SessionRef, by: SessionRef) {
        if self.is_claiming(session) {
            self.refuse_claim(session, "a newer connection took the session over");
        }
        if let Some(orphan) = self.orphans.get_mut(&session) {
            debug_assert!(orphan.heir.is_none(), "the directory names each owner once");
            orphan.heir = Some(by);
            return;
        }
        self.end(session, Farewell::TakenOver);
        self.node.mailboxes[by.shard.index()].note(Note::Kicked { waiter: by });
    }

    /// The directory has a session ended. [MQTT-3.1.4-3] MQTT-042, DICT-001
    pub(super) fn end_by_directory(&mut self, session: SessionRef, cause: EndCause) {
        let is_claiming = self.is_claiming(session);
        match cause {
            EndCause::Kicked => self.end(session, Farewell::Kicked),
            EndCause::TakenOver if is_claiming => {
                self.refuse_claim(session, "a newer connection took the session over");
            }
            EndCause::TakenOver => self.end(session, Farewell::TakenOver),
            EndCause::Overloaded => self.refuse_claim(session, "the session directory is busy"),
        }
    }

    fn is_claiming(&mut self, session: SessionRef) -> bool {
        let rare = self.connection(session).and_then(|connection| connection.local.rare.as_ref());
        rare.is_some_and(|rare| rare.pending_claim.is_some())
    }

    /// Ends a connection that never had its session: CONNACK has no code for one that was taken
    /// over, and DISCONNECT would come before CONNACK. [MQTT-3.2.0-1]
    fn refuse_claim(&mut self, session: SessionRef, detail: &str) {
        let code = ReasonCode::ServerBusy;
        self.end(session, Farewell::Refused { code, detail: detail.to_owned() });
    }

    /// A connection ended while it waited for a session. Unless the directory sees to that, it stays the
    /// session's registered owner until its predecessor has ended, so that who comes next waits for that,
    /// too; and until its inbox has answered, for up to then it may become the session's owner.
    pub(super) fn leave_claim(
        &mut self,
        session: SessionRef,
        identity: Arc<SessionIdentity>,
        rare: &Rare,
    ) {
        let until = match (rare.is_claim_with_inbox, rare.is_claim_with_directory) {
            (true, _) => Some(self.now + self.node.inbox_patience),
            (false, true) => {
                self.node.session_dict.remove(&identity, session);
                return;
            }
            (false, false) => None,
        };
        self.orphans.insert(session, Orphan { identity, heir: None, until });
    }

    /// Lets those go on whose predecessors' inboxes did not answer.
    pub(super) fn give_up_orphans(&mut self) {
        if self.orphans.is_empty() {
            return;
        }
        let is_over = |orphan: &Orphan| orphan.until.is_some_and(|until| until <= self.now);
        let over: Vec<SessionRef> =
            self.orphans.iter().filter(|(_, held)| is_over(held)).map(|(at, _)| *at).collect();
        over.into_iter().for_each(|orphan| self.kicked(orphan));
    }

    /// The predecessor of `waiter` has ended, or `waiter` itself, which waited for its inbox, has.
    pub(super) fn kicked(&mut self, waiter: SessionRef) {
        match self.orphans.remove(&waiter) {
            Some(Orphan { heir: Some(heir), .. }) => {
                self.node.mailboxes[heir.shard.index()].note(Note::Kicked { waiter: heir });
            }
            // If it is not the owner any more, then who is will be told when its kick comes.
            Some(Orphan { identity, heir: None, .. }) => {
                self.node.session_dict.remove(&identity, waiter);
            }
            None => self.own_pending(waiter),
        }
    }

    /// Nobody has the session any more that `waiter` waits for.
    pub(super) fn own_pending(&mut self, waiter: SessionRef) {
        self.hold(waiter, |shard, connection| {
            let rare = connection.local.rare.as_mut().filter(|rare| !rare.is_claim_with_inbox);
            if let Some(claim) = rare.and_then(|rare| rare.pending_claim.take()) {
                shard.own(waiter, connection, claim);
            }
        });
        self.wake_flusher();
    }

    /// Why a connection ends that was not live in time.
    pub(super) fn late_farewell(connection: &Connection) -> Farewell {
        let rare = connection.local.rare.as_ref();
        match rare.is_some_and(|rare| rare.is_claim_with_inbox) {
            true => unserved(),
            false => Farewell::ConnectTimeout,
        }
    }
}

pub(super) fn unserved() -> Farewell {
    let code = ReasonCode::ServerUnavailable;
    Farewell::Refused { code, detail: NotServed.to_string() }
}

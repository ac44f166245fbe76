//! From CONNECT to a session that is this connection's alone.
//!
//! First the provider says who the client is. Then the directory says who holds the session now;
//! that connection is ended first, wherever it is, and only then the state is taken over: so two
//! owners never both act. A connection that is taken over while it waits itself passes the wait
//! on to who took it over.

use std::sync::Arc;

use ratatosk_clock::Instant;
use ratatosk_contract::{
    Call, SessionRef,
    inbox::{Attach, Sequence},
};
use ratatosk_plugin::answer::Answer as Later;
use ratatosk_session::{Admission, Answer, ClaimRequest, Claimed, Denial, Farewell, Request};

use super::{
    Shard,
    connection::{Connection, Flow},
    events::connection_number,
    link::Link,
    mailbox::Note,
    runner,
    shaper::Shapers,
};
use crate::gate::{self, Decision};

impl Shard {
    /// Sets about what the session asked for. The connection is in hands.
    pub(super) fn start_request(&mut self, session: SessionRef, connection: &mut Box<Connection>) {
        let later = match connection.session.take_request() {
            None => return,
            Some(Request::Authenticate(credentials)) => {
                let identity = connection.local.identity.clone();
                let asked = gate::Asked {
                    credentials: *credentials,
                    peer: connection.peer,
                    listener: &connection.listener,
                    certificate: connection
                        .pipeline
                        .as_ref()
                        .and_then(|layers| layers.pipeline.peer().certificate.as_deref()),
                    connection: connection_number(session),
                    identity: identity.as_deref(),
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
        let Some(mut connection) = self.take(session) else { return };
        self.decide(session, &mut connection, decision);
        self.put(session, connection);
        self.wake_flusher();
    }

    fn decide(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        decision: Decision,
    ) {
        let answer = match decision {
            Decision::Granted { grant, identity } => {
                // Where everybody may do everything nobody needs to be asked who he is.
                let is_free = self.node.plugins.allows_everything() || identity.superuser;
                connection.local.identity = (!is_free).then(|| Arc::new(identity));
                Answer::Granted(grant)
            }
            Decision::Continue { data } => Answer::Continue { data },
            Decision::Denied(denial) => Answer::Denied(denial),
        };
        self.answer(session, connection, answer);
    }

    /// Hands an answer to the session, and goes on with what it asks next.
    fn answer(&mut self, session: SessionRef, connection: &mut Box<Connection>, answer: Answer) {
        let Connection { session: machine, local, .. } = &mut **connection;
        let settings = Arc::clone(machine.settings());
        let publisher = machine.publisher().0;
        let now = self.now;
        let was_live = machine.is_live();
        let mut link = Link { shard: self, local, session, settings: &settings, publisher };
        machine.answer(now, answer, &mut link);
        if connection.session.farewell().is_some() {
            self.end_in_hands(session, connection, Farewell::PeerClosed);
            return;
        }
        if !was_live && connection.session.is_live() {
            self.on_live(session, connection);
        }
        if connection.state == Flow::Waiting {
            connection.state = Flow::Reading;
            connection.wake();
        }
        self.start_request(session, connection);
        self.after_session(session, connection);
    }

    fn on_live(&mut self, session: SessionRef, connection: &mut Connection) {
        self.stats.connected += 1;
        self.stats.live += 1;
        connection.deadline = None;
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
        let held = connection.charged;
        Shard::charge(connection, held, 0);
        connection.account = self.node.memory.account(claim.identity.tenant.as_str());
        Shard::charge(connection, 0, held);
        let before = self.node.session_dict.register(&claim.identity, session);
        let Some(before) = before.filter(|before| *before != session) else {
            self.own(session, connection, &claim);
            return;
        };
        connection.local.rare().pending_claim = Some(claim);
        let mailbox = &self.node.mailboxes[before.shard.index()];
        mailbox.note(Note::Kick { session: before, by: session });
    }

    /// Ends a session that `by` takes over. [MQTT-3.1.4-3] MQTT-042
    pub(super) fn kick(&mut self, session: SessionRef, by: SessionRef) {
        let is_waiting = self
            .connection(session)
            .and_then(|connection| connection.local.rare.as_ref())
            .is_some_and(|rare| rare.pending_claim.is_some());
        if is_waiting {
            // It never had the session: CONNACK has no code for one that was taken over, and
            // DISCONNECT would come before CONNACK. [MQTT-3.2.0-1]
            let detail = "a newer connection took the session over".to_owned();
            let code = ratatosk_codec::ReasonCode::ServerBusy;
            self.end(session, Farewell::Refused { code, detail });
            // Its own predecessor may not have ended yet.
            self.heirs.insert(session, by);
            return;
        }
        self.end(session, Farewell::TakenOver);
        self.node.mailboxes[by.shard.index()].note(Note::Kicked { waiter: by });
    }

    /// The predecessor of `waiter` has ended.
    pub(super) fn kicked(&mut self, waiter: SessionRef) {
        if let Some(heir) = self.heirs.remove(&waiter) {
            self.node.mailboxes[heir.shard.index()].note(Note::Kicked { waiter: heir });
            return;
        }
        let Some(mut connection) = self.take(waiter) else { return };
        let claim = connection.local.rare.as_mut().and_then(|rare| rare.pending_claim.take());
        if let Some(claim) = claim {
            self.own(waiter, &mut connection, &claim);
        }
        self.put(waiter, connection);
        self.wake_flusher();
    }

    /// Takes the session's state over: nobody else has it now.
    fn own(&mut self, session: SessionRef, connection: &mut Box<Connection>, claim: &ClaimRequest) {
        let claimed = match claim.admission {
            Admission::Transient if claim.is_clean => {
                // [MQTT-3.1.2-4]
                let _ = self.node.inbox.discard(&claim.identity, self.now);
                Some(Claimed {
                    is_present: false,
                    is_persistent: false,
                    inbound: Vec::new(),
                    sent: Sequence(0),
                })
            }
            Admission::Transient => self.attach(session, connection, claim, Some(0)),
            Admission::Persistent(expiry_s) => self.attach(session, connection, claim, expiry_s),
        };
        let answer = match claimed {
            Some(claimed) => Answer::Claimed(Box::new(claimed)),
            None => Answer::Denied(Denial {
                code: ratatosk_codec::ReasonCode::ServerBusy,
                detail: "the session's state cannot be reached".to_owned(),
            }),
        };
        self.answer(session, connection, answer);
    }

    fn attach(
        &mut self,
        session: SessionRef,
        connection: &mut Connection,
        claim: &ClaimRequest,
        expiry_s: Option<u32>,
    ) -> Option<Claimed> {
        let attach = Attach {
            identity: &claim.identity,
            owner: session,
            is_clean: claim.is_clean,
            expiry_s,
            limits: claim.limits,
            now: self.now,
        };
        let Call::Ready(attached) = self.node.inbox.attach(&attach) else { return None };
        connection.local.claim = Some(attached.claim);
        connection.local.member = Some(attached.member);
        if connection.local.identity.is_some() {
            let filters =
                attached.subscriptions.into_iter().map(|subscription| subscription.filter);
            connection.local.rare().persistent = filters.collect();
        }
        connection.local.incarnation = attached.incarnation;
        Some(Claimed {
            is_present: attached.is_present,
            is_persistent: true,
            inbound: attached.inbound,
            sent: attached.sent,
        })
    }

    /// A settled publish of a session.
    pub(super) fn settle(
        &mut self,
        session: SessionRef,
        ticket: ratatosk_contract::Ticket,
        settlement: ratatosk_contract::call::Settlement,
    ) {
        self.with_session(session, |machine, _, link| machine.settle(ticket, settlement, link));
    }

    /// A session's inbox has more.
    pub(super) fn inbox_ready(&mut self, session: SessionRef) {
        self.with_session(session, |machine, now, link| machine.inbox_ready(now, link));
    }

    /// Works on what a live session has in the broker.
    pub(super) fn with_link(&mut self, session: SessionRef, work: impl FnOnce(&mut Link<'_>)) {
        let Some(mut connection) = self.take(session) else { return };
        let Connection { session: machine, local, .. } = &mut *connection;
        if machine.is_live() {
            let settings = Arc::clone(machine.settings());
            let publisher = machine.publisher().0;
            work(&mut Link { shard: self, local, session, settings: &settings, publisher });
        }
        self.put(session, connection);
    }

    /// Lets a session work outside of its own turn.
    pub(super) fn with_session(
        &mut self,
        session: SessionRef,
        work: impl FnOnce(&mut ratatosk_session::Session, Instant, &mut Link<'_>),
    ) {
        let Some(mut connection) = self.take(session) else { return };
        let Connection { session: machine, local, .. } = &mut *connection;
        let settings = Arc::clone(machine.settings());
        let publisher = machine.publisher().0;
        let now = self.now;
        let mut link = Link { shard: self, local, session, settings: &settings, publisher };
        work(machine, now, &mut link);
        if connection.session.farewell().is_some() {
            self.end_in_hands(session, &mut connection, Farewell::PeerClosed);
        } else {
            self.after_session(session, &mut connection);
            if connection.state == Flow::Retrying {
                connection.state = Flow::Reading;
                connection.wake();
            }
        }
        self.put(session, connection);
    }
}

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

use std::{sync::Arc, time::Duration};

use ratatosk_clock::Instant;
use ratatosk_codec::ReasonCode;
use ratatosk_contract::{
    Call, ReplyTo, SessionIdentity, SessionRef, StoredMessage,
    call::Promised,
    inbox::{Attach, Attached, Detach, NotServed, Sequence},
    session_dict::{EndCause, Registered},
};
use ratatosk_plugin::answer::Answer as Later;
use ratatosk_session::{Admission, Answer, ClaimRequest, Claimed, Farewell, Request, WillOrder};

use super::{
    Shard,
    connection::{Connection, Flow, Rare},
    events::connection_number,
    hands::CHANGE,
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
    fn answer(&mut self, session: SessionRef, connection: &mut Box<Connection>, answer: Answer) {
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

    /// Takes the session's state over: nobody else has it now.
    fn own(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        claim: Box<ClaimRequest>,
    ) {
        let reply_to = Some(ReplyTo { session, ticket: CHANGE });
        let ready = match claim.admission {
            Admission::Transient if claim.is_clean => {
                // [MQTT-3.1.2-4]
                let discarded = self.node.inbox.discard(&claim.identity, self.now, reply_to);
                discarded.ready().map(|discarded| {
                    let discarded = discarded.map(|promised| connection.local.promised(promised));
                    self.begin_clean(session, connection, &claim, discarded);
                })
            }
            Admission::Transient | Admission::Persistent(_) => {
                let attached = self.ask_attach(&claim, session, reply_to);
                attached.ready().map(|attached| {
                    let attached = attached.map(|promised| connection.local.promised(promised));
                    self.begin_attached(session, connection, attached);
                })
            }
        };
        if ready.is_none() {
            let rare = connection.local.rare();
            rare.pending_claim = Some(claim);
            rare.is_claim_with_inbox = true;
        }
    }

    fn ask_attach(
        &self,
        claim: &ClaimRequest,
        owner: SessionRef,
        reply_to: Option<ReplyTo>,
    ) -> Call<Result<Promised<Attached>, NotServed>> {
        let expiry_s = match claim.admission {
            Admission::Transient => Some(0),
            Admission::Persistent(expiry_s) => expiry_s,
        };
        let attach = Attach {
            identity: &claim.identity,
            owner,
            is_clean: claim.is_clean,
            expiry_s,
            limits: claim.limits,
            will: claim.will.as_ref().map(|will| (undated(will, self.now), will.delay_s)),
            now: self.now,
        };
        self.node.inbox.attach(&attach, reply_to)
    }

    /// The inbox answers an attach that was pending.
    pub(super) fn attached(
        &mut self,
        session: SessionRef,
        attached: Result<Box<Attached>, NotServed>,
    ) {
        match (self.take_claim(session), attached) {
            (Some(_), attached) => {
                let attached = attached.map(|attached| *attached);
                self.hold(session, |shard, connection| {
                    shard.begin_attached(session, connection, attached);
                });
                self.wake_flusher();
            }
            (None, attached) => {
                if let Ok(attached) = attached {
                    // Its CONNACK never left: the will is not published. MQTT-048
                    let detach = Detach { expiry_s: None, will: None, now: self.now };
                    let _ = self.node.inbox.detach(attached.claim, detach, None);
                }
                self.kicked(session);
            }
        }
    }

    /// The inbox answers a discard that was pending.
    pub(super) fn discarded(&mut self, session: SessionRef, discarded: Result<bool, NotServed>) {
        let Some(claim) = self.take_claim(session) else {
            self.kicked(session);
            return;
        };
        self.hold(session, |shard, connection| {
            shard.begin_clean(session, connection, &claim, discarded);
        });
        self.wake_flusher();
    }

    /// The claim of a connection that waits for its inbox.
    fn take_claim(&mut self, session: SessionRef) -> Option<Box<ClaimRequest>> {
        let rare = self.connection(session)?.local.rare.as_mut()?;
        if !std::mem::take(&mut rare.is_claim_with_inbox) {
            return None;
        }
        rare.pending_claim.take()
    }

    /// Goes on once there is nothing of a session before this one.
    fn begin_clean(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        claim: &ClaimRequest,
        discarded: Result<bool, NotServed>,
    ) {
        let kept = discarded.and_then(|_| self.keep_will(session, connection, claim));
        if kept.is_err() {
            self.refuse_unserved(session, connection);
            return;
        }
        let claimed = Claimed {
            is_present: false,
            is_persistent: false,
            inbound: Vec::new(),
            sent: Sequence(0),
        };
        self.answer(session, connection, Answer::Claimed(Box::new(claimed)));
    }

    /// Has the will of a transient session published even if the node dies.
    fn keep_will(
        &self,
        session: SessionRef,
        connection: &mut Connection,
        claim: &ClaimRequest,
    ) -> Result<(), NotServed> {
        let Some(will) = &claim.will else { return Ok(()) };
        let message = undated(will, self.now);
        let reply_to = Some(ReplyTo { session, ticket: CHANGE });
        let (identity, delay_s) = (&claim.identity, will.delay_s);
        let kept = self.node.inbox.keep_will(identity, session, &message, delay_s, reply_to)?;
        let id = connection.local.promised(kept);
        connection.local.rare().will = Some(id);
        Ok(())
    }

    /// Goes on as the owner of a persistent session.
    fn begin_attached(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        attached: Result<Attached, NotServed>,
    ) {
        let Ok(attached) = attached else {
            self.refuse_unserved(session, connection);
            return;
        };
        connection.local.claim = Some(Box::new(attached.claim));
        connection.local.member = Some(attached.member);
        if connection.local.identity.is_some() {
            let filters =
                attached.subscriptions.into_iter().map(|subscription| subscription.filter);
            connection.local.rare().persistent = filters.collect();
        }
        connection.local.incarnation = attached.incarnation;
        let claimed = Claimed {
            is_present: attached.is_present,
            is_persistent: true,
            inbound: attached.inbound,
            sent: attached.sent,
        };
        self.answer(session, connection, Answer::Claimed(Box::new(claimed)));
    }

    /// Nobody serves the session: its client may try again.
    fn refuse_unserved(&mut self, session: SessionRef, connection: &mut Box<Connection>) {
        self.end_in_hands(session, connection, unserved());
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

fn unserved() -> Farewell {
    let code = ReasonCode::ServerUnavailable;
    Farewell::Refused { code, detail: NotServed.to_string() }
}

/// The will as it is kept while its author lives: its interval is a span, for it counts from when it
/// is due.
fn undated(will: &WillOrder, now: Instant) -> Arc<StoredMessage> {
    let deadline = will.expiry_s.map(|seconds| now + Duration::from_secs(seconds.into()));
    Arc::new(StoredMessage { accepted: now, deadline, ..(*will.message).clone() })
}

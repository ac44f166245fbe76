//! What a claim is to its inbox: asked, answered, waited for.
//!
//! The inbox may be on another host, and answer later. While nobody serves the session, since its range has
//! lost its leader, say, the client waits for a while: it would only come again.

use std::{sync::Arc, time::Duration};

use ratatosk_clock::Instant;
use ratatosk_contract::{
    Call, ReplyTo, SessionRef, StoredMessage,
    call::Promised,
    inbox::{Attach, Attached, Detach, NotServed, Sequence},
};
use ratatosk_session::{Admission, Answer, ClaimRequest, Claimed, WillOrder};

use super::{Shard, claim::unserved, connection::Connection, hands::CHANGE, runner};

/// How often it is looked whether somebody serves a session.
const SERVED_LOOK: Duration = Duration::from_millis(50);

/// What the inbox says to a claim.
enum Owned {
    /// Nothing is left of an earlier session.
    Clean(Result<bool, NotServed>),
    /// The session is the connection's.
    Attached(Result<Box<Attached>, NotServed>),
}

impl Shard {
    /// Takes the session's state over: nobody else has it now.
    pub(super) fn own(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        claim: Box<ClaimRequest>,
    ) {
        let reply_to = Some(ReplyTo { session, ticket: CHANGE });
        let is_clean = matches!(claim.admission, Admission::Transient) && claim.is_clean;
        let answer = if is_clean {
            // [MQTT-3.1.2-4]
            let discarded = self.node.inbox.discard(&claim.identity, self.now, reply_to).ready();
            discarded.map(|discarded| {
                let discarded = discarded.map(|promised| connection.local.promised(promised));
                Owned::Clean(discarded)
            })
        } else {
            let attached = self.ask_attach(&claim, session, reply_to).ready();
            attached.map(|attached| {
                let attached = attached.map(|promised| connection.local.promised(promised));
                Owned::Attached(attached.map(Box::new))
            })
        };
        match answer {
            Some(answer) => self.owned(session, connection, claim, answer),
            None => {
                let rare = connection.local.rare();
                rare.pending_claim = Some(claim);
                rare.is_claim_with_inbox = true;
            }
        }
    }

    /// The inbox has answered. While nobody serves the session its client waits, for a while.
    fn owned(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        claim: Box<ClaimRequest>,
        answer: Owned,
    ) {
        if matches!(answer, Owned::Clean(Err(NotServed)) | Owned::Attached(Err(NotServed))) {
            let (now, patience) = (self.now, self.node.claim_patience);
            let rare = connection.local.rare();
            if now.since(*rare.claimed_at.get_or_insert(now)) < patience {
                rare.pending_claim = Some(claim);
                runner::spawn(async move {
                    tokio::time::sleep(SERVED_LOOK).await;
                    // If it has ended meanwhile, whoever waited for it goes on.
                    runner::with(|shard| shard.kicked(session));
                });
                return;
            }
        }
        match answer {
            Owned::Clean(discarded) => self.begin_clean(session, connection, &claim, discarded),
            Owned::Attached(attached) => {
                self.begin_attached(session, connection, attached.map(|attached| *attached));
            }
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
            (Some(claim), attached) => self.go_on(session, claim, Owned::Attached(attached)),
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
        match self.take_claim(session) {
            Some(claim) => self.go_on(session, claim, Owned::Clean(discarded)),
            None => self.kicked(session),
        }
    }

    fn go_on(&mut self, session: SessionRef, claim: Box<ClaimRequest>, answer: Owned) {
        self.hold(session, |shard, connection| shard.owned(session, connection, claim, answer));
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
}

/// The will as it is kept while its author lives: its interval is a span, for it counts from when it
/// is due.
fn undated(will: &WillOrder, now: Instant) -> Arc<StoredMessage> {
    let deadline = will.expiry_s.map(|seconds| now + Duration::from_secs(seconds.into()));
    Arc::new(StoredMessage { accepted: now, deadline, ..(*will.message).clone() })
}

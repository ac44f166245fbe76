//! Whether the routes here have everything that a publisher may count on. DUR-012, KV-010
//!
//! Where replicas have the routes of persistent sessions, this node's may be behind, or cut off. So before a
//! publish is resolved the routes are asked whether they have all that was acknowledged anywhere: once for
//! all that a connection brought at once, and again if they changed meanwhile. While they have not the
//! packet waits, as one does whose permission is determined later: the connection reads nothing, and
//! brings it again when the routes tell, or from time to time. After `route_patience` it is refused as by a
//! store that is full; of QoS 0 it is dropped and counted.
//!
//! Where nobody else has the routes nothing of that is asked.

use std::{rc::Rc, sync::Arc, time::Duration};

use ratatosk_clock::Instant;
use ratatosk_codec::Qos;
use ratatosk_contract::{Message, SessionRef, dist::RouteEpoch};
use ratatosk_session::Published;
use ratatosk_topic::TopicName;

use super::{
    Shard,
    connection::{Connection, Local},
    mailbox::Note,
    topic_cache::Resolved,
};
use crate::tenants::TenantNumber;

/// How often whoever waits looks by himself.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Who has not looked for so long has not waited since.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// So many are told before those are looked for that have ended.
const LISTED_MIN: usize = 64;
/// How often a topic is resolved anew because the routes changed meanwhile.
const RESOLVED_MAX: usize = 8;

/// What a shard knows of the routes that replicas of this node have of a tenant.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// For which batch they answer, and as of when.
    good: Option<(u64, RouteEpoch)>,
    /// Who is told by whoever is told first.
    waiting: Vec<SessionRef>,
    /// When it was asked to be told last; perhaps it never is.
    asked: Option<Instant>,
}

/// A publish of a connection that waits for routes, or was refused for want of them.
#[derive(Copy, Clone, Debug)]
pub(crate) struct RouteWait {
    since: Instant,
    looked: Instant,
    is_waiting: bool,
    /// Among those that are told.
    is_listed: bool,
}

impl Shard {
    /// Begins to handle what a connection brought at once.
    #[inline]
    pub(super) fn begin_batch(&mut self) {
        self.batch += 1;
    }

    /// Whether the routes of a tenant answer for what is being handled; what becomes of the message if not.
    pub(super) fn await_routes(
        &mut self,
        number: TenantNumber,
        (local, session): (&mut Local, SessionRef),
        message: &Message<'_>,
    ) -> Result<(), Published> {
        let batch = self.batch;
        let answers = self.tenant(number).answers.as_deref();
        let is_known = answers.is_some_and(|known| known.good.is_some_and(|it| it.0 == batch));
        if is_known || self.look_at_routes(number) {
            if let Some(rare) = &mut local.rare {
                rare.route_wait = None;
            }
            return Ok(());
        }
        Err(self.wait_for_routes(number, (local, session), message))
    }

    /// Whether a tenant's routes are asked before they are acted upon.
    #[inline]
    pub(super) fn is_replicated(&self, number: TenantNumber) -> bool {
        self.tenant(number).answers.is_some()
    }

    /// The receivers of a topic, as of when the routes answer for them; `None` if they do not any more, or
    /// change all the time.
    pub(super) fn resolve_answered(
        &mut self,
        number: TenantNumber,
        topic: TopicName<'_>,
    ) -> Option<Rc<Resolved>> {
        for _ in 0..RESOLVED_MAX {
            let resolved = self.resolve(number, topic);
            if self.answers_as_of(number, resolved.epoch) {
                return Some(resolved);
            }
        }
        None
    }

    /// Whether what was resolved as of an epoch may be acted upon.
    pub(super) fn answers_as_of(&mut self, number: TenantNumber, epoch: RouteEpoch) -> bool {
        let is_good = |shard: &Self| {
            let answers = shard.tenant(number).answers.as_deref();
            answers.and_then(|known| known.good).is_some_and(|good| good.1 == epoch)
        };
        is_good(self) || (self.look_at_routes(number) && is_good(self))
    }

    /// Asks the routes of a tenant whether they answer.
    pub(super) fn look_at_routes(&mut self, number: TenantNumber) -> bool {
        let batch = self.batch;
        let tenant = self.tenant_mut(number);
        let Some(answers) = &mut tenant.answers else { return true };
        answers.good = tenant.routes.may_answer().map(|epoch| (batch, epoch));
        answers.good.is_some()
    }

    /// Has a publish wait, or refuses it.
    pub(super) fn wait_for_routes(
        &mut self,
        number: TenantNumber,
        (local, session): (&mut Local, SessionRef),
        message: &Message<'_>,
    ) -> Published {
        let now = self.now;
        let fresh = RouteWait { since: now, looked: now, is_waiting: true, is_listed: false };
        let rare = local.rare();
        let known = rare.route_wait.filter(|wait| now.since(wait.looked) < PAUSE_MAX);
        let mut wait = known.unwrap_or(fresh);
        wait.looked = now;
        wait.is_waiting = now.since(wait.since) < self.node.route_patience;
        let is_listed = std::mem::replace(&mut wait.is_listed, wait.is_waiting);
        rare.route_wait = Some(wait);
        if !wait.is_waiting {
            if message.qos == Qos::AtMostOnce {
                let flow = self.flow(number);
                flow.received += 1;
                flow.received_bytes += message.payload.len() as u64;
                flow.refused += 1;
                flow.refused_late += 1;
            }
            return Published::Busy;
        }
        self.list(number, (!is_listed).then_some(session));
        Published::Later
    }

    /// Notes who is told as well once it is worth a look.
    fn list(&mut self, number: TenantNumber, session: Option<SessionRef>) {
        let (node, shard, now) = (Arc::clone(&self.node), self.id, self.now);
        let listed_max = 2 * self.connections.max(LISTED_MIN);
        let slots = &self.slots;
        let Some(tenant) = self.tenants[number.0 as usize].as_deref_mut() else { return };
        let Some(answers) = &mut tenant.answers else { return };
        answers.waiting.extend(session);
        if answers.waiting.len() > listed_max {
            // Most have ended.
            let is_there = |it: &SessionRef| slots[it.slot as usize].generation == it.generation;
            answers.waiting.retain(is_there);
        }
        if answers.asked.is_none_or(|asked| now.since(asked) >= LOOK_INTERVAL) {
            answers.asked = Some(now);
            tenant.routes.when_may_answer(Box::new(move || {
                node.mailboxes[shard.index()].note(Note::LookAtRoutes(number));
            }));
        }
    }

    /// The routes of a tenant are worth a look: what waits for them is brought again.
    pub(super) fn routes_answer(&mut self, number: TenantNumber) {
        let Some(answers) = &mut self.tenant_mut(number).answers else { return };
        answers.asked = None;
        for session in std::mem::take(&mut answers.waiting) {
            if let Some(connection) = self.connection(session)
                && let Some(rare) = &mut connection.local.rare
                && let Some(wait) = &mut rare.route_wait
            {
                wait.is_listed = false;
                self.retry(session);
            }
        }
    }

    /// Sees to it that a connection that waits for routes looks by itself.
    pub(super) fn file_look(&mut self, session: SessionRef, connection: &mut Connection) {
        if connection.local.waits_for_routes() {
            let at = self.now + LOOK_INTERVAL;
            connection.deadline = Some(at);
            self.file_in_hands(session, connection, at);
        }
    }
}

impl Local {
    fn waits_for_routes(&self) -> bool {
        let wait = self.rare.as_ref().and_then(|rare| rare.route_wait);
        wait.is_some_and(|wait| wait.is_waiting)
    }
}

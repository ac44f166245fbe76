//! The end of a connection, and what it leaves to do.
//!
//! The session says its farewell; its routes, its memberships and its registration go; what a
//! shared group gave it and it did not take over goes to other members; its will is published now
//! or handed to its inbox. Then the connection lingers: it is written to the end and read until
//! the peer closes, because a socket that is closed with unread bytes resets the connection and
//! takes the farewell with it. What was said and held back, since it was not durable, is taken back: the
//! farewell does not wait for it.

use std::{sync::Arc, time::Duration};

use ratatosk_contract::{
    Message, SessionRef,
    inbox::{Claim, Detach},
};
use ratatosk_plugin::answer::Answer;
use ratatosk_plugin::permission::Identity;
use ratatosk_session::{DropReason, Ending, Farewell, Origin, WillOrder};
use ratatosk_topic::{TopicFilter, TopicLimits};
use tokio::io::AsyncWrite;

use super::{
    Shard,
    connection::{Connection, Flow, Local, SharedSubscription},
    regroup::Returned,
    runner,
    wills::dated,
    wire::MemberTarget,
};

/// How long a farewell may take.
const LINGER: Duration = Duration::from_secs(2);

impl Shard {
    /// Ends the session of a connection.
    pub(super) fn end(&mut self, session: SessionRef, farewell: Farewell) {
        self.hold(session, |shard, connection| shard.end_in_hands(session, connection, farewell));
        self.wake_flusher();
    }

    /// Ends the session of a connection that is in hands. A farewell of the session's own goes
    /// first. To end twice changes nothing.
    pub(super) fn end_in_hands(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        farewell: Farewell,
    ) {
        if connection.state == Flow::Lingering {
            return;
        }
        self.count_waited(connection);
        let ending = match connection.local.unsaved {
            0 => connection.session.end(farewell),
            _ => connection.session.end_unsaid(farewell),
        };
        self.log_end(connection, &ending);
        self.report_ended(session, connection, &ending);
        if ending.was_live {
            self.stats.live -= 1;
            self.stats.disconnected += 1;
        } else {
            self.stats.refused += 1;
        }
        let local = std::mem::take(&mut connection.local);
        if ending.farewell.is_of_peer() {
            // What he is owed still waits for the disk.
            connection.local.unsaved = local.unsaved;
        }
        self.leave(session, connection, local, &ending);
        connection.partial = Vec::new();
        connection.has_leftover = false;
        connection.state = Flow::Lingering;
        if let Some(layers) = &mut connection.pipeline {
            // What the session said goes before the end of the layers.
            super::flush::wrap(&mut connection.session, layers);
            layers.pipeline.close(&mut layers.wire);
        }
        Shard::recharge(connection);
        // Who closed may have ended his half only, and is owed what was answered before; layers
        // that ended or broke have a word left: a close frame, an alert, a status line.
        let is_gone = connection.is_flushed()
            && matches!(ending.farewell, Farewell::PeerClosed | Farewell::NetworkError(_));
        let deadline = if is_gone { self.now } else { self.now + LINGER };
        connection.connect_by = None;
        connection.deadline = Some(deadline);
        self.file_in_hands(session, connection, deadline);
        self.mark_dirty(session, connection);
        if is_gone {
            // Nobody is there to be told: the slot is free at the end of the tick.
            runner::spawn(async move { runner::with(|shard| shard.forget(session)) });
        }
        connection.wake();
    }

    /// Takes a session out of everything that it was part of.
    fn leave(
        &mut self,
        session: SessionRef,
        connection: &Connection,
        mut local: Local,
        ending: &Ending,
    ) {
        let Some(identity) = connection.session.identity().cloned() else { return };
        let Some(tenant) = local.tenant else { return };
        if let Some(rare) = local.rare.as_ref().filter(|rare| rare.pending_claim.is_some()) {
            // It has nothing of the session yet.
            self.leave_claim(session, identity, rare);
            return;
        }
        for route in std::mem::take(&mut local.routes) {
            self.leave_route(tenant, route, session.slot);
        }
        let publisher = connection.session.publisher().0;
        let shared = local.rare.as_mut().map(|rare| std::mem::take(&mut rare.shared));
        let shared = shared.unwrap_or_default();
        for subscription in &shared {
            if let Ok(filter) =
                TopicFilter::parse(subscription.filter.as_str(), &TopicLimits::PROTOCOL)
            {
                self.end_membership(tenant, &filter, publisher, local.incarnation);
            }
        }
        let target = |known: &SharedSubscription| MemberTarget {
            slot: session.slot,
            generation: session.generation,
            route: known.route,
            group: known.group,
            hops: 0,
        };
        let waiting = connection.session.waiting() as u64;
        let flow = self.flow(tenant);
        flow.ended += waiting;
        flow.unqueued += waiting;
        // MQTT-087
        connection.session.unfinished_shared(|origin: Origin, message: &Message<'_>| {
            if let Some(known) = shared.iter().find(|known| known.number == origin.0) {
                let returned = Returned { by: Some(publisher), reason: DropReason::SessionClosed };
                self.flow(tenant).copies += 1;
                self.regroup(tenant, &target(known), returned, message);
            }
        });
        // MQTT-053
        let settings = connection.session.settings();
        let is_silent = ending.farewell == Farewell::ServerShutdown
            && settings.no_lwt_when_server_shutting_down;
        let will = ending.will.as_ref().filter(|_| !is_silent);
        let who = local.identity.as_deref();
        let delayed = will.filter(|will| will.delay_s > 0);
        let kept = local.rare.and_then(|rare| rare.will);
        let claim = local.claim.as_deref().copied();
        if let Some(will) = will.filter(|will| claim.is_none() || will.delay_s == 0) {
            let kept = kept.or_else(|| self.keep_own(&identity, session, will));
            self.publish_will(tenant, will, who, kept);
        } else if let Some(id) = kept {
            self.node.inbox.withdraw_will(id);
        }
        if let Some(claim) = claim {
            self.detach(claim, delayed, who, ending);
        }
        // Last: who waits for it goes on at once, maybe on another thread.
        self.node.session_dict.remove(&identity, session);
    }

    /// Leaves a persistent session to its inbox, with a will that is due later if its author may
    /// publish there. While that is being determined the session is still held: one who takes it
    /// over meanwhile makes the claim stale, and so cancels the will.
    fn detach(
        &self,
        claim: Claim,
        delayed: Option<&WillOrder>,
        author: Option<&Identity>,
        ending: &Ending,
    ) {
        let now = self.now;
        let expiry_s = Some(ending.expiry_s).filter(|seconds| *seconds != u32::MAX);
        let will = delayed.map(|will| (dated(will, now), will.delay_s));
        let permitted = match &will {
            Some((message, _)) => self.permits_will(message, author),
            None => Answer::Now(true),
        };
        let inbox = Arc::clone(&self.node.inbox);
        let finish = move |is_permitted: bool| {
            let will = will.filter(|_| is_permitted);
            let _ = inbox.detach(claim, Detach { expiry_s, will, now }, None);
        };
        match permitted {
            Answer::Now(is_permitted) => finish(is_permitted),
            Answer::Later(later) => runner::spawn(async move { finish(later.await) }),
        }
    }

    /// Frees the slot of a connection that has ended.
    pub(super) fn forget(&mut self, session: SessionRef) {
        let Some(mut connection) = self.remove(session) else { return };
        if connection.state != Flow::Lingering {
            // A task that ends for another reason has still a session.
            self.end_in_hands(session, &mut connection, Farewell::PeerClosed);
        }
        let load = &self.node.loads[self.id.index()];
        load.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        connection.wake();
    }

    fn log_end(&self, connection: &Connection, ending: &Ending) {
        let peer = connection.peer;
        let (tenant, client) = match connection.session.identity() {
            Some(identity) => (identity.tenant.as_str(), identity.client.as_str()),
            None => ("", ""),
        };
        let reason = ending.farewell.name();
        let rare = connection.local.rare.as_ref();
        for (at, line) in rare.iter().flat_map(|rare| rare.ring.lines()) {
            tracing::debug!(tenant, client, %at, line, "earlier in this session");
        }
        let detail = &ending.farewell;
        match ending.farewell {
            Farewell::Bug(_) => {
                tracing::error!(tenant, client, %peer, reason, %detail, "session failed");
            }
            Farewell::ByClient(_) | Farewell::PeerClosed | Farewell::NetworkError(_) => {
                tracing::debug!(tenant, client, %peer, reason, %detail, "client left");
            }
            _ => tracing::info!(tenant, client, %peer, reason, %detail, "client disconnected"),
        }
    }
}

/// Ends the writing half, so that the peer reads to the end. The task sees whether the peer has
/// ended its half already.
pub(super) fn shut(connection: &mut Connection) {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let _ = std::pin::Pin::new(&mut connection.stream).poll_shutdown(&mut context);
    connection.wake();
}

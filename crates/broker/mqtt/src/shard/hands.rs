//! A connection in hands: taken out of its slot while its session works.
//!
//! Whoever lets a session work does it here: the session is lent a [`Link`] to the broker, and
//! whatever is due afterwards is seen to: its end, its output, its next deadline, what it costs.
//! While a connection is in hands nobody else finds it: what it publishes to itself goes the way
//! of messages from other shards.

use std::sync::Arc;

use ratatosk_clock::Instant;
use ratatosk_contract::{SessionRef, Ticket, call::Settlement};
use ratatosk_session::{Farewell, Session};

use super::{
    Shard,
    connection::{Connection, Flow},
    link::Link,
    wills::is_will,
};

/// The ticket of a change of the session itself; a publish has one from the session, which counts
/// from 0 on.
pub(super) const CHANGE: Ticket = Ticket(u64::MAX);

/// The tickets of questions to the inbox, of which each may turn out to be a change of the session, are
/// from this one on.
pub(super) const FIRST_QUESTION: Ticket = Ticket(1 << 63);

/// The ticket of a retained copy that has to be durable before its message goes on.
pub(super) const RETAINED: Ticket = Ticket(u64::MAX - 1);

impl Shard {
    /// Takes a connection into hands for the length of `work`; `None` if it is gone.
    #[inline]
    pub(super) fn hold<R>(
        &mut self,
        session: SessionRef,
        work: impl FnOnce(&mut Self, &mut Box<Connection>) -> R,
    ) -> Option<R> {
        let mut connection = self.take(session)?;
        let result = work(self, &mut connection);
        self.put(session, connection);
        Some(result)
    }

    /// Lets a session work outside of its own turn, and sees to what is due.
    pub(super) fn drive(
        &mut self,
        session: SessionRef,
        work: impl FnOnce(&mut Session, Instant, &mut Link<'_>),
    ) {
        self.hold(session, |shard, connection| {
            shard.lend(session, connection, work);
            shard.after_session(session, connection);
        });
    }

    /// Lends the broker to the session of a connection that is in hands.
    #[inline]
    pub(super) fn lend<R>(
        &mut self,
        session: SessionRef,
        connection: &mut Connection,
        work: impl FnOnce(&mut Session, Instant, &mut Link<'_>) -> R,
    ) -> R {
        let Connection { session: machine, local, .. } = connection;
        let settings = Arc::clone(machine.settings());
        let publisher = machine.publisher().0;
        let now = self.now;
        let mut link = Link { shard: self, local, session, settings: &settings, publisher };
        work(machine, now, &mut link)
    }

    /// What is due whenever a session was at work.
    pub(super) fn after_session(&mut self, session: SessionRef, connection: &mut Box<Connection>) {
        self.count_waited(connection);
        if connection.session.farewell().is_some() {
            // The session's own goes first.
            self.end_in_hands(session, connection, Farewell::PeerClosed);
            return;
        }
        // What is retained follows the SUBACK.
        if connection.local.has_retained() && !connection.local.is_subscribing() {
            self.pump_retained(session, connection);
        }
        if connection.session.output_len() > 0 {
            self.mark_dirty(session, connection);
        }
        connection.note_member();
        if let Some(due) = connection.next_deadline() {
            self.file_in_hands(session, connection, due);
        }
        Shard::recharge(connection);
    }

    /// Counts what became of messages that waited for the client.
    #[inline]
    pub(super) fn count_waited(&mut self, connection: &mut Connection) {
        let late = connection.session.take_late();
        if let Some(tenant) = connection.local.tenant {
            self.count_late(tenant, &late, connection.session.is_persistent());
        }
    }

    /// A settled publish of a session: a packet may wait for it; or a change of the session itself.
    pub(super) fn settle(&mut self, session: SessionRef, ticket: Ticket, settlement: Settlement) {
        match ticket {
            _ if is_will(session) => return self.settle_will(ticket, settlement),
            RETAINED => return self.is_retained(session, settlement),
            change if change >= FIRST_QUESTION => return self.saved(session, settlement),
            _ => {}
        }
        self.settle_withheld(session, ticket, settlement);
        self.drive(session, |machine, _, _| machine.settle(ticket, settlement));
        self.retry(session);
    }

    /// A change of a session is durable: what was said since may be written, once it is the last.
    fn saved(&mut self, session: SessionRef, settlement: Settlement) {
        if settlement != Settlement::Done {
            // Whether it happened is not known, so what was said may be wrong.
            let connection = self.connection(session);
            let has_ended = connection.is_some_and(|connection| {
                connection.state == Flow::Lingering && connection.local.unsaved > 0
            });
            match has_ended {
                // Its peer gets nothing that he was still owed.
                true => self.forget(session),
                false => self.end(session, Farewell::NotDurable),
            }
            return;
        }
        self.hold(session, |shard, connection| {
            connection.local.unsaved = connection.local.unsaved.saturating_sub(1);
            if connection.local.unsaved > 0 {
                return;
            }
            if let Some(rare) = &mut connection.local.rare {
                rare.changes.are_saved();
            }
            if !connection.is_flushed() {
                shard.mark_dirty(session, connection);
            }
        });
    }

    /// The retained copy of a message that waits for it is durable: it is brought again.
    fn is_retained(&mut self, session: SessionRef, settlement: Settlement) {
        if settlement != Settlement::Done {
            self.end(session, Farewell::NotDurable);
            return;
        }
        if let Some(connection) = self.connection(session)
            && let Some(rare) = &mut connection.local.rare
            && let Some(retaining) = &mut rare.retaining
        {
            retaining.is_done = true;
        }
        self.retry(session);
    }

    /// A session's inbox has more.
    pub(super) fn inbox_ready(&mut self, session: SessionRef) {
        self.drive(session, |machine, now, link| machine.inbox_ready(now, link));
    }

    /// What a packet waits for may be known: it is brought again.
    pub(super) fn retry(&mut self, session: SessionRef) {
        let now = self.now;
        if let Some(connection) = self.connection(session)
            && connection.state == Flow::Retrying
        {
            connection.read_on(now);
        }
    }
}

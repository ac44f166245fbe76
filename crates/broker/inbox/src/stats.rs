//! What an inbox service holds and did.

use ratatosk_codec::Qos;

use crate::queue::Displaced;

/// What is there, and what happened so far, of all or of one tenant. Every message that came is
/// committed, queued, moved or counted under the reason for which it was dropped. DUR-008
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct InboxStats {
    /// Sessions.
    pub sessions: usize,
    /// Sessions with a connection.
    pub attached: usize,
    /// QoS 1 and 2 messages in queues.
    pub queued: u64,
    /// QoS 0 messages in queues.
    pub queued_qos0: u64,
    /// Wills that are due and not taken yet.
    pub wills_due: usize,
    /// Messages that came for a session, of any QoS.
    pub appended: u64,
    /// QoS 0 messages handed to the connection at once.
    pub direct: u64,
    /// QoS 0 messages fetched from a queue.
    pub fetched_qos0: u64,
    /// QoS 1 and 2 messages that the client confirmed.
    pub committed: u64,
    /// Messages of shared groups given back for another member.
    pub moved: u64,
    /// Of these, and of those whose member was gone, what went to a transient session.
    pub passed_on: u64,
    /// Messages in queues of sessions that came to be served elsewhere.
    pub left: u64,
    /// Calls refused because a newer owner holds the session.
    pub stale: u64,
    /// Sessions that ended by expiry.
    pub expired_sessions: u64,
    /// What was dropped.
    pub dropped: Dropped,
}

/// Messages dropped, by reason.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// QoS 1 and 2: the queue was full, the newest was dropped.
    pub overflow: u64,
    /// QoS 0: the queue was full, the newest or the oldest was dropped.
    pub overflow_qos0: u64,
    /// QoS 0: there was no connection.
    pub offline_qos0: u64,
    /// The message's time was over before it was sent.
    pub expired: u64,
    /// The session ended with the message in its queue.
    pub session_ended: u64,
    /// The session was gone when the message came.
    pub session_gone: u64,
    /// The group had no other member to give the message to.
    pub no_member: u64,
    /// The session had published it and did not want it.
    pub no_local: u64,
}

impl InboxStats {
    /// Adds what another counted.
    pub fn add(&mut self, other: &InboxStats) {
        self.sessions += other.sessions;
        self.attached += other.attached;
        self.queued += other.queued;
        self.queued_qos0 += other.queued_qos0;
        self.wills_due += other.wills_due;
        self.appended += other.appended;
        self.direct += other.direct;
        self.fetched_qos0 += other.fetched_qos0;
        self.committed += other.committed;
        self.moved += other.moved;
        self.passed_on += other.passed_on;
        self.left += other.left;
        self.stale += other.stale;
        self.expired_sessions += other.expired_sessions;
        self.dropped.overflow += other.dropped.overflow;
        self.dropped.overflow_qos0 += other.dropped.overflow_qos0;
        self.dropped.offline_qos0 += other.dropped.offline_qos0;
        self.dropped.expired += other.dropped.expired;
        self.dropped.session_ended += other.dropped.session_ended;
        self.dropped.session_gone += other.dropped.session_gone;
        self.dropped.no_member += other.dropped.no_member;
        self.dropped.no_local += other.dropped.no_local;
    }
}

impl Dropped {
    /// Adds what a message of this QoS displaced.
    pub(crate) fn note(&mut self, displaced: &Displaced, qos: Qos) {
        self.expired += displaced.expired;
        let overflow = u64::from(displaced.is_overflow);
        match qos {
            Qos::AtMostOnce => self.overflow_qos0 += overflow,
            Qos::AtLeastOnce | Qos::ExactlyOnce => self.overflow += overflow,
        }
    }

    /// All reasons together.
    pub fn sum(&self) -> u64 {
        self.overflow
            + self.overflow_qos0
            + self.offline_qos0
            + self.expired
            + self.session_ended
            + self.session_gone
            + self.no_member
            + self.no_local
    }
}

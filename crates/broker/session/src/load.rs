//! What a session holds and what it lost, how much more it takes, and how it is made to hold less.
//!
//! For the process's accountant of memory, for the choice among the members of a group, and for
//! whoever has more for the session than its queue takes.

use crate::{Session, delivery::OUTPUT_BYTES_MAX};

/// What became of messages that waited for their client, in its queue or its inbox, and of replies.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Late {
    /// Messages that were sent, again or for the first time.
    pub sent: u32,
    /// Their payloads. What is sent in one turn is bounded by the output.
    pub sent_bytes: u32,
    /// Messages whose time was over.
    pub expired: u32,
    /// Messages that are too large for the client.
    pub oversize: u32,
    /// Replies that are too large for the client.
    pub replies: u32,
}

impl Session {
    /// What became of messages that waited, since this was last asked.
    #[inline]
    pub fn take_late(&mut self) -> Late {
        let replies = std::mem::take(&mut self.oversize_replies);
        let late = self.outbound.as_mut().map(|outbound| std::mem::take(&mut outbound.late));
        Late { replies, ..late.unwrap_or_default() }
    }

    /// Messages that wait in the queue of a transient session.
    pub fn waiting(&self) -> usize {
        self.outbound.as_ref().map_or(0, |outbound| outbound.queue.len())
    }

    /// Whether messages wait because the client does not read or confirm what it has.
    #[inline]
    pub fn is_congested(&self) -> bool {
        self.output.len() > OUTPUT_BYTES_MAX
            || self.outbound.as_ref().is_some_and(|outbound| {
                // What is in an inbox and fits is fetched in a moment.
                let has_unfetched = outbound.may_fetch || outbound.is_held;
                !outbound.queue.is_empty() || (has_unfetched && !self.has_room())
            })
    }

    /// Whether the queue of a transient session takes no further message of QoS 1 or 2. That of a
    /// persistent one is its inbox's.
    #[inline]
    pub fn is_full(&self) -> bool {
        let queue_max = self.settings.session_inbox_size as usize;
        self.outbound.as_ref().is_some_and(|outbound| outbound.queue.len() >= queue_max)
    }

    /// How many stored messages the session's queue takes now, which are read for it page by page:
    /// none before it has sent, or fetched from its inbox, all of the last page. Half of the queue
    /// is left to what is published meanwhile.
    pub fn page_room(&self) -> usize {
        let queue_max = self.settings.session_inbox_size as usize;
        let share = queue_max.div_ceil(2);
        let Some(outbound) = &self.outbound else { return share };
        if !outbound.queue.is_empty() || outbound.may_fetch || outbound.is_held {
            return 0;
        }
        // What is in flight is still in an inbox; a transient session's queue has nothing of it.
        let in_flight = if self.is_persistent { outbound.window.open() } else { 0 };
        share.saturating_sub(in_flight)
    }

    /// Something was put into the session's inbox for it. The inbox says so too, later.
    pub fn note_appended(&mut self) {
        self.outbound_mut().may_fetch = true;
    }

    /// Drops the oldest queued messages of a transient session until about `bytes` are freed;
    /// returns how many went.
    pub fn shed(&mut self, bytes: usize) -> usize {
        let Some(outbound) = &mut self.outbound else { return 0 };
        let target = outbound.queue.size_bytes().saturating_sub(bytes);
        let before = outbound.queue.len();
        while outbound.queue.size_bytes() > target && outbound.queue.pop() {}
        before - outbound.queue.len()
    }

    /// About how many bytes the session holds on the heap, alone: see [`Session::shared_bytes`].
    pub fn memory_bytes(&self) -> usize {
        self.output.memory_bytes()
            + self.outbound.as_ref().map_or(0, |outbound| outbound.memory_bytes())
            + self.inbound.as_ref().map_or(0, |inbound| inbound.memory_bytes())
            + self.inbound_aliases.as_ref().map_or(0, |aliases| aliases.memory_bytes())
            + self.will.as_ref().map_or(0, |will| will.message.size_bytes())
    }

    /// How many bytes of shared payloads it keeps alive, with whoever else has them. Whoever made
    /// them shared has them charged.
    pub fn shared_bytes(&self) -> usize {
        self.output.shared_bytes()
            + self.outbound.as_ref().map_or(0, |outbound| outbound.shared_bytes())
    }
}

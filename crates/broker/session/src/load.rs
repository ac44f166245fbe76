//! What a session holds and what it lost, and how it is made to hold less.
//!
//! For the process's accountant of memory and for the choice among the members of a group.

use crate::Session;

impl Session {
    /// Messages that expired or did not fit since this was last asked: (expired, oversize).
    pub fn take_dropped(&mut self) -> (u32, u32) {
        (std::mem::take(&mut self.dropped_expired), std::mem::take(&mut self.dropped_oversize))
    }

    /// Whether QoS 1 and 2 messages wait because the client does not confirm what it has.
    pub fn is_congested(&self) -> bool {
        self.outbound.as_ref().is_some_and(|outbound| !outbound.queue.is_empty())
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

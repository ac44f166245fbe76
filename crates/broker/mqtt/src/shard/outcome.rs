//! What became of the parts of one message.
//!
//! A message may be work for the inbox, for the retained store and for other hosts. They have one
//! ticket: the publisher is acknowledged when all that was pending has settled, with the worst outcome.

use ratatosk_contract::{Call, call::Settlement, retain::StoreOutcome};
use ratatosk_session::Published;

/// The parts so far.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pending: u32,
    worst: Settlement,
}

impl Outcome {
    /// Adds a part.
    #[inline]
    pub(super) fn add(&mut self, call: Call<Settlement>) {
        match call {
            Call::Ready(settlement) => self.worst = self.worst.max(settlement),
            Call::Pending => self.pending += 1,
        }
    }

    /// Adds parts that are pending.
    #[inline]
    pub(super) fn add_pending(&mut self, parts: u32) {
        self.pending = self.pending.saturating_add(parts);
    }

    /// Adds the parts of another one.
    pub(super) fn join(&mut self, other: Outcome) {
        self.worst = self.worst.max(other.worst);
        self.add_pending(other.pending);
    }

    /// Whether a part was refused or is unknown, so that the others do not matter.
    #[inline]
    pub(super) fn has_failed(self) -> bool {
        self.worst != Settlement::Done
    }

    /// What the publisher's session is told.
    #[inline]
    pub(super) fn published(self, is_matched: bool) -> Published {
        match (self.worst, self.pending) {
            (Settlement::Done, 0) => Published::Handed { is_matched },
            (Settlement::Done, parts) => Published::Pending { parts, is_matched },
            (Settlement::Busy, _) => Published::Busy,
            (Settlement::QuotaExceeded, _) => Published::QuotaExceeded,
            (Settlement::Unknown, _) => Published::Unknown,
        }
    }
}

/// What a retained write means to its publisher. One that a limit forbids is distributed all the
/// same. RES-009
pub(super) fn settlement(call: Call<StoreOutcome>) -> Call<Settlement> {
    match call {
        Call::Pending => Call::Pending,
        Call::Ready(StoreOutcome::Busy) => Call::Ready(Settlement::Busy),
        Call::Ready(StoreOutcome::Stored | StoreOutcome::Cleared | StoreOutcome::Refused) => {
            Call::Ready(Settlement::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: &[Call<Settlement>], expected: &Published) {
        let mut outcome = Outcome::default();
        parts.iter().for_each(|part| outcome.add(*part));
        assert_eq!(outcome.published(true), *expected, "{parts:?}");
    }

    #[test]
    fn the_worst_part_counts_and_the_pending_are_waited_for() {
        let done = Call::Ready(Settlement::Done);
        let busy = Call::Ready(Settlement::Busy);
        let full = Call::Ready(Settlement::QuotaExceeded);
        let unknown = Call::Ready(Settlement::Unknown);
        check(&[], &Published::Handed { is_matched: true });
        check(&[done, done], &Published::Handed { is_matched: true });
        check(&[done, Call::Pending], &Published::Pending { parts: 1, is_matched: true });
        check(&[Call::Pending; 2], &Published::Pending { parts: 2, is_matched: true });
        check(&[Call::Pending, busy], &Published::Busy);
        let mut many = Outcome::default();
        many.add(Call::Pending);
        many.add_pending(70_000);
        assert_eq!(many.published(false), Published::Pending { parts: 70_001, is_matched: false });
        check(&[busy, full, done], &Published::QuotaExceeded);
        check(&[full, unknown], &Published::Unknown);
    }
}

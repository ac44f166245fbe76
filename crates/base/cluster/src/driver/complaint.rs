//! Tells the operator of what is refused because somebody is set up wrongly, or does not belong here.
//!
//! Each reason at most once a minute, whatever comes: a log is no place for a flood.

use std::time::Duration;

use ratatosk_clock::Instant;

use crate::protocol::refusal::{Counters, Refusal};

const INTERVAL: Duration = Duration::from_secs(60);

/// What an operator can do something about, and what may be wrong.
const REASONS: [(Refusal, &str); 9] = [
    (Refusal::Version, "hosts of another build speak another version"),
    (Refusal::Environment, "hosts of another environment have this one's address"),
    (Refusal::Cluster, "hosts of another cluster have this one's address"),
    (Refusal::Unsealed, "hosts without a key want to join"),
    (Refusal::Sealed, "hosts with a key want to join, and this one has none"),
    (Refusal::UnknownKey, "hosts with another key want to join"),
    (Refusal::Source, "hosts write from another address than they advertise; with a key they may"),
    (Refusal::Full, "there are too many hosts, records or entries"),
    (Refusal::Ahead, "the clock of a host is a day ahead"),
];

/// What was told.
#[derive(Default)]
pub(super) struct Complaints {
    told: [(u64, Option<Instant>); REASONS.len()],
}

impl Complaints {
    /// Tells what has come since.
    pub(super) fn tell(&mut self, now: Instant, counters: &Counters) {
        for (reason, count) in self.due(now, counters) {
            let (refusal, hint) = REASONS[reason];
            tracing::warn!(reason = refusal.name(), count, "the cluster refuses: {hint}");
        }
    }

    fn due(&mut self, now: Instant, counters: &Counters) -> Vec<(usize, u64)> {
        let mut due = Vec::new();
        for (index, (refusal, _)) in REASONS.iter().enumerate() {
            let count = counters.refused(*refusal);
            let (told, at) = &mut self.told[index];
            if count > *told && at.is_none_or(|at| now.since(at) >= INTERVAL) {
                due.push((index, count - *told));
                (*told, *at) = (count, Some(now));
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_told_once_a_minute() {
        let counters = Counters::default();
        let mut complaints = Complaints::default();
        let mut due = |millis| complaints.due(Instant::from_millis(millis), &counters);
        assert_eq!(due(0), []);
        counters.refuse(Refusal::Environment);
        counters.refuse(Refusal::Magic);
        assert_eq!(due(1), [(1, 1)]);
        counters.refuse(Refusal::Environment);
        counters.refuse(Refusal::Environment);
        counters.refuse(Refusal::Ahead);
        assert_eq!(due(2), [(8, 1)]);
        assert_eq!(due(60_001), [(1, 2)]);
        assert_eq!(due(200_000), []);
    }
}

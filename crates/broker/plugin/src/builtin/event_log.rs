//! Events to the log.
//!
//! What a client's life consists of goes to `debug`, what debug mode adds to `trace`, what went
//! wrong inside the broker to `warn`. Warnings of one type are limited in each second, because
//! what goes wrong usually does so for many messages at once; what was left out is counted in the
//! first warning of a later second.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::event::{Event, EventCollector, EventGroup, EventType};
use crate::plugin::Plugin;

/// Warnings of one type in one second.
const WARNINGS_MAX: u64 = 10;

/// Bits of the counter in a type's cell; the second is above.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Writes events to the log.
pub struct EventLog {
    /// Per type: the current second and the warnings in it.
    cells: Vec<AtomicU64>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self { cells: EventType::ALL.iter().map(|_| AtomicU64::new(0)).collect() }
    }
}

impl EventLog {
    /// Whether a warning may be written, and how many were left out in its last second.
    fn admits(&self, event_type: EventType, second: u64) -> Option<u64> {
        let cell = &self.cells[event_type as usize];
        let next = |old: u64| {
            let count = old & COUNT_MASK;
            if old >> COUNT_BITS == second {
                return (second << COUNT_BITS) | (count + 1).min(COUNT_MASK);
            }
            (second << COUNT_BITS) | 1
        };
        let old = cell
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(next(old)))
            .unwrap_or_else(|old| old);
        let count = old & COUNT_MASK;
        if old >> COUNT_BITS == second {
            return (count < WARNINGS_MAX).then_some(0);
        }
        Some(count.saturating_sub(WARNINGS_MAX))
    }
}

impl Plugin for EventLog {
    fn name(&self) -> &str {
        "log"
    }
}

impl EventCollector for EventLog {
    fn report(&self, event: &Event<'_>) {
        let event_type = event.kind.event_type();
        if event_type.is_debug_only() {
            if tracing::enabled!(tracing::Level::TRACE) {
                tracing::trace!(event = event_type.name(), "{}", text(event));
            }
            return;
        }
        if !is_warning(event_type) {
            if tracing::enabled!(tracing::Level::DEBUG) {
                tracing::debug!(event = event_type.name(), "{}", text(event));
            }
            return;
        }
        if let Some(left_out) = self.admits(event_type, event.at.as_millis() / 1_000) {
            tracing::warn!(event = event_type.name(), left_out, "{}", text(event));
        }
    }
}

fn is_warning(event_type: EventType) -> bool {
    matches!(
        event_type.group(),
        EventGroup::Retain | EventGroup::Dist | EventGroup::Inbox | EventGroup::Resource
    )
}

/// Who and what, on one line.
fn text(event: &Event<'_>) -> String {
    let mut line = String::new();
    // Writing to a string cannot fail.
    if let Some(client) = event.client {
        let who = &client.identity;
        let _ = write!(
            line,
            "tenant={:?} user={:?} client={:?} connection={} peer={} ",
            who.tenant, who.user, who.client_id, client.connection.0, client.peer
        );
    }
    event.kind.visit(&mut |name, value| {
        let _ = write!(line, "{name}={value:?} ");
    });
    let _ = write!(line, "at={}", event.at);
    line
}

#[cfg(test)]
mod tests {
    use ratatosk_codec::ProtocolVersion;

    use super::*;
    use crate::auth::ConnectionId;
    use crate::event::{ClientInfo, EventKind, HybridTime};
    use crate::testing::identity;

    /// EVT-001: a client's event says who it was.
    #[test]
    fn a_line_says_who_and_what() {
        let client = ClientInfo {
            identity: identity("alice", "phone\n1"),
            version: ProtocolVersion::V5,
            connection: ConnectionId(9),
            peer: ([10, 0, 0, 1], 4711).into(),
            node: "n1".into(),
            is_persistent: true,
        };
        let event = Event {
            at: HybridTime::from_millis(1_500),
            client: Some(&client),
            kind: EventKind::Idle { keep_alive_seconds: 60 },
        };
        assert_eq!(
            text(&event),
            "tenant=\"default\" user=\"alice\" client=\"phone\\n1\" connection=9 \
             peer=10.0.0.1:4711 keep_alive_seconds=60 at=1500.0"
        );
    }

    #[test]
    fn warnings_of_one_type_are_limited_per_second() {
        let log = EventLog::default();
        let admitted = |second: u64, count: u64| {
            (0..count).filter(|_| log.admits(EventType::Overflowed, second).is_some()).count()
        };
        assert_eq!(admitted(5, 100), 10);
        assert_eq!(log.admits(EventType::DistError, 5), Some(0), "other types have their own");
        assert_eq!(log.admits(EventType::Overflowed, 6), Some(90), "what was left out is told");
        assert_eq!(log.admits(EventType::Overflowed, 6), Some(0));
    }

    #[test]
    fn every_type_has_its_cell() {
        let log = EventLog::default();
        for event_type in EventType::ALL {
            assert_eq!(log.admits(*event_type, 1), Some(0), "{event_type:?}");
        }
    }
}

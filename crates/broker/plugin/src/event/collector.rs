//! Collectors of events, and the fan-out that keeps them apart.
//!
//! Reporting is synchronous, on the thread where the event happened: a collector copies what it
//! wants and returns. One that panics is counted and asked again next time; the others and the
//! broker do not notice.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Event, EventType};
use crate::plugin::Plugin;

/// Takes events.
pub trait EventCollector: Plugin {
    /// Takes one event. Must neither block nor keep what it borrows.
    fn report(&self, event: &Event<'_>);
}

/// All collectors of a node. Cheap to clone.
#[derive(Clone, Default)]
pub struct EventCollectors {
    collectors: Arc<[Counted]>,
}

struct Counted {
    collector: Arc<dyn EventCollector>,
    failures: AtomicU64,
}

/// How a collector fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorCounts {
    /// The collector's name.
    pub name: String,
    /// Reports that ended in a panic.
    pub failures: u64,
}

impl EventCollectors {
    /// A fan-out to these collectors, in this order.
    pub fn new(collectors: impl IntoIterator<Item = Arc<dyn EventCollector>>) -> Self {
        let collectors = collectors
            .into_iter()
            .map(|collector| Counted { collector, failures: AtomicU64::new(0) })
            .collect();
        Self { collectors }
    }

    /// Whether an event of this type would reach anybody: asked before one is made.
    /// `debug_mode` is the tenant's setting.
    pub fn wants(&self, event_type: EventType, debug_mode: bool) -> bool {
        !self.collectors.is_empty() && (debug_mode || !event_type.is_debug_only())
    }

    /// Hands an event to every collector. One that only debug mode reports is dropped unless
    /// `debug_mode` is on.
    pub fn report(&self, event: &Event<'_>, debug_mode: bool) {
        if !self.wants(event.kind.event_type(), debug_mode) {
            return;
        }
        for Counted { collector, failures } in self.collectors.iter() {
            if catch_unwind(AssertUnwindSafe(|| collector.report(event))).is_err() {
                failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How the collectors fared.
    pub fn counts(&self) -> Vec<CollectorCounts> {
        self.collectors
            .iter()
            .map(|counted| CollectorCounts {
                name: counted.collector.name().to_owned(),
                failures: counted.failures.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// Starts every collector; the first error ends it.
    pub fn start(&self) -> anyhow::Result<()> {
        self.collectors.iter().try_for_each(|counted| counted.collector.start())
    }

    /// Stops every collector.
    pub fn stop(&self) {
        for Counted { collector, failures } in self.collectors.iter() {
            if catch_unwind(AssertUnwindSafe(|| collector.stop())).is_err() {
                failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventKind, HybridTime};
    use crate::testing::quietly;

    struct Counting(AtomicU64);

    impl Plugin for Counting {
        fn name(&self) -> &str {
            "counting"
        }
    }

    impl EventCollector for Counting {
        fn report(&self, _event: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Broken;

    impl Plugin for Broken {
        fn name(&self) -> &str {
            "broken"
        }
    }

    impl EventCollector for Broken {
        fn report(&self, _event: &Event<'_>) {
            panic!("this collector always fails");
        }
    }

    fn event(kind: EventKind<'_>) -> Event<'_> {
        Event { at: HybridTime::from_millis(1), client: None, kind }
    }

    /// EVT-020: a failing collector does not affect the others or the broker.
    #[test]
    fn a_panicking_collector_hurts_nobody() {
        let first = Arc::new(Counting(AtomicU64::new(0)));
        let last = Arc::new(Counting(AtomicU64::new(0)));
        let collectors = EventCollectors::new([
            first.clone() as Arc<dyn EventCollector>,
            Arc::new(Broken),
            last.clone(),
        ]);
        quietly(|| {
            collectors.report(&event(EventKind::ByServer), false);
            collectors.report(&event(EventKind::ByServer), false);
        });
        assert_eq!(first.0.load(Ordering::Relaxed), 2);
        assert_eq!(last.0.load(Ordering::Relaxed), 2);
        let failures: Vec<_> =
            collectors.counts().into_iter().map(|counts| (counts.name, counts.failures)).collect();
        let expected = [("counting", 0), ("broken", 2), ("counting", 0)];
        assert_eq!(failures, expected.map(|(name, count)| (name.to_owned(), count)));
    }

    /// EVT-019: events of debug mode are silent without it.
    #[test]
    fn debug_events_are_silent_unless_the_tenant_is_in_debug_mode() {
        let counting = Arc::new(Counting(AtomicU64::new(0)));
        let collectors = EventCollectors::new([counting.clone() as Arc<dyn EventCollector>]);
        collectors.report(&event(EventKind::PingReq { pong: true }), false);
        assert_eq!(counting.0.load(Ordering::Relaxed), 0);
        collectors.report(&event(EventKind::PingReq { pong: true }), true);
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
        assert!(!EventCollectors::default().wants(EventType::ByServer, true));
    }
}

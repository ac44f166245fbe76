//! What is told of the directory.

use std::sync::{Arc, Weak};

use ratatosk_telemetry::metric::{Descriptor, Kind, Registry};

use super::{ClusterStats, Inner};

type Of = fn(&ClusterStats) -> u64;

const GAUGES: [(&str, &str, Of); 3] = [
    ("ratatosk_session_dict_sessions", "Live sessions of this node.", |stats| {
        stats.sessions as u64
    }),
    ("ratatosk_session_dict_registrations", "Sessions of all nodes at this server.", |stats| {
        stats.registered as u64
    }),
    ("ratatosk_session_dict_debts", "Sessions that other nodes may hold, too.", |stats| {
        stats.roster.debts
    }),
];

const COUNTERS: [(&str, &str, Of); 7] = [
    ("ratatosk_session_dict_taken_over_total", "Sessions ended for another node.", |stats| {
        stats.roster.taken_over
    }),
    ("ratatosk_session_dict_replaced_total", "Sessions taken over here.", |stats| {
        stats.roster.replaced
    }),
    ("ratatosk_session_dict_lost_claims_total", "Claims for which another was newer.", |stats| {
        stats.roster.lost
    }),
    ("ratatosk_session_dict_asked_all_total", "Claims for which all nodes were asked.", |stats| {
        stats.roster.asked_all
    }),
    ("ratatosk_session_dict_given_up_total", "Nodes that a claim waited for in vain.", |stats| {
        stats.roster.given_up
    }),
    ("ratatosk_session_dict_registered_anew_total", "Sessions told to servers anew.", |stats| {
        stats.roster.registered_anew
    }),
    ("ratatosk_session_dict_overloaded_total", "Claims refused for want of room.", |stats| {
        stats.overloaded
    }),
];

/// Has the metrics of a node shown, as long as there is one.
pub(super) fn register(registry: &Registry, inner: &Arc<Inner>) {
    let show = |name, help, kind, of: Of| {
        let inner: Weak<Inner> = Arc::downgrade(inner);
        registry.collect(Descriptor { name, help }, kind, &[], move |samples| {
            if let Some(inner) = inner.upgrade() {
                #[expect(clippy::cast_precision_loss, reason = "a page shows floats")]
                samples.push(&[], of(&inner.stats()) as f64);
            }
        });
    };
    GAUGES.into_iter().for_each(|(name, help, of)| show(name, help, Kind::Gauge, of));
    COUNTERS.into_iter().for_each(|(name, help, of)| show(name, help, Kind::Counter, of));
}

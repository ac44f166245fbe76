//! The metrics of the services, read from their counters when a page is rendered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ratatosk_dist::{DistService, DistStats};
use ratatosk_inbox::{InboxService, InboxStats};
use ratatosk_mqtt::{Running, Stats};
use ratatosk_plugin::host::Host;
use ratatosk_retain::{RetainService, RetainStats};
use ratatosk_session_dict::{DictService, DictStats};
use ratatosk_store::node::Handle;
use ratatosk_telemetry::metric::{Descriptor, Kind, Registry};

/// Registers all of them.
pub(crate) fn register(
    registry: &Registry,
    running: &Running,
    dist: &Arc<DistService>,
    inbox: &Arc<InboxService>,
    retain: &Arc<RetainService>,
    plugins: &Host,
) {
    register_mqtt(registry, running);
    register_services(registry, dist, inbox, retain);
    register_plugins(registry, plugins);
}

/// What the store says of itself.
pub(crate) fn register_store(registry: &Registry, store: &Handle) {
    const STATES: &[Metric<Handle>] = &[
        (
            "ratatosk_store_overlay_bytes",
            "Memory of what was applied and is on disk in the log only.",
            |store| store.overlay_bytes() as u64,
        ),
        (
            "ratatosk_store_engine_bytes",
            "Memory of the engine: what is in no table yet, and blocks of tables.",
            |store| store.engine_bytes(),
        ),
        (
            "ratatosk_store_short",
            "1 while disk or memory are so short that nothing is stored, else 0.",
            |store| u64::from(store.is_short()),
        ),
    ];
    let store = store.clone();
    each(registry, Kind::Gauge, STATES, move || store.clone());
}

/// Name, help, and where the number is.
type Metric<S> = (&'static str, &'static str, fn(&S) -> u64);

fn each<S: 'static>(
    registry: &Registry,
    kind: Kind,
    metrics: &[Metric<S>],
    read: impl Fn() -> S + Send + Sync + 'static,
) {
    let read = Arc::new(read);
    for &(name, help, value) in metrics {
        let read = Arc::clone(&read);
        registry.collect(Descriptor { name, help }, kind, &[], move |samples| {
            samples.push(&[], value(&read()) as f64);
        });
    }
}

/// What the data plane counts.
const COUNTERS: &[Metric<Stats>] = &[
    ("ratatosk_mqtt_accepted_connections_total", "Connections that were accepted.", |s| s.accepted),
    ("ratatosk_mqtt_connected_sessions_total", "Sessions that became live.", |s| s.connected),
    ("ratatosk_mqtt_disconnected_sessions_total", "Live sessions that ended.", |s| s.disconnected),
    ("ratatosk_mqtt_refused_connections_total", "Connections that never became live.", |s| {
        s.refused
    }),
    ("ratatosk_mqtt_received_messages_total", "Messages that clients published.", |s| s.received),
    ("ratatosk_mqtt_received_payload_bytes_total", "Their payloads.", |s| s.received_bytes),
    ("ratatosk_mqtt_sent_messages_total", "Messages that were sent to clients.", |s| s.sent),
    ("ratatosk_mqtt_sent_payload_bytes_total", "Their payloads.", |s| s.sent_bytes),
    ("ratatosk_mqtt_queued_messages_total", "Messages that waited for their client.", |s| s.queued),
    ("ratatosk_mqtt_read_bytes_total", "Bytes read from sockets.", |s| s.read_bytes),
    ("ratatosk_mqtt_written_bytes_total", "Bytes written to sockets.", |s| s.written_bytes),
    ("ratatosk_mqtt_refused_publishes_total", "Publishes that were refused.", |s| {
        s.publish_refused
    }),
    ("ratatosk_mqtt_refused_filters_total", "Filters that were refused.", |s| s.subscribe_refused),
    ("ratatosk_mqtt_subscribed_filters_total", "Subscriptions that were made.", |s| s.subscribed),
    ("ratatosk_mqtt_unsubscribed_filters_total", "Subscriptions that were ended.", |s| {
        s.unsubscribed
    }),
    ("ratatosk_mqtt_retained_messages_total", "Messages to be retained.", |s| s.retained),
    (
        "ratatosk_mqtt_late_retained_pages_total",
        "Pages of retained messages that were given out although some may be missing or old.",
        |s| s.retained_late,
    ),
    (
        "ratatosk_mqtt_paused_reads_total",
        "Times that a connection was not read because memory was short.",
        |s| s.shed_paused,
    ),
    (
        "ratatosk_mqtt_ended_for_memory_connections_total",
        "Connections that were ended because memory was short.",
        |s| s.shed_ended_paused + s.shed_ended_largest,
    ),
    ("ratatosk_mqtt_wills_total", "Wills that were published.", |s| s.wills),
    ("ratatosk_mqtt_topic_cache_hits_total", "Topics found in the cache.", |s| s.cache_hits),
    ("ratatosk_mqtt_topic_cache_misses_total", "Topics that were resolved.", |s| s.cache_misses),
];

/// What it has now.
const GAUGES: &[Metric<Stats>] = &[
    ("ratatosk_mqtt_live_sessions", "Sessions that are live.", |s| s.live),
    ("ratatosk_mqtt_cached_routes", "Routes that the topic caches hold.", |s| s.cached_routes),
    ("ratatosk_mqtt_open_connections", "Connections, live or not.", |s| s.connections),
];

fn register_mqtt(registry: &Registry, running: &Running) {
    let stats = running.stats();
    let read = {
        let stats = Arc::clone(&stats);
        move || stats.total()
    };
    each(registry, Kind::Counter, COUNTERS, read.clone());
    each(registry, Kind::Gauge, GAUGES, read);
    let descriptor = Descriptor {
        name: "ratatosk_mqtt_dropped_messages_total",
        help: "Messages that were not delivered, by reason.",
    };
    let shedding = Arc::clone(&stats);
    registry.collect(descriptor, Kind::Counter, &["reason"], move |samples| {
        for (name, value) in stats.total().each() {
            if let Some(reason) = name.strip_prefix("dropped_") {
                samples.push(&[reason], value as f64);
            }
        }
    });
    let descriptor = Descriptor {
        name: "ratatosk_mqtt_tenant_messages_total",
        help: "What became of each tenant's messages and of the copies made for receivers.",
    };
    let flows = Arc::clone(&shedding);
    registry.collect(descriptor, Kind::Counter, &["tenant", "fate"], move |samples| {
        for (tenant, flow) in flows.flows() {
            for (fate, count) in flow.each().filter(|(fate, _)| !fate.ends_with("_bytes")) {
                samples.push(&[tenant.as_str(), fate], count as f64);
            }
        }
    });
    let descriptor = Descriptor {
        name: "ratatosk_mqtt_shed_actions_total",
        help: "What was given up because memory was short, by step.",
    };
    registry.collect(descriptor, Kind::Counter, &["step"], move |samples| {
        for (step, count) in shedding.shed() {
            samples.push(&[step], count as f64);
        }
    });
}

fn register_services(
    registry: &Registry,
    dist: &Arc<DistService>,
    inbox: &Arc<InboxService>,
    retain: &Arc<RetainService>,
) {
    let dist = Arc::clone(dist);
    each::<DistStats>(
        registry,
        Kind::Gauge,
        &[
            ("ratatosk_dist_tenants", "Tenants that have routes.", |s| s.tenants as u64),
            ("ratatosk_dist_filters", "Filters that somebody subscribes to.", |s| s.routes as u64),
            ("ratatosk_dist_shared_groups", "Shared groups.", |s| s.groups as u64),
            ("ratatosk_dist_shared_group_members", "Their members.", |s| s.members as u64),
        ],
        move || dist.stats(),
    );
    let inbox = Arc::clone(inbox);
    each::<InboxStats>(
        registry,
        Kind::Gauge,
        &[
            ("ratatosk_inbox_sessions", "Persistent sessions.", |s| s.sessions as u64),
            ("ratatosk_inbox_online_sessions", "Those with a connection.", |s| s.attached as u64),
            ("ratatosk_inbox_queued_messages", "Messages that wait in them.", |s| s.queued),
        ],
        {
            let inbox = Arc::clone(&inbox);
            move || inbox.stats()
        },
    );
    each::<InboxStats>(
        registry,
        Kind::Counter,
        &[
            ("ratatosk_inbox_appended_messages_total", "Messages that were queued.", |s| {
                s.appended
            }),
            ("ratatosk_inbox_committed_messages_total", "Messages that clients took over.", |s| {
                s.committed
            }),
            ("ratatosk_inbox_expired_sessions_total", "Sessions whose time was over.", |s| {
                s.expired_sessions
            }),
            ("ratatosk_inbox_overflowed_messages_total", "Messages for a full queue.", |s| {
                s.dropped.overflow
            }),
        ],
        move || inbox.stats(),
    );
    let retain = Arc::clone(retain);
    each::<RetainStats>(
        registry,
        Kind::Gauge,
        &[
            ("ratatosk_retain_topics", "Topics with a retained message.", |s| s.topics as u64),
            ("ratatosk_retain_bytes", "Bytes of the retained messages.", |s| s.bytes),
        ],
        move || retain.stats(),
    );
}

/// What a node among others counts of its retained messages besides.
pub(crate) fn register_repeats(registry: &Registry, repeated: &Arc<AtomicU64>) {
    let repeated = Arc::clone(repeated);
    let descriptor = Descriptor {
        name: "ratatosk_retain_repeated_changes_total",
        help: "Changes of retained messages that went again because nobody knew what became of them.",
    };
    registry.collect(descriptor, Kind::Counter, &[], move |samples| {
        samples.push(&[], repeated.load(Ordering::Relaxed) as f64);
    });
}

/// What the directory of a node that stands alone counts; among others it says more itself.
pub(crate) fn register_directory(registry: &Registry, directory: &Arc<DictService>) {
    let directory = Arc::clone(directory);
    each::<DictStats>(
        registry,
        Kind::Counter,
        &[("ratatosk_session_dict_replaced_total", "Sessions taken over.", |s| s.replaced)],
        move || directory.stats(),
    );
}

fn register_plugins(registry: &Registry, plugins: &Host) {
    let host = plugins.clone();
    let descriptor = Descriptor {
        name: "ratatosk_plugin_calls_total",
        help: "Calls of providers, by what became of them.",
    };
    registry.collect(descriptor, Kind::Counter, &["provider", "outcome"], move |samples| {
        let counts = host.counts();
        let each = [
            ("auth", counts.auth),
            ("permission", counts.permission),
            ("settings", counts.settings),
        ];
        for (provider, calls) in each {
            samples.push(&[provider, "made"], calls.calls as f64);
            samples.push(&[provider, "panicked"], calls.panics as f64);
            samples.push(&[provider, "timed_out"], calls.timeouts as f64);
            samples.push(&[provider, "crowded_out"], calls.refusals as f64);
        }
    });
}

//! The accountant's metrics.

use crate::memory::{Accountant, Pressure, Share};
use crate::metric::{Descriptor, Kind, Registry};

/// Registers the metrics of memory; they are read when a page is rendered.
pub fn register(accountant: &Accountant, registry: &Registry) {
    let gauge = |name, help, value: fn(&Accountant) -> f64| {
        let accountant = accountant.clone();
        registry.collect(Descriptor { name, help }, Kind::Gauge, &[], move |samples| {
            samples.push(&[], value(&accountant));
        });
    };
    gauge("ratatosk_memory_limit_bytes", "What the process may use.", |accountant| {
        accountant.limit().bytes() as f64
    });
    gauge("ratatosk_memory_resident_bytes", "The last observed resident size.", |accountant| {
        accountant.snapshot().resident.bytes() as f64
    });
    gauge("ratatosk_memory_used_bytes", "The estimate that pressure follows.", |accountant| {
        accountant.snapshot().used.bytes() as f64
    });
    gauge(
        "ratatosk_memory_pressure_level",
        "What is shed: 0 nothing, 1 caches, 2 QoS 0, 3 readers are paused, 4 connections are refused.",
        |accountant| f64::from(accountant.pressure() as u8),
    );
    let books = accountant.clone();
    registry.collect(
        Descriptor {
            name: "ratatosk_memory_charged_bytes",
            help: "Memory held, by tenant and by what it is held for.",
        },
        Kind::Gauge,
        &["tenant", "share"],
        move |samples| {
            for tenant in books.snapshot().tenants {
                for (share, bytes) in Share::ALL.iter().zip(tenant.charged) {
                    samples.push(&[&tenant.tenant, share.name()], bytes.bytes() as f64);
                }
            }
        },
    );
    let books = accountant.clone();
    registry.collect(
        Descriptor {
            name: "ratatosk_memory_pressure_entries_total",
            help: "How often each level of pressure was entered from below.",
        },
        Kind::Counter,
        &["level"],
        move |samples| {
            for (level, count) in Pressure::ALL.iter().zip(books.snapshot().entered).skip(1) {
                samples.push(&[level.name()], count as f64);
            }
        },
    );
}

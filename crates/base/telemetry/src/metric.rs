//! Metrics: counters, gauges and histograms in a registry that renders Prometheus text.
//!
//! Names are `ratatosk_<module>_<noun>_<unit>`, checked at registration; a counter ends in
//! `_total`. A shard takes a [`Writer`] once and from it its own cells: an increment is then a
//! plain load and store on a cache line that only this shard writes. Label values are bounded:
//! tenants by the registry's limit, series by [`SERIES_MAX`]; what is beyond is summed under
//! [`OTHER`].

mod counter;
mod exposition;
mod family;
mod gauge;
mod histogram;
mod registry;
mod writer;

pub use counter::{Counter, CounterCell};
pub use exposition::CONTENT_TYPE;
pub use family::{Family, OTHER, SERIES_MAX, TENANT};
pub use gauge::Gauge;
pub use histogram::{Buckets, Histogram, HistogramCell};
pub use registry::{Descriptor, Kind, Registry, Samples};
pub use writer::Writer;

//! The registry: every metric of the process by name, rendered as one page.
//!
//! Registering a name again with the same kind and labels gives the same metric; with others it is
//! a bug and panics, as does a name against the rules. So a name that survives the first start is
//! right for good.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::metric::exposition::Page;
use crate::metric::family::{Family, Tenants, pairs};
use crate::metric::{Buckets, Counter, Gauge, Histogram, Writer};

/// Name and meaning of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// `ratatosk_<module>_<noun>_<unit>`; counters end in `_total`.
    pub name: &'static str,
    /// One sentence for a person who sees the name for the first time.
    pub help: &'static str,
}

/// What a collected metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Every metric of the process. Cheap to clone; clones are the same registry.
#[derive(Clone)]
pub struct Registry {
    state: Arc<State>,
}

struct State {
    tenants: Arc<Tenants>,
    entries: Mutex<BTreeMap<&'static str, Entry>>,
}

#[derive(Clone)]
struct Entry {
    help: &'static str,
    series: Series,
}

#[derive(Clone)]
enum Series {
    Counters(Family<Counter>),
    Gauges(Family<Gauge>),
    Histograms(Family<Histogram>),
    Collected { kind: Kind, labels: &'static [&'static str], collect: Collect },
}

type Collect = Arc<dyn Fn(&mut Samples<'_>) + Send + Sync>;

/// Where a collector puts its samples while a page is rendered.
pub struct Samples<'a> {
    labels: &'static [&'static str],
    tenants: &'a Tenants,
    values: BTreeMap<Box<[Box<str>]>, f64>,
}

impl Samples<'_> {
    /// One sample; samples whose labels become equal under the limits are summed.
    ///
    /// # Panics
    /// When the number of values is not that of the labels: a bug of the caller.
    pub fn push(&mut self, values: &[&str], value: f64) {
        assert_eq!(values.len(), self.labels.len(), "one value per label of {:?}", self.labels);
        *self.values.entry(self.tenants.admit_all(self.labels, values)).or_default() += value;
    }
}

impl Registry {
    /// A registry that gives at most `tenants_max` tenants a label of their own.
    #[must_use]
    pub fn new(tenants_max: usize) -> Self {
        let tenants = Arc::new(Tenants::new(tenants_max));
        Self { state: Arc::new(State { tenants, entries: Mutex::default() }) }
    }

    /// A source of cells for one thread that counts.
    #[must_use]
    pub fn writer(&self) -> Writer {
        Writer::new()
    }

    /// A counter without labels.
    #[must_use]
    pub fn counter(&self, descriptor: Descriptor) -> Counter {
        self.counters(descriptor, &[]).with(&[])
    }

    /// Counters told apart by labels.
    #[must_use]
    pub fn counters(
        &self,
        descriptor: Descriptor,
        labels: &'static [&'static str],
    ) -> Family<Counter> {
        match self.register(descriptor, labels, "counter", |labels, tenants| {
            Series::Counters(Family::new(labels, (), tenants))
        }) {
            Series::Counters(family) => family,
            _ => taken(descriptor),
        }
    }

    /// A gauge without labels.
    #[must_use]
    pub fn gauge(&self, descriptor: Descriptor) -> Gauge {
        self.gauges(descriptor, &[]).with(&[])
    }

    /// Gauges told apart by labels.
    #[must_use]
    pub fn gauges(&self, descriptor: Descriptor, labels: &'static [&'static str]) -> Family<Gauge> {
        match self.register(descriptor, labels, "gauge", |labels, tenants| {
            Series::Gauges(Family::new(labels, (), tenants))
        }) {
            Series::Gauges(family) => family,
            _ => taken(descriptor),
        }
    }

    /// A histogram without labels.
    #[must_use]
    pub fn histogram(&self, descriptor: Descriptor, buckets: Buckets) -> Histogram {
        self.histograms(descriptor, buckets, &[]).with(&[])
    }

    /// Histograms told apart by labels.
    #[must_use]
    pub fn histograms(
        &self,
        descriptor: Descriptor,
        buckets: Buckets,
        labels: &'static [&'static str],
    ) -> Family<Histogram> {
        match self.register(descriptor, labels, "histogram", |labels, tenants| {
            Series::Histograms(Family::new(labels, buckets, tenants))
        }) {
            Series::Histograms(family) => family,
            _ => taken(descriptor),
        }
    }

    /// A metric whose samples are read when a page is rendered, for numbers that live elsewhere
    /// already.
    pub fn collect(
        &self,
        descriptor: Descriptor,
        kind: Kind,
        labels: &'static [&'static str],
        collect: impl Fn(&mut Samples<'_>) + Send + Sync + 'static,
    ) {
        check_name(descriptor.name, kind.name());
        let series = Series::Collected { kind, labels, collect: Arc::new(collect) };
        let entry = Entry { help: descriptor.help, series };
        let replaced = self.state.entries.lock().insert(descriptor.name, entry);
        assert!(replaced.is_none(), "metric {} is registered twice", descriptor.name);
    }

    /// The whole page in the Prometheus text format, sorted by name.
    #[must_use]
    pub fn render(&self) -> String {
        // Collectors run outside the lock: they may take locks of their own.
        let entries = self.state.entries.lock().clone();
        let mut out = String::with_capacity(entries.len() * 256);
        for (name, Entry { help, series }) in entries {
            let mut page = Page::open(&mut out, name, help, series.kind());
            match series {
                Series::Counters(family) => family.write(&mut page),
                Series::Gauges(family) => family.write(&mut page),
                Series::Histograms(family) => family.write(&mut page),
                Series::Collected { labels, collect, .. } => {
                    let mut samples =
                        Samples { labels, tenants: &self.state.tenants, values: BTreeMap::new() };
                    collect(&mut samples);
                    for (values, value) in &samples.values {
                        page.float("", &pairs(labels, values), *value);
                    }
                }
            }
        }
        out
    }

    fn register(
        &self,
        descriptor: Descriptor,
        labels: &'static [&'static str],
        kind: &'static str,
        create: impl FnOnce(&'static [&'static str], Arc<Tenants>) -> Series,
    ) -> Series {
        check_name(descriptor.name, kind);
        let mut entries = self.state.entries.lock();
        let entry = entries.entry(descriptor.name).or_insert_with(|| Entry {
            help: descriptor.help,
            series: create(labels, Arc::clone(&self.state.tenants)),
        });
        assert_eq!(entry.series.labels(), labels, "labels of metric {}", descriptor.name);
        entry.series.clone()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.state.entries.lock().len();
        formatter.debug_struct("Registry").field("metrics", &count).finish_non_exhaustive()
    }
}

impl Series {
    fn kind(&self) -> &'static str {
        match self {
            Self::Counters(_) => Kind::Counter.name(),
            Self::Gauges(_) => Kind::Gauge.name(),
            Self::Histograms(_) => "histogram",
            Self::Collected { kind, .. } => kind.name(),
        }
    }

    fn labels(&self) -> &'static [&'static str] {
        match self {
            Self::Counters(family) => family.labels(),
            Self::Gauges(family) => family.labels(),
            Self::Histograms(family) => family.labels(),
            Self::Collected { labels, .. } => labels,
        }
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

#[cold]
fn taken(descriptor: Descriptor) -> ! {
    panic!("metric {} is registered as another kind", descriptor.name)
}

fn check_name(name: &str, kind: &str) {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let parts = name.split('_').count();
    assert!(plain && name.starts_with("ratatosk_") && parts >= 3, "metric name {name}");
    assert_eq!(name.ends_with("_total"), kind == "counter", "counters end in _total: {name}");
    let reserved = ["_bucket", "_count", "_sum"];
    assert!(!reserved.iter().any(|end| name.ends_with(end)), "reserved ending: {name}");
}

#[cfg(test)]
#[path = "registry_test.rs"]
mod tests;

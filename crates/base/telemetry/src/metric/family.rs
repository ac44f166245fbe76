//! Metrics of one name with different label values, bounded in number.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::metric::exposition::Page;

/// The label whose values are limited by the registry, alike in every family.
pub const TENANT: &str = "tenant";

/// The label value that stands for all that have none of their own.
pub const OTHER: &str = "_other";

/// Series in one family; what comes later is counted under [`OTHER`] in all its labels.
pub const SERIES_MAX: usize = 10_000;

/// Label values longer than this are cut: they are chosen by users.
const LABEL_BYTES_MAX: usize = 128;

/// What a family holds: [`crate::metric::Counter`], [`crate::metric::Gauge`] or
/// [`crate::metric::Histogram`]. Sealed: only this crate can name a page.
pub trait Metric: Clone {
    /// What is needed to make one.
    type Shape: Copy + std::fmt::Debug;

    #[doc(hidden)]
    fn create(shape: Self::Shape) -> Self;

    #[doc(hidden)]
    fn write(&self, page: &mut Page<'_>, labels: &[(&str, &str)]);
}

/// Metrics of one name, told apart by label values. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Family<M: Metric> {
    state: Arc<State<M>>,
}

#[derive(Debug)]
struct State<M: Metric> {
    labels: &'static [&'static str],
    shape: M::Shape,
    tenants: Arc<Tenants>,
    series: Mutex<BTreeMap<Box<[Box<str>]>, M>>,
}

impl<M: Metric> Family<M> {
    pub(super) fn new(
        labels: &'static [&'static str],
        shape: M::Shape,
        tenants: Arc<Tenants>,
    ) -> Self {
        Self { state: Arc::new(State { labels, shape, tenants, series: Mutex::default() }) }
    }

    /// The metric with these label values, in the order of the family's labels; made when it is
    /// new. Keep what it returns: this takes a lock.
    ///
    /// # Panics
    /// When the number of values is not that of the labels: a bug of the caller.
    #[must_use]
    pub fn with(&self, values: &[&str]) -> M {
        let State { labels, shape, tenants, series } = &*self.state;
        assert_eq!(values.len(), labels.len(), "one value per label of {labels:?}");
        let mut key = tenants.admit_all(labels, values);
        let mut series = series.lock();
        if series.len() >= SERIES_MAX && !series.contains_key(&key) {
            key = labels.iter().map(|_| OTHER.into()).collect();
        }
        series.entry(key).or_insert_with(|| M::create(*shape)).clone()
    }

    pub(super) fn labels(&self) -> &'static [&'static str] {
        self.state.labels
    }

    pub(super) fn write(&self, page: &mut Page<'_>) {
        let series: Vec<(Box<[Box<str>]>, M)> = {
            let series = self.state.series.lock();
            series.iter().map(|(key, metric)| (key.clone(), metric.clone())).collect()
        };
        for (key, metric) in series {
            metric.write(page, &pairs(self.state.labels, &key));
        }
    }
}

pub(super) fn pairs<'a>(labels: &[&'a str], values: &'a [Box<str>]) -> Vec<(&'a str, &'a str)> {
    labels.iter().zip(values).map(|(label, value)| (*label, &**value)).collect()
}

/// The tenants that have a label of their own: the first ones seen, up to a limit, for the life of
/// the process.
#[derive(Debug)]
pub(super) struct Tenants {
    max: usize,
    seen: Mutex<HashSet<Box<str>>>,
}

impl Tenants {
    pub(super) fn new(max: usize) -> Self {
        Self { max, seen: Mutex::default() }
    }

    /// The values as they are exposed.
    pub(super) fn admit_all(&self, labels: &[&str], values: &[&str]) -> Box<[Box<str>]> {
        labels.iter().zip(values).map(|(label, value)| self.admit(label, value)).collect()
    }

    fn admit(&self, label: &str, value: &str) -> Box<str> {
        let value = cut(value);
        if label != TENANT || value == OTHER {
            return value.into();
        }
        let mut seen = self.seen.lock();
        if seen.contains(value) {
            return value.into();
        }
        if seen.len() >= self.max {
            return OTHER.into();
        }
        seen.insert(value.into());
        value.into()
    }
}

fn cut(value: &str) -> &str {
    &value[..value.floor_char_boundary(LABEL_BYTES_MAX)]
}

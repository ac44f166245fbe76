//! A gauge: a number that goes up and down.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::metric::exposition::Page;
use crate::metric::family::Metric;

/// A number that goes up and down. Cheap to clone; clones are the same gauge.
#[derive(Clone, Debug, Default)]
pub struct Gauge {
    value: Arc<AtomicI64>,
}

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: i64) {
        self.value.store(value, Ordering::Relaxed);
    }

    /// Adds; negative numbers subtract.
    pub fn add(&self, change: i64) {
        self.value.fetch_add(change, Ordering::Relaxed);
    }

    /// The current value.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.value.load(Ordering::Relaxed)
    }
}

impl Metric for Gauge {
    type Shape = ();

    fn create((): ()) -> Self {
        Self::default()
    }

    fn write(&self, page: &mut Page<'_>, labels: &[(&str, &str)]) {
        page.integer("", labels, self.value());
    }
}

//! A histogram with fixed buckets over whole numbers, scaled to the base unit when it is rendered.
//!
//! Observations are integers (nanoseconds, bytes), so that summing loses nothing.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use crate::metric::exposition::Page;
use crate::metric::family::Metric;

/// The bounds of a histogram, ascending, and what one unit is in the exposed unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Buckets {
    /// Upper bounds, inclusive, in the unit that is observed.
    pub bounds: &'static [u64],
    /// Observed unit × scale = exposed unit.
    pub scale: f64,
}

impl Buckets {
    /// Latencies: observed in nanoseconds, exposed in seconds, from 50 µs to 10 s.
    pub const LATENCY: Self = Self {
        bounds: &[
            50_000,
            100_000,
            250_000,
            500_000,
            1_000_000,
            2_500_000,
            5_000_000,
            10_000_000,
            25_000_000,
            50_000_000,
            100_000_000,
            250_000_000,
            500_000_000,
            1_000_000_000,
            2_500_000_000,
            10_000_000_000,
        ],
        scale: 1e-9,
    };

    /// Sizes in bytes, from 64 to 16 MiB.
    pub const SIZE: Self = Self {
        bounds: &[64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 16 << 20],
        scale: 1.0,
    };

    /// Numbers of things, from 1 to 100,000: fan-out, batch lengths.
    pub const COUNT: Self =
        Self { bounds: &[1, 2, 5, 10, 25, 50, 100, 1_000, 10_000, 100_000], scale: 1.0 };
}

/// Observations counted by size. Cheap to clone; clones observe together.
#[derive(Clone, Debug)]
pub struct Histogram {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    buckets: Buckets,
    shared: Arc<CachePadded<Counts>>,
    cells: Mutex<Vec<Arc<CachePadded<Counts>>>>,
}

/// `buckets[i]` counts observations in (`bounds[i - 1]`, `bounds[i]`]; the last has no bound.
#[derive(Debug)]
struct Counts {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// One shard's part of a histogram: neither `Clone` nor `Sync`, so that observing is plain stores.
#[derive(Debug)]
pub struct HistogramCell {
    counts: Arc<CachePadded<Counts>>,
    state: Arc<State>,
    single_owner: PhantomData<Cell<()>>,
}

impl Histogram {
    /// Observes from any thread. For cold paths; a shard takes a [`Histogram::cell`].
    pub fn observe(&self, value: u64) {
        let counts = &self.state.shared;
        counts.buckets[self.state.bucket(value)].fetch_add(1, Ordering::Relaxed);
        counts.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// A part of this histogram for one thread.
    #[must_use]
    pub fn cell(&self) -> HistogramCell {
        let counts = Arc::new(CachePadded::new(Counts::new(self.state.buckets)));
        self.state.cells.lock().push(Arc::clone(&counts));
        HistogramCell { counts, state: Arc::clone(&self.state), single_owner: PhantomData }
    }

    /// Counts per bucket and the sum of what was observed.
    fn totals(&self) -> (Vec<u64>, u64) {
        let cells = self.state.cells.lock();
        let mut buckets = vec![0_u64; self.state.buckets.bounds.len() + 1];
        let mut sum = 0_u64;
        for counts in cells.iter().chain([&self.state.shared]) {
            for (total, bucket) in buckets.iter_mut().zip(&counts.buckets) {
                *total = total.wrapping_add(bucket.load(Ordering::Relaxed));
            }
            sum = sum.wrapping_add(counts.sum.load(Ordering::Relaxed));
        }
        (buckets, sum)
    }
}

impl HistogramCell {
    /// Observes: two loads and two stores.
    pub fn observe(&self, value: u64) {
        add_owned(&self.counts.buckets[self.state.bucket(value)], 1);
        add_owned(&self.counts.sum, value);
    }
}

impl Drop for HistogramCell {
    fn drop(&mut self) {
        let mut cells = self.state.cells.lock();
        cells.retain(|counts| !Arc::ptr_eq(counts, &self.counts));
        let shared = &self.state.shared;
        for (total, bucket) in shared.buckets.iter().zip(&self.counts.buckets) {
            total.fetch_add(bucket.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        shared.sum.fetch_add(self.counts.sum.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl State {
    fn bucket(&self, value: u64) -> usize {
        self.buckets.bounds.partition_point(|bound| *bound < value)
    }
}

impl Counts {
    fn new(buckets: Buckets) -> Self {
        let buckets = (0..=buckets.bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, sum: AtomicU64::new(0) }
    }
}

fn add_owned(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

impl Metric for Histogram {
    type Shape = Buckets;

    fn create(buckets: Buckets) -> Self {
        assert!(buckets.bounds.is_sorted_by(|low, high| low < high), "bounds ascend");
        let shared = Arc::new(CachePadded::new(Counts::new(buckets)));
        Self { state: Arc::new(State { buckets, shared, cells: Mutex::default() }) }
    }

    fn write(&self, page: &mut Page<'_>, labels: &[(&str, &str)]) {
        let (counts, sum) = self.totals();
        let Buckets { bounds, scale } = self.state.buckets;
        let mut below = 0_u64;
        for (index, count) in counts.iter().enumerate() {
            below = below.wrapping_add(*count);
            let bound = bounds.get(index).map(|bound| (*bound as f64 * scale).to_string());
            let le = ("le", bound.as_deref().unwrap_or("+Inf"));
            page.integer("_bucket", &[labels, &[le]].concat(), below);
        }
        page.float("_sum", labels, sum as f64 * scale);
        page.integer("_count", labels, below);
    }
}

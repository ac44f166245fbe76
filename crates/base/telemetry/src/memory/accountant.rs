//! The accountant: process totals, the pressure that follows from them, and the accounts by tenant.
//!
//! `total[share] = Σ accounts[share]` whenever no charge is under way. Used memory is estimated as
//! the larger of what is charged and the last resident size plus what was charged since, and a
//! quarter of that; so neither an allocator's overhead nor a burst between two observations goes
//! unseen. Totals may be negative
//! for a moment, when one shard's release overtakes another's batched charge; they read as zero
//! then.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use crate::ByteCount;
use crate::memory::account::{Account, Ledger};
use crate::memory::{Pressure, SHARES, Share, batch};

/// The account for what belongs to no tenant: the node's own tables. No tenant has a name that
/// begins with `_`.
pub const NODE_TENANT: &str = "_node";

/// The accountant of the process. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Accountant {
    books: Arc<Books>,
}

pub(super) struct Books {
    limit: AtomicU64,
    /// How much a thread may leave unposted.
    pub(super) step: u64,
    totals: [CachePadded<AtomicI64>; SHARES],
    /// The last observed resident size, and what was charged then.
    resident: AtomicU64,
    charged_at_observation: AtomicU64,
    pressure: AtomicU8,
    /// How often each level was entered from below.
    entered: [AtomicU64; Pressure::ALL.len()],
    accounts: Mutex<Accounts>,
}

#[derive(Default)]
struct Accounts {
    by_tenant: HashMap<Arc<str>, Weak<Ledger>>,
    /// At this many entries the dead ones are swept; then twice the living.
    sweep_at: usize,
}

/// A burst counts for one part in so many more than it is charged: an eighth was measured, for what
/// allocators add; the rest is caution while nobody has looked.
const BURST_EXTRA: u64 = 4;

/// Accounts below which sweeping is not worth it.
const SWEEP_MIN: usize = 64;

/// Everything that the accountant knows, at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The configured limit.
    pub limit: ByteCount,
    /// The last observed resident size; zero before the first observation.
    pub resident: ByteCount,
    /// The estimate that the pressure follows.
    pub used: ByteCount,
    /// What must be shed.
    pub pressure: Pressure,
    /// Charged in the process, by [`Share::index`].
    pub charged: [ByteCount; SHARES],
    /// How often each level of [`Pressure::ALL`] was entered from below.
    pub entered: [u64; Pressure::ALL.len()],
    /// The tenants, the largest first.
    pub tenants: Vec<TenantCharge>,
}

/// What one tenant holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantCharge {
    /// Its name, or [`NODE_TENANT`].
    pub tenant: Arc<str>,
    /// By [`Share::index`].
    pub charged: [ByteCount; SHARES],
}

impl TenantCharge {
    /// Over all shares.
    #[must_use]
    pub fn total(&self) -> ByteCount {
        sum(&self.charged)
    }
}

impl Accountant {
    /// An accountant for a process that may use so much.
    #[must_use]
    pub fn new(limit: ByteCount) -> Self {
        let books = Books {
            limit: AtomicU64::new(limit.bytes()),
            step: batch::step(limit.bytes()),
            totals: Default::default(),
            resident: AtomicU64::new(0),
            charged_at_observation: AtomicU64::new(0),
            pressure: AtomicU8::new(Pressure::None as u8),
            entered: Default::default(),
            accounts: Mutex::new(Accounts { sweep_at: SWEEP_MIN, ..Accounts::default() }),
        };
        Self { books: Arc::new(books) }
    }

    /// The tenant's account: always the same one while anybody holds it.
    #[must_use]
    pub fn account(&self, tenant: &str) -> Account {
        let mut accounts = self.books.accounts.lock();
        if let Some(ledger) = accounts.by_tenant.get(tenant).and_then(Weak::upgrade) {
            return Account::new(ledger);
        }
        if accounts.by_tenant.len() >= accounts.sweep_at {
            accounts.by_tenant.retain(|_, ledger| ledger.strong_count() > 0);
            accounts.sweep_at = SWEEP_MIN.max(2 * accounts.by_tenant.len());
        }
        let tenant: Arc<str> = tenant.into();
        let ledger = Arc::new(Ledger::new(Arc::clone(&tenant), Arc::clone(&self.books)));
        accounts.by_tenant.insert(tenant, Arc::downgrade(&ledger));
        Account::new(ledger)
    }

    /// Takes note of the process's resident size and gives the pressure that follows.
    pub fn observe_rss(&self, resident: ByteCount) -> Pressure {
        let books = &self.books;
        books.resident.store(resident.bytes(), Ordering::Relaxed);
        books.charged_at_observation.store(books.charged().bytes(), Ordering::Relaxed);
        books.assess()
    }

    /// What must be shed: one relaxed load.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        Pressure::from_index(self.books.pressure.load(Ordering::Relaxed))
    }

    /// How much has to go before readers need not be paused any more.
    #[must_use]
    pub fn excess(&self) -> ByteCount {
        let mark = Pressure::PauseReaders.enters_at(self.limit());
        ByteCount::new(self.books.used().bytes().saturating_sub(mark.bytes()))
    }

    /// The limit.
    #[must_use]
    pub fn limit(&self) -> ByteCount {
        ByteCount::new(self.books.limit.load(Ordering::Relaxed))
    }

    /// Charged in the process over all shares and tenants.
    #[must_use]
    pub fn charged(&self) -> ByteCount {
        self.books.charged()
    }

    /// The tenants that hold the most, the largest first, at most `count`: those to slow down
    /// first.
    #[must_use]
    pub fn largest(&self, count: usize) -> Vec<TenantCharge> {
        let mut tenants = self.books.tenants();
        tenants.truncate(count);
        tenants
    }

    /// Everything that is known, for metrics and operators.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let books = &self.books;
        Snapshot {
            limit: self.limit(),
            resident: ByteCount::new(books.resident.load(Ordering::Relaxed)),
            used: books.used(),
            pressure: self.pressure(),
            charged: Share::ALL.map(|share| books.total(share)),
            entered: Pressure::ALL
                .map(|level| books.entered[level as usize].load(Ordering::Relaxed)),
            tenants: books.tenants(),
        }
    }
}

/// One without a limit: it knows, and nothing is shed.
impl Default for Accountant {
    fn default() -> Self {
        Self::new(ByteCount::new(u64::MAX))
    }
}

impl fmt::Debug for Accountant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Accountant")
            .field("limit", &self.limit())
            .field("charged", &self.charged())
            .field("pressure", &self.pressure())
            .finish_non_exhaustive()
    }
}

impl Books {
    /// Moves a total and follows with the pressure.
    pub(super) fn post(&self, changes: &[i64; SHARES]) {
        for (total, change) in self.totals.iter().zip(changes) {
            if *change != 0 {
                total.fetch_add(*change, Ordering::Relaxed);
            }
        }
        self.assess();
    }

    /// Moves one total and follows with the pressure.
    pub(super) fn post_one(&self, share: Share, change: i64) {
        self.totals[share.index()].fetch_add(change, Ordering::Relaxed);
        self.assess();
    }

    fn assess(&self) -> Pressure {
        let limit = ByteCount::new(self.limit.load(Ordering::Relaxed));
        let used = self.used();
        let current = Pressure::from_index(self.pressure.load(Ordering::Relaxed));
        let next = current.next(used, limit);
        if next == current {
            return next;
        }
        // Of two that see the same change one counts it; a lost race is repaired by the next
        // charge.
        let swapped = self.pressure.compare_exchange(
            current as u8,
            next as u8,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if swapped.is_ok() {
            for level in Pressure::ALL.iter().filter(|level| **level > current && **level <= next) {
                self.entered[*level as usize].fetch_add(1, Ordering::Relaxed);
            }
        }
        next
    }

    fn used(&self) -> ByteCount {
        let charged = self.charged().bytes();
        let since = charged.saturating_sub(self.charged_at_observation.load(Ordering::Relaxed));
        let resident = self.resident.load(Ordering::Relaxed);
        if resident == 0 {
            return ByteCount::new(charged);
        }
        // What is charged takes more than it says until it is seen.
        let since = since.saturating_add(since / BURST_EXTRA);
        ByteCount::new(charged.max(resident.saturating_add(since)))
    }

    fn charged(&self) -> ByteCount {
        let sum: i64 = self.totals.iter().map(|total| total.load(Ordering::Relaxed)).sum();
        clamp(sum)
    }

    fn total(&self, share: Share) -> ByteCount {
        clamp(self.totals[share.index()].load(Ordering::Relaxed))
    }

    fn tenants(&self) -> Vec<TenantCharge> {
        let ledgers: Vec<Arc<Ledger>> =
            self.accounts.lock().by_tenant.values().filter_map(Weak::upgrade).collect();
        let mut tenants: Vec<_> = ledgers.iter().map(|ledger| ledger.charge()).collect();
        tenants.sort_by(|a, b| b.total().cmp(&a.total()).then_with(|| a.tenant.cmp(&b.tenant)));
        tenants
    }
}

pub(super) fn clamp(bytes: i64) -> ByteCount {
    ByteCount::new(u64::try_from(bytes).unwrap_or(0))
}

fn sum(charged: &[ByteCount; SHARES]) -> ByteCount {
    ByteCount::new(charged.iter().fold(0, |sum, bytes| bytes.bytes().saturating_add(sum)))
}

#[cfg(test)]
#[path = "accountant_test.rs"]
mod tests;

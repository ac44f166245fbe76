//! A tenant's account: what it holds, by share.
//!
//! Whoever charges keeps the account (or a [`Hold`](super::Hold) on it) until it has released the
//! same. When the last holder goes, what was never released is taken from the process totals:
//! nobody could release it later.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::memory::accountant::{Books, TenantCharge, clamp};
use crate::memory::{SHARES, Share, batch};

/// One tenant's account. Cheap to clone; clones are the same account.
#[derive(Clone)]
pub struct Account {
    ledger: Arc<Ledger>,
}

pub(super) struct Ledger {
    tenant: Arc<str>,
    held: [AtomicI64; SHARES],
    books: Arc<Books>,
}

impl Account {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger }
    }

    /// Whose account it is.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.ledger.tenant
    }

    /// Charges at once. On the packet path use [`Account::adjust`] or a hold.
    pub fn charge(&self, share: Share, bytes: usize) {
        self.ledger.post_one(share, signed(bytes));
    }

    /// Takes a charge back at once.
    pub fn release(&self, share: Share, bytes: usize) {
        self.ledger.post_one(share, -signed(bytes));
    }

    /// Charges `held` instead of `before`, in this thread's steps.
    #[inline]
    pub fn adjust(&self, share: Share, before: usize, held: usize) {
        if before != held {
            batch::note(self, share, signed(held) - signed(before));
        }
    }

    /// What the tenant holds.
    #[must_use]
    pub fn charged(&self) -> TenantCharge {
        self.ledger.charge()
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.ledger, &other.ledger)
    }

    /// How much a thread may leave unposted.
    pub(super) fn step(&self) -> u64 {
        self.ledger.books.step
    }

    pub(super) fn post_one(&self, share: Share, change: i64) {
        self.ledger.post_one(share, change);
    }

    pub(super) fn post(&self, changes: &[i64; SHARES]) {
        for (held, change) in self.ledger.held.iter().zip(changes) {
            if *change != 0 {
                held.fetch_add(*change, Ordering::Relaxed);
            }
        }
        self.ledger.books.post(changes);
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.charged().fmt(formatter)
    }
}

impl Ledger {
    pub(super) fn new(tenant: Arc<str>, books: Arc<Books>) -> Self {
        Self { tenant, held: Default::default(), books }
    }

    pub(super) fn charge(&self) -> TenantCharge {
        let charged =
            Share::ALL.map(|share| clamp(self.held[share.index()].load(Ordering::Relaxed)));
        TenantCharge { tenant: Arc::clone(&self.tenant), charged }
    }

    fn post_one(&self, share: Share, change: i64) {
        self.held[share.index()].fetch_add(change, Ordering::Relaxed);
        self.books.post_one(share, change);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let left = self.held.each_mut().map(|held| -*held.get_mut());
        if left.iter().any(|change| *change != 0) {
            self.books.post(&left);
        }
    }
}

pub(super) fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

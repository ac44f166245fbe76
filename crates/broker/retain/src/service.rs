//! The retained messages of all tenants: one store each, found by name.
//!
//! A store lives as long as it keeps a message or somebody holds it. Stores that are neither are
//! dropped in passing, when their number has doubled since the last look.
//!
//! A service that is kept in a keyspace writes every change there, and has everything in memory as
//! well: it is read from there, not from the keyspace, but for the start.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use parking_lot::RwLock;
use ratatosk_client::Keyspace;
use ratatosk_clock::{Epoch, Instant};
use ratatosk_contract::{
    TenantId,
    retain::{Retain, RetainLimits, TenantRetained},
    sessions::Sessions,
};
use ratatosk_engine::Error;
use ratatosk_telemetry::memory::Accountant;

use crate::{RetainStats, journal::Journal, restoration::Restoration, tenant::Tenant};

/// How many stores there are at least before a look for unused ones.
const LOOK_MIN: usize = 64;

/// The retained messages of all tenants.
#[derive(Default)]
pub struct RetainService {
    tenants: RwLock<Tenants>,
    limits: RetainLimits,
    memory: Accountant,
    journal: Option<Arc<Journal>>,
    /// At which tenant the next collection begins, so that each has its turn.
    turn: AtomicUsize,
}

#[derive(Default)]
struct Tenants {
    by_id: HashMap<TenantId, Arc<Tenant>, RandomState>,
    /// How many stores there may be before the next look for unused ones.
    look_at: usize,
    /// What the stores counted that were dropped.
    dropped: RetainStats,
}

impl RetainService {
    /// A service that keeps nothing yet. `limits` hold for each tenant until it is given its own.
    pub fn new(limits: RetainLimits) -> Self {
        RetainService { limits, ..RetainService::default() }
    }

    /// Charges what it keeps to the tenants' accounts.
    #[must_use]
    pub fn charged_to(self, memory: &Accountant) -> Self {
        RetainService { memory: memory.clone(), ..self }
    }

    /// Keeps everything in `keyspace`, too, whose coprocessor is a
    /// [`RetainCoprocessor`](crate::RetainCoprocessor), and tells `sessions` when it is durable.
    /// `epoch` is that of the clock from which messages have their times.
    #[must_use]
    pub fn kept_in(
        self,
        keyspace: Arc<dyn Keyspace>,
        sessions: Arc<dyn Sessions>,
        epoch: Epoch,
    ) -> Self {
        RetainService { journal: Some(Arc::new(Journal { keyspace, sessions, epoch })), ..self }
    }

    /// Takes back what the keyspace has, but for what expired before the process began: the next
    /// collections remove that. To be called once, before anything is stored. RET-006, DUR-002
    ///
    /// # Errors
    /// The keyspace's, or [`Error::Corrupt`] if it has what this service has not written: the node
    /// stops.
    ///
    /// # Panics
    /// If something is stored already.
    pub fn restore(&self) -> Result<(), Error> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let mut restoration = Restoration::new(journal.epoch, |id| self.open(id));
        journal.keyspace.read(&mut |reader| restoration.read(reader))?;
        restoration.finish();
        Ok(())
    }

    /// Removes messages that are expired, at most `count_max`; returns how many. To be called
    /// about once a second. RET-004
    pub fn collect(&self, now: Instant, count_max: usize) -> usize {
        let mut tenants: Vec<_> = self.tenants.read().by_id.values().cloned().collect();
        if tenants.is_empty() {
            return 0;
        }
        let start = self.turn.fetch_add(1, Ordering::Relaxed) % tenants.len();
        tenants.rotate_left(start);
        let mut count = 0;
        for tenant in &tenants {
            if count == count_max {
                break;
            }
            count += tenant.collect(now, count_max - count);
        }
        count
    }

    /// Goes on with orders to end what tenants had ([`TenantRetained::expire_all`]): removes at most `count_max` messages of all tenants together and returns how many. RET-009
    pub fn expire_ordered(&self, count_max: usize) -> usize {
        let known = self.tenants.read();
        let ordered = known.by_id.values().filter(|tenant| tenant.is_ending());
        let mut tenants: Vec<_> = ordered.cloned().collect();
        drop(known);
        if tenants.is_empty() {
            return 0;
        }
        let start = self.turn.fetch_add(1, Ordering::Relaxed) % tenants.len();
        tenants.rotate_left(start);
        let mut left = count_max;
        for tenant in &tenants {
            if left == 0 {
                break;
            }
            left -= tenant.end_some(left);
        }
        count_max - left
    }

    /// Panics unless every store keeps its invariants.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        self.tenants.read().by_id.values().for_each(|tenant| tenant.check_invariants());
    }

    fn open(&self, id: &TenantId) -> Arc<Tenant> {
        if let Some(tenant) = self.tenants.read().by_id.get(id) {
            return Arc::clone(tenant);
        }
        let mut tenants = self.tenants.write();
        tenants.drop_unused();
        let made = || {
            let account = self.memory.account(id.as_str());
            Arc::new(Tenant::new(id.clone(), self.limits, account, self.journal.clone()))
        };
        Arc::clone(tenants.by_id.entry(id.clone()).or_insert_with(made))
    }

    /// What all tenants hold and did together.
    pub fn stats(&self) -> RetainStats {
        let tenants = self.tenants.read();
        let mut sum = tenants.dropped;
        for tenant in tenants.by_id.values() {
            sum.add(&tenant.stats());
        }
        sum
    }

    /// What one tenant holds and did; zeros if it is not known.
    pub fn tenant_stats(&self, tenant: &TenantId) -> RetainStats {
        self.tenants.read().by_id.get(tenant).map(|tenant| tenant.stats()).unwrap_or_default()
    }
}

impl Retain for RetainService {
    fn tenant(&self, id: &TenantId) -> Arc<dyn TenantRetained> {
        self.open(id)
    }
}

impl Tenants {
    fn drop_unused(&mut self) {
        if self.by_id.len() < self.look_at.max(LOOK_MIN) {
            return;
        }
        let dropped = &mut self.dropped;
        self.by_id.retain(|_, tenant| {
            // Whoever holds a store got it under this lock: if only the map does, nobody else can.
            let is_used = Arc::strong_count(tenant) > 1 || tenant.is_used();
            if !is_used {
                dropped.add(&RetainStats { tenants: 0, ..tenant.stats() });
            }
            is_used
        });
        self.by_id.shrink_to(LOOK_MIN);
        self.look_at = self.by_id.len() * 2;
    }
}

//! The retained messages of all tenants: one store each, found by name.
//!
//! A store lives as long as it keeps a message or somebody holds it. Stores that are neither are
//! dropped in passing, when their number has doubled since the last look.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use parking_lot::RwLock;
use ratatosk_clock::Instant;
use ratatosk_contract::{
    TenantId,
    retain::{Retain, RetainLimits, TenantRetained},
};
use ratatosk_telemetry::memory::Accountant;

use crate::{RetainStats, tenant::Tenant};

/// How many stores there are at least before a look for unused ones.
const LOOK_MIN: usize = 64;

/// The retained messages of all tenants, in memory.
#[derive(Default)]
pub struct RetainService {
    tenants: RwLock<Tenants>,
    limits: RetainLimits,
    memory: Accountant,
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
        if let Some(tenant) = self.tenants.read().by_id.get(id) {
            return Arc::clone(tenant) as Arc<dyn TenantRetained>;
        }
        let mut tenants = self.tenants.write();
        tenants.drop_unused();
        let made = || Arc::new(Tenant::new(self.limits, self.memory.account(id.as_str())));
        let tenant = tenants.by_id.entry(id.clone()).or_insert_with(made);
        Arc::clone(tenant) as Arc<dyn TenantRetained>
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
            let stats = tenant.stats();
            let is_used = Arc::strong_count(tenant) > 1 || stats.topics > 0;
            if !is_used {
                dropped.add(&RetainStats { tenants: 0, ..stats });
            }
            is_used
        });
        self.by_id.shrink_to(LOOK_MIN);
        self.look_at = self.by_id.len() * 2;
    }
}

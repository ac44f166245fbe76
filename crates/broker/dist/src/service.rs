//! The routing service: one table per tenant, found by name.
//!
//! A table lives as long as it has a route or somebody holds it. Tables that are neither are
//! dropped in passing, when their number has doubled since the last look, so that tenants that
//! come and go leave nothing behind.

use std::{
    hash::BuildHasher,
    sync::{Arc, atomic::AtomicU32},
};

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use parking_lot::RwLock;
use ratatosk_contract::{
    TenantId,
    dist::{Dist, TenantRoutes},
};

use crate::{DistStats, tenant::Tenant};

/// How many tables there are at least before a look for unused ones.
const LOOK_MIN: usize = 64;

/// The routes of all tenants, in memory.
#[derive(Default)]
pub struct DistService {
    tenants: RwLock<Tenants>,
    /// Numbers the routes of all tenants, so that no two are named alike even if a tenant's table
    /// was dropped in between.
    generations: Arc<AtomicU32>,
}

#[derive(Default)]
struct Tenants {
    by_id: HashMap<TenantId, Arc<Tenant>, RandomState>,
    /// How many tables there may be before the next look for unused ones.
    look_at: usize,
}

impl DistService {
    /// A service without routes.
    pub fn new() -> Self {
        DistService::default()
    }

    /// What all tenants hold together.
    pub fn stats(&self) -> DistStats {
        let mut sum = DistStats::default();
        for tenant in self.tenants.read().by_id.values() {
            sum.add(&tenant.stats());
        }
        sum
    }

    /// What one tenant holds; zeros if it has no table.
    pub fn tenant_stats(&self, tenant: &TenantId) -> DistStats {
        self.tenants.read().by_id.get(tenant).map(|tenant| tenant.stats()).unwrap_or_default()
    }
}

impl Dist for DistService {
    fn tenant(&self, id: &TenantId) -> Arc<dyn TenantRoutes> {
        if let Some(tenant) = self.tenants.read().by_id.get(id) {
            return Arc::clone(tenant) as Arc<dyn TenantRoutes>;
        }
        let mut tenants = self.tenants.write();
        tenants.drop_unused();
        let tenant = tenants.by_id.entry(id.clone()).or_insert_with(|| {
            // Clients choose the filters: they must not know how these are hashed.
            let hash_seed = RandomState::default().hash_one(id);
            Arc::new(Tenant::new(hash_seed, Arc::clone(&self.generations)))
        });
        Arc::clone(tenant) as Arc<dyn TenantRoutes>
    }
}

impl Tenants {
    fn drop_unused(&mut self) {
        if self.by_id.len() < self.look_at.max(LOOK_MIN) {
            return;
        }
        // Whoever holds a table got it under this lock: if only the map does, nobody else can.
        self.by_id.retain(|_, tenant| Arc::strong_count(tenant) > 1 || !tenant.is_empty());
        self.by_id.shrink_to(LOOK_MIN);
        self.look_at = self.by_id.len() * 2;
    }
}

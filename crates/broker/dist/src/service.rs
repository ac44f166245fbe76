//! The routing service: one table per tenant, found by name.
//!
//! A service that is kept in a keyspace writes the routes of persistent sessions there, and has them
//! in memory as well: the keyspace is read at the start only.
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
use ratatosk_client::Keyspace;
use ratatosk_contract::{
    TenantId,
    dist::{Dist, InboxRoute, RESTORED_LIFE, Receiver, TenantRoutes},
    group::{Member, MemberTarget},
};
use ratatosk_engine::{Error, KeyRange, wire::Malformed};
use ratatosk_store::coprocessor::scan_all;
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{
    DistStats,
    coprocessor::corrupt,
    journal::Journal,
    schema::{self, Stored},
    tenant::Tenant,
};

/// How many tables there are at least before a look for unused ones.
const LOOK_MIN: usize = 64;

/// The routes of all tenants, in memory.
#[derive(Default)]
pub struct DistService {
    tenants: RwLock<Tenants>,
    /// Numbers the routes of all tenants, so that no two are named alike even if a tenant's table
    /// was dropped in between.
    generations: Arc<AtomicU32>,
    journal: Option<Arc<Journal>>,
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

    /// Keeps the routes of persistent sessions in `keyspace`, whose coprocessor is a
    /// [`DistCoprocessor`](crate::DistCoprocessor). [`restore`](Self::restore) comes before the first
    /// change.
    #[must_use]
    pub fn kept_in(self, keyspace: Arc<dyn Keyspace>) -> Self {
        DistService { journal: Some(Arc::new(Journal { keyspace })), ..self }
    }

    /// Takes over the routes that the keyspace has. Whether they are right the sessions know, which
    /// are asked next: DIST-014. To be called once.
    ///
    /// # Errors
    /// The keyspace's, or [`Error::Corrupt`] if it has what this service has not written: the node
    /// stops.
    pub fn restore(&self) -> Result<(), Error> {
        let Some(journal) = &self.journal else { return Ok(()) };
        // The keys of a tenant are neighbours.
        let mut last: Option<Arc<Tenant>> = None;
        journal.keyspace.read(&mut |reader| {
            scan_all(reader, &KeyRange::all(), |key, record| {
                let malformed = |malformed| corrupt(key, malformed);
                let (id, stored) = schema::decode(key, record).map_err(malformed)?;
                let filter = TopicFilter::parse(&stored.text, &TopicLimits::PROTOCOL);
                let filter = filter.map_err(|_| malformed(Malformed))?;
                let tenant = match last.take().filter(|last| last.id().as_str() == id) {
                    Some(tenant) => tenant,
                    None => self.open(&TenantId::new(id)),
                };
                tenant.load(&filter, receiver(&stored));
                last = Some(tenant);
                Ok(())
            })
        })
    }

    fn open(&self, id: &TenantId) -> Arc<Tenant> {
        if let Some(tenant) = self.tenants.read().by_id.get(id) {
            return Arc::clone(tenant);
        }
        let mut tenants = self.tenants.write();
        tenants.drop_unused();
        let tenant = tenants.by_id.entry(id.clone()).or_insert_with(|| {
            // Clients choose the filters: they must not know how these are hashed.
            let hash_seed = RandomState::default().hash_one(id);
            let (generations, journal) = (Arc::clone(&self.generations), self.journal.clone());
            Arc::new(Tenant::new(id.clone(), hash_seed, generations, journal))
        });
        Arc::clone(tenant)
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
        self.open(id)
    }

    fn tenants(&self) -> Vec<TenantId> {
        let tenants = self.tenants.read();
        let used = tenants.by_id.iter().filter(|(_, tenant)| !tenant.is_empty());
        used.map(|(id, _)| id.clone()).collect()
    }
}

/// The receiver of a stored route, as of an earlier process.
fn receiver(stored: &Stored) -> Receiver {
    let schema::Kept { inbox, options, subscription_id } = stored.kept;
    let incarnation = RESTORED_LIFE;
    let Some(id) = stored.member else {
        return Receiver::Inbox(InboxRoute { inbox, incarnation, options, subscription_id });
    };
    let (target, state) = (MemberTarget::Inbox(inbox), Arc::default());
    let member = Member { id, incarnation, target, options, subscription_id, state };
    // Whoever was in a group stays in it, also if the tenant has a lower limit now.
    Receiver::Member { member, members_max: u32::MAX }
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

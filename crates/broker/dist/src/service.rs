//! The routing service: one table per tenant, found by name.
//!
//! A service that is kept in a keyspace writes the routes of persistent sessions there, and has them
//! in memory as well: the keyspace is read at the start only. One that is replicated has what the
//! replicas of its node have applied ([`replicas`](crate::replicas)).
//!
//! A table lives as long as it has a route or somebody holds it. Tables that are neither are
//! dropped in passing, when their number has doubled since the last look, so that tenants that
//! come and go leave nothing behind.

use std::{
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use ratatosk_client::{Change, Coverage, Keyspace, Replicas};
use ratatosk_contract::{
    TenantId,
    dist::{Dist, TenantRoutes},
};
use ratatosk_engine::{Error, KeyRange, wire::Malformed};
use ratatosk_store::coprocessor::{Reader, scan_all};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{
    DistStats,
    coprocessor::corrupt,
    journal::Journal,
    schema::{self, Stored},
    tenant::{Home, Tenant},
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
    home: Home,
    coverage: Mutex<Coverage>,
    coprocessors: AtomicU64,
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
        DistService { home: Home::Journal(Arc::new(Journal { keyspace })), ..self }
    }

    /// A service whose routes of persistent sessions are those that the replicas of its node have applied,
    /// which tell it by coprocessors that [feed](crate::DistCoprocessor::feeding) it. Until it is
    /// [connected](Self::connect) none can be added, and nothing may be answered.
    #[must_use]
    pub fn replicated() -> Self {
        DistService { home: Home::Replicas(Arc::default()), ..DistService::default() }
    }

    /// Gives a replicated service the way to its keyspace, which leads to whoever leads its ranges, and
    /// to the replicas that feed it. To be called once.
    pub fn connect(&self, keyspace: Arc<dyn Keyspace>, replicas: Box<dyn Replicas>) {
        let Home::Replicas(replication) = &self.home else {
            debug_assert!(false, "only a replicated service is connected");
            return;
        };
        replication.connect(keyspace, replicas);
    }

    pub(crate) fn next_coprocessor(&self) -> u64 {
        self.coprocessors.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A range has these keys from now on, and the data that `reader` shows.
    pub(crate) fn cover(
        &self,
        number: u64,
        keys: &KeyRange,
        reader: &dyn Reader,
    ) -> Result<(), Error> {
        let Change { came, went } = self.coverage.lock().set(number, Some(keys));
        came.iter().try_for_each(|keys| self.load(reader, keys))?;
        self.release(&went);
        Ok(())
    }

    /// A range is not here any more.
    pub(crate) fn uncover(&self, number: u64) {
        let Change { went, .. } = self.coverage.lock().set(number, None);
        self.release(&went);
    }

    /// Takes the routes away whose keys no range has any more.
    fn release(&self, went: &[KeyRange]) {
        if !went.is_empty() {
            let tenants: Vec<_> = self.tenants.read().by_id.values().cloned().collect();
            tenants.iter().for_each(|tenant| tenant.release(went));
        }
        if let Home::Replicas(replication) = &self.home {
            replication.serving.changed();
        }
    }

    /// Takes over the routes that the keyspace has. Whether they are right the sessions know, which
    /// are asked next: DIST-014. To be called once.
    ///
    /// # Errors
    /// The keyspace's, or [`Error::Corrupt`] if it has what this service has not written: the node
    /// stops.
    pub fn restore(&self) -> Result<(), Error> {
        let Home::Journal(journal) = &self.home else { return Ok(()) };
        journal.keyspace.read(&mut |reader| self.load(reader, &KeyRange::all()))
    }

    /// Takes over the routes of an interval of keys.
    fn load(&self, reader: &dyn Reader, keys: &KeyRange) -> Result<(), Error> {
        // The keys of a tenant are neighbours.
        let mut last: Option<Arc<Tenant>> = None;
        scan_all(reader, keys, |key, record| {
            let malformed = |malformed| corrupt(key, malformed);
            let (id, Stored { text, member, kept }) =
                schema::decode(key, record).map_err(malformed)?;
            let filter = TopicFilter::parse(&text, &TopicLimits::PROTOCOL);
            let filter = filter.map_err(|_| malformed(Malformed))?;
            let tenant = match last.take().filter(|last| last.id().as_str() == id) {
                Some(tenant) => tenant,
                None => self.open(&TenantId::new(id)),
            };
            tenant.load(&filter, member, kept);
            last = Some(tenant);
            Ok(())
        })
    }

    pub(crate) fn open(&self, id: &TenantId) -> Arc<Tenant> {
        if let Some(tenant) = self.tenants.read().by_id.get(id) {
            return Arc::clone(tenant);
        }
        let mut tenants = self.tenants.write();
        tenants.drop_unused();
        let tenant = tenants.by_id.entry(id.clone()).or_insert_with(|| {
            // Clients choose the filters: they must not know how these are hashed.
            let hash_seed = RandomState::default().hash_one(id);
            let (generations, home) = (Arc::clone(&self.generations), self.home.clone());
            Arc::new(Tenant::new(id.clone(), hash_seed, generations, home))
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

impl Tenants {
    fn drop_unused(&mut self) {
        if self.by_id.len() < self.look_at.max(LOOK_MIN) {
            return;
        }
        // Whoever holds a table got it under this lock: if only the map does, nobody else can.
        self.by_id.retain(|_, tenant| Arc::strong_count(tenant) > 1 || tenant.is_used());
        self.by_id.shrink_to(LOOK_MIN);
        self.look_at = self.by_id.len() * 2;
    }
}

//! The retained messages of all tenants: one store each, found by name.
//!
//! A store lives as long as it keeps a message or somebody holds it. Stores that are neither are
//! dropped in passing, when their number has doubled since the last look.
//!
//! A service that is kept in a keyspace writes every change there, and has everything in memory as
//! well: it is read from there, not from the keyspace, but for the start. One that is replicated has what
//! the replicas of its node have applied ([`replication`](crate::replication)).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use parking_lot::RwLock;
use ratatosk_client::{Change, Keyspace, Replicas};
use ratatosk_clock::{Epoch, Instant};
use ratatosk_contract::{
    TenantId,
    retain::{Retain, RetainLimits, TenantRetained},
    sessions::Sessions,
};
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::coprocessor::Reader;
use ratatosk_telemetry::memory::Accountant;

use crate::{
    RetainStats,
    journal::Journal,
    replicated::Follower,
    replication::Replication,
    restoration::{Purpose, Restoration},
    tenant::{Home, Tenant},
};

/// How many stores there are at least before a look for unused ones.
const LOOK_MIN: usize = 64;

/// The retained messages of all tenants.
#[derive(Default)]
pub struct RetainService {
    tenants: RwLock<Tenants>,
    limits: RetainLimits,
    memory: Accountant,
    home: Home,
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
        let home = Home::Journal(Arc::new(Journal { keyspace, sessions, epoch }));
        RetainService { home, ..self }
    }

    /// A service whose messages are those that the replicas of its node have applied, which tell it by
    /// coprocessors that [feed](crate::RetainCoprocessor::feeding) it. Until it is
    /// [connected](Self::connect) none can be stored, and nothing is current.
    ///
    /// `epoch` is that of the clock from which messages have their times; `origin` is a random number, another
    /// one in each process.
    #[must_use]
    pub fn replicated(limits: RetainLimits, epoch: Epoch, origin: u64) -> Self {
        let home = Home::Replicas(Arc::new(Replication::new(epoch, origin)));
        RetainService { limits, home, ..RetainService::default() }
    }

    /// Gives a replicated service the way to its keyspace, which leads to whoever leads its ranges, and
    /// divides by [`RetainDivision`](crate::RetainDivision); who is told when something is durable; and the
    /// replicas that feed it. To be called once.
    pub fn connect(
        &self,
        keyspace: Arc<dyn Keyspace>,
        sessions: Arc<dyn Sessions>,
        replicas: Box<dyn Replicas>,
    ) {
        let Home::Replicas(replication) = &self.home else {
            debug_assert!(false, "only a replicated service is connected");
            return;
        };
        let epoch = replication.epoch;
        replication.connect(Journal { keyspace, sessions, epoch });
        replication.serving.connect(replicas);
    }

    pub(crate) fn next_coprocessor(&self) -> u64 {
        self.replication().map_or(0, Replication::next_coprocessor)
    }

    /// The tenant that follows what is applied of it.
    pub(crate) fn follower(&self, id: &TenantId) -> Option<Follower> {
        let epoch = self.replication()?.epoch;
        Some(Follower { tenant: self.open(id), epoch })
    }

    /// A range has these keys from now on, and the data that `reader` shows.
    pub(crate) fn cover(
        &self,
        number: u64,
        keys: &KeyRange,
        reader: &dyn Reader,
    ) -> Result<(), Error> {
        let Some(replication) = self.replication() else { return Ok(()) };
        let Change { came, went } = replication.cover(number, Some(keys));
        let mut restoration =
            Restoration::new(Purpose::Follow, replication.epoch, |id| self.open(id));
        came.iter().try_for_each(|keys| restoration.read(reader, keys))?;
        restoration.finish();
        self.release(replication, &went);
        Ok(())
    }

    /// A range is not here any more.
    pub(crate) fn uncover(&self, number: u64) {
        let Some(replication) = self.replication() else { return };
        let Change { went, .. } = replication.cover(number, None);
        self.release(replication, &went);
    }

    /// Takes the messages away whose keys no range has any more.
    fn release(&self, replication: &Replication, went: &[KeyRange]) {
        if !went.is_empty() {
            let tenants: Vec<_> = self.tenants.read().by_id.values().cloned().collect();
            tenants.iter().for_each(|tenant| tenant.release(went));
        }
        replication.serving.changed();
    }

    /// This node leads a range with these keys from now on, or does not any more.
    pub(crate) fn note_lead(&self, number: u64, keys: Option<&KeyRange>) {
        if let Some(replication) = self.replication() {
            replication.note_lead(number, keys);
        }
    }

    fn replication(&self) -> Option<&Replication> {
        match &self.home {
            Home::Replicas(replication) => Some(replication),
            Home::Memory | Home::Journal(_) => None,
        }
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
        let Home::Journal(journal) = &self.home else { return Ok(()) };
        let mut restoration = Restoration::new(Purpose::Restore, journal.epoch, |id| self.open(id));
        journal.keyspace.read(&mut |reader| restoration.read(reader, &KeyRange::all()))?;
        restoration.finish();
        Ok(())
    }

    /// Removes messages that are expired, and looks at most at `count_max`; returns at how many it looked. To
    /// be called about once a second. RET-004
    ///
    /// One that is replicated has those removed whose ranges its node leads, and shows none of them meanwhile.
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

    /// Goes on with orders to end what tenants had ([`TenantRetained::expire_all`]): removes at most
    /// `count_max` messages of all tenants together, or asks for that, and returns how many. RET-009
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
            Tenant::new(id.clone(), self.limits, account, self.home.clone())
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

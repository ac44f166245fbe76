//! The directory: stripes of tables, by tenant, of entries.
//!
//! Invariants: an identity is in the stripe of its hash, at most once; no table is empty; `count`
//! is the number of entries, or about to be.

use std::{
    collections::BinaryHeap,
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use hashbrown::{HashMap, HashTable, hash_table};
use parking_lot::Mutex;
use ratatosk_contract::{
    SessionIdentity, SessionRef, TenantId,
    session_dict::{Registered, SessionDict},
};

use crate::entry::{Entry, Key, Listed};

/// More than there are threads, so that two seldom meet.
const STRIPE_COUNT: usize = 64;

/// Tables give memory back only when they have more room than this.
const ROOM_MIN: usize = 16;

/// The live sessions of a node, in memory.
pub struct DictService {
    stripes: Box<[CachePadded<Mutex<Stripe>>]>,
    /// Clients choose the identities: they must not know how these are hashed.
    hasher: RandomState,
    count: AtomicUsize,
    replaced: AtomicU64,
}

#[derive(Default)]
struct Stripe {
    tables: HashMap<TenantId, HashTable<Entry>, RandomState>,
}

/// What the directory holds and did.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct DictStats {
    /// Live sessions.
    pub sessions: usize,
    /// Registrations so far that replaced another.
    pub replaced: u64,
}

impl Default for DictService {
    fn default() -> Self {
        DictService {
            stripes: (0..STRIPE_COUNT).map(|_| CachePadded::default()).collect(),
            hasher: RandomState::default(),
            count: AtomicUsize::new(0),
            replaced: AtomicU64::new(0),
        }
    }
}

impl DictService {
    /// An empty directory.
    pub fn new() -> Self {
        DictService::default()
    }

    /// What the directory holds and did.
    pub fn stats(&self) -> DictStats {
        DictStats { sessions: self.len(), replaced: self.replaced.load(Ordering::Relaxed) }
    }

    /// How many live sessions a tenant has. Looks at every stripe.
    pub fn tenant_len(&self, tenant: &TenantId) -> usize {
        let count = |stripe: &CachePadded<Mutex<Stripe>>| {
            stripe.lock().tables.get(tenant).map_or(0, HashTable::len)
        };
        self.stripes.iter().map(count).sum()
    }

    /// The hash of an identity within its tenant; it decides the stripe, too.
    fn hash(&self, identity: &SessionIdentity) -> u64 {
        self.hasher.hash_one(Key::of(identity))
    }

    fn stripe(&self, hash: u64) -> &Mutex<Stripe> {
        &self.stripes[stripe_index(hash)]
    }
}

/// The low bits find the bucket within a table and the high ones tell its entries apart, so the
/// stripe is taken from between: otherwise all entries of a stripe would crowd a part of its table.
fn stripe_index(hash: u64) -> usize {
    const _: () = assert!(STRIPE_COUNT.is_power_of_two() && STRIPE_COUNT <= 256);
    usize::from(hash.to_le_bytes()[5]) % STRIPE_COUNT
}

impl Stripe {
    fn find(&self, hash: u64, identity: &SessionIdentity) -> Option<&Entry> {
        let key = Key::of(identity);
        self.tables.get(&identity.tenant)?.find(hash, |entry| entry.key() == key)
    }
}

impl SessionDict for DictService {
    fn register(&self, identity: &Arc<SessionIdentity>, owner: SessionRef) -> Registered {
        let (hash, key) = (self.hash(identity), Key::of(identity));
        let mut stripe = self.stripe(hash).lock();
        let table = stripe.tables.entry_ref(&identity.tenant).or_default();
        let rehash = |entry: &Entry| self.hasher.hash_one(entry.key());
        let entry = Entry { identity: Arc::clone(identity), owner };
        match table.entry(hash, |entry| entry.key() == key, rehash) {
            hash_table::Entry::Occupied(mut held) => {
                self.replaced.fetch_add(1, Ordering::Relaxed);
                Registered::Replaces(std::mem::replace(held.get_mut(), entry).owner)
            }
            hash_table::Entry::Vacant(place) => {
                place.insert(entry);
                self.count.fetch_add(1, Ordering::Relaxed);
                Registered::Alone
            }
        }
    }

    fn remove(&self, identity: &SessionIdentity, owner: SessionRef) -> bool {
        let (hash, key) = (self.hash(identity), Key::of(identity));
        let mut stripe = self.stripe(hash).lock();
        let Some(table) = stripe.tables.get_mut(&identity.tenant) else {
            return false;
        };
        let is_meant = |entry: &Entry| entry.key() == key && entry.owner == owner;
        let Ok(held) = table.find_entry(hash, is_meant) else {
            return false;
        };
        held.remove();
        self.count.fetch_sub(1, Ordering::Relaxed);
        if table.is_empty() {
            stripe.tables.remove(&identity.tenant);
            if stripe.tables.capacity() > ROOM_MIN.max(4 * stripe.tables.len()) {
                stripe.tables.shrink_to_fit();
            }
        } else if table.capacity() > ROOM_MIN.max(4 * table.len()) {
            table.shrink_to(2 * table.len(), |entry| self.hasher.hash_one(entry.key()));
        }
        true
    }

    fn find(&self, identity: &SessionIdentity) -> Option<SessionRef> {
        let hash = self.hash(identity);
        self.stripe(hash).lock().find(hash, identity).map(|entry| entry.owner)
    }

    fn find_many(&self, identities: &[SessionIdentity], found: &mut Vec<Option<SessionRef>>) {
        let start = found.len();
        found.resize(start + identities.len(), None);
        let mut asked: Vec<_> =
            identities.iter().map(|identity| self.hash(identity)).enumerate().collect();
        // So that each stripe is locked once.
        asked.sort_unstable_by_key(|(_, hash)| stripe_index(*hash));
        for run in asked.chunk_by(|a, b| stripe_index(a.1) == stripe_index(b.1)) {
            let stripe = self.stripe(run[0].1).lock();
            for &(at, hash) in run {
                found[start + at] = stripe.find(hash, &identities[at]).map(|entry| entry.owner);
            }
        }
    }

    fn list(
        &self,
        tenant: &TenantId,
        after: Option<&SessionIdentity>,
        count_max: usize,
    ) -> Vec<(SessionIdentity, SessionRef)> {
        let after = after.map(Key::of);
        // The lowest so far; the highest of them on top, to make room.
        let mut lowest: BinaryHeap<Listed> = BinaryHeap::new();
        for stripe in &self.stripes {
            let stripe = stripe.lock();
            for entry in stripe.tables.get(tenant).into_iter().flatten() {
                let is_behind = after.is_none_or(|after| entry.key() > after);
                let is_full = lowest.len() >= count_max;
                let is_wanted = !is_full
                    || lowest.peek().is_some_and(|top| entry.key() < Key::of(&top.identity));
                if !(is_behind && is_wanted) {
                    continue;
                }
                if is_full {
                    lowest.pop();
                }
                lowest.push(Listed { identity: (*entry.identity).clone(), owner: entry.owner });
            }
        }
        let listed = lowest.into_sorted_vec();
        listed.into_iter().map(|listed| (listed.identity, listed.owner)).collect()
    }

    fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::Barrier,
    };

    use proptest::prelude::*;
    use ratatosk_contract::{ClientId, ShardId};

    use super::*;

    fn identity(tenant: &str, user: Option<&str>, client: &str) -> SessionIdentity {
        SessionIdentity {
            tenant: TenantId::new(tenant),
            user: user.map(Arc::from),
            client: ClientId::new(client),
        }
    }

    fn register(
        dict: &DictService,
        session: &SessionIdentity,
        owner: SessionRef,
    ) -> Option<SessionRef> {
        match dict.register(&Arc::new(session.clone()), owner) {
            Registered::Alone => None,
            Registered::Replaces(before) => Some(before),
            Registered::Pending => panic!("it is there at once"),
        }
    }

    fn owner(slot: u32) -> SessionRef {
        SessionRef { shard: ShardId(1), slot, generation: 0 }
    }

    /// The newest registration wins and names the one before it.
    #[test]
    fn the_newest_registration_wins() {
        let dict = DictService::new();
        let session = identity("t", None, "c");
        assert_eq!(register(&dict, &session, owner(1)), None);
        assert_eq!(register(&dict, &session, owner(2)), Some(owner(1)));
        assert_eq!(dict.find(&session), Some(owner(2)));
        assert!(!dict.remove(&session, owner(1)), "who was replaced does not remove its successor");
        assert_eq!(dict.stats(), DictStats { sessions: 1, replaced: 1 });
        assert!(dict.remove(&session, owner(2)));
        assert!(!dict.remove(&session, owner(2)));
        assert_eq!(dict.find(&session), None);
        assert!(dict.is_empty());
    }

    /// Tenant and user segment are part of who a session is.
    #[test]
    fn sessions_of_other_tenants_and_users_are_others() {
        let dict = DictService::new();
        let sessions = [
            identity("t", None, "c"),
            identity("u", None, "c"),
            identity("t", Some("x"), "c"),
            identity("t", Some(""), "c"),
        ];
        for (slot, session) in (0..).zip(&sessions) {
            assert_eq!(register(&dict, session, owner(slot)), None);
        }
        for (slot, session) in (0..).zip(&sessions) {
            assert_eq!(dict.find(session), Some(owner(slot)));
        }
        let tenant_len = |name| dict.tenant_len(&TenantId::new(name));
        assert_eq!((tenant_len("t"), tenant_len("u"), tenant_len("v")), (3, 1, 0));
    }

    /// DICT-005: many sessions are looked up at once, in the order in which they were asked for.
    #[test]
    fn many_sessions_are_found_in_one_call() {
        let dict = DictService::new();
        let asked: Vec<_> =
            (0..1_000).map(|slot| identity("t", None, &format!("c{slot}"))).collect();
        for (slot, session) in (0..).zip(&asked).filter(|(slot, _)| slot % 3 == 0) {
            register(&dict, session, owner(slot));
        }
        let mut found = vec![Some(owner(77))];
        dict.find_many(&asked, &mut found);
        let expected = (0..1_000).map(|slot| (slot % 3 == 0).then_some(owner(slot)));
        assert_eq!(found[0], Some(owner(77)), "what was in the list stays");
        assert!(found[1..].iter().copied().eq(expected));
    }

    /// Pages are complete although one client id may belong to several users.
    #[test]
    fn listing_page_by_page_tells_every_session_once_in_order() {
        let dict = DictService::new();
        let mut expected = Vec::new();
        for client in 0..50 {
            for user in [None, Some("a"), Some("b")] {
                expected.push(identity("t", user, &format!("c{client:02}")));
            }
        }
        for session in expected.iter().rev() {
            register(&dict, session, owner(0));
            register(
                &dict,
                &SessionIdentity { tenant: TenantId::new("u"), ..session.clone() },
                owner(1),
            );
        }
        let tenant = TenantId::new("t");
        let mut listed: Vec<SessionIdentity> = Vec::new();
        loop {
            let page = dict.list(&tenant, listed.last(), 7);
            assert!(page.len() <= 7);
            if page.is_empty() {
                break;
            }
            listed.extend(page.into_iter().map(|(identity, _)| identity));
        }
        assert_eq!(listed, expected);
        assert!(dict.list(&tenant, None, 0).is_empty());
        assert_eq!(dict.list(&tenant, None, usize::MAX).len(), 150);
    }

    /// Of many that come at once each is replaced by exactly one, but for the last.
    #[test]
    fn racing_registrations_form_one_chain_of_replacements() {
        const THREADS: u32 = 8;
        const EACH: u32 = 500;
        let (dict, session) = (DictService::new(), identity("t", None, "c"));
        let start = Barrier::new(THREADS as usize);
        let replaced: Vec<Option<SessionRef>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (dict, session, start) = (&dict, &session, &start);
                    scope.spawn(move || {
                        start.wait();
                        let slots = thread * EACH..(thread + 1) * EACH;
                        slots.map(|slot| register(dict, session, owner(slot))).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let last = dict.find(&session).unwrap();
        let firsts = replaced.iter().filter(|replaced| replaced.is_none()).count();
        let named: BTreeSet<_> = replaced.iter().flatten().copied().collect();
        assert_eq!(firsts, 1);
        assert_eq!(named.len(), (THREADS * EACH - 1) as usize, "nobody is named twice");
        assert!(!named.contains(&last));
        assert_eq!(dict.len(), 1);
    }

    #[test]
    fn sessions_and_tenants_that_went_leave_no_room_behind() {
        let dict = DictService::new();
        for number in 0..20_000 {
            register(&dict, &identity(&format!("t{number}"), None, "c"), owner(number));
            register(&dict, &identity("big", None, &format!("c{number}")), owner(number));
        }
        for number in 0..20_000 {
            assert!(dict.remove(&identity(&format!("t{number}"), None, "c"), owner(number)));
            assert!(dict.remove(&identity("big", None, &format!("c{number}")), owner(number)));
        }
        assert!(dict.is_empty());
        for stripe in &dict.stripes {
            let stripe = stripe.lock();
            assert!(stripe.tables.is_empty());
            assert!(stripe.tables.capacity() <= ROOM_MIN, "{}", stripe.tables.capacity());
        }
    }

    proptest! {
        /// Any sequence of registrations and removals does what it does to a map.
        #[test]
        fn the_directory_behaves_as_a_map(
            steps in prop::collection::vec((any::<bool>(), 0..3_u32, 0..20_u32, 0..3_u32), 1..400),
        ) {
            let dict = DictService::new();
            let mut model: BTreeMap<SessionIdentity, SessionRef> = BTreeMap::new();
            for (is_added, tenant, client, slot) in steps {
                let user = (client % 2 == 0).then_some("u");
                let session = identity(&format!("t{tenant}"), user, &format!("c{}", client / 2));
                if is_added {
                    let replaced = model.insert(session.clone(), owner(slot));
                    prop_assert_eq!(register(&dict, &session, owner(slot)), replaced);
                } else {
                    let is_held = model.get(&session) == Some(&owner(slot));
                    if is_held {
                        model.remove(&session);
                    }
                    prop_assert_eq!(dict.remove(&session, owner(slot)), is_held);
                }
                prop_assert_eq!(dict.find(&session), model.get(&session).copied());
                prop_assert_eq!(dict.len(), model.len());
            }
            let listed: usize =
                (0..3).map(|tenant| dict.list(&TenantId::new(&format!("t{tenant}")), None, 99).len()).sum();
            prop_assert_eq!(listed, model.len());
        }
    }
}

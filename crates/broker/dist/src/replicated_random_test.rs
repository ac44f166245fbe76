//! Random histories of the ranges of a node: the tables have what the data has, whatever comes and goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use ratatosk_contract::dist::{Dist, Receiver, ReceiverKey, RouteEpoch, StoredRoute};
use ratatosk_contract::{ShardId, TenantId, inbox::InboxId};
use ratatosk_engine::{Batch, KeyRange, MemoryEngine, Overlay, SpaceId};
use ratatosk_store::coprocessor::{Coprocessor, Position, SpaceReader, Writer};

use crate::durable_fixture::{Life, Routes, filter};
use crate::effect::{Draft, Effect, Name};
use crate::schema::{self, Kept};
use crate::{DistCoprocessor, DistService};

const SPACE: SpaceId = SpaceId(0);
const TENANTS: [&str; 3] = ["", "a", "ab"];
const FILTERS: [&str; 6] = ["a", "a/+", "#", "$share/g/a", "$share/h/a", "$oshare/g/#"];
const SESSIONS: usize = 6;
/// Where ranges may part.
const CUTS: [&[u8]; 7] =
    [b"\xffa", b"a", b"a\xff", b"a\xffa\0\xff\x02h", b"ab", b"ab\xffa\0", b"ab\xffb"];

#[derive(Clone, Debug)]
enum Step {
    /// Effects of a life, which may be late.
    Add {
        session: usize,
        life: u64,
        filter: usize,
        qos: u8,
    },
    Remove {
        session: usize,
        life: u64,
        filter: usize,
    },
    Transient {
        session: usize,
        filter: usize,
        is_added: bool,
    },
    Split {
        cut: usize,
    },
    Merge {
        at: usize,
    },
    /// A replica goes, with its data.
    Leave {
        at: usize,
    },
    /// One comes, with the data that others have, in the place of another if there is one.
    Install {
        at: usize,
    },
    /// The store starts again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..SESSIONS, 1..4_u64, 0..FILTERS.len());
    prop_oneof![
        8 => (place(), 0..3_u8).prop_map(|((session, life, filter), qos)| {
            Step::Add { session, life, filter, qos }
        }),
        4 => place().prop_map(|(session, life, filter)| Step::Remove { session, life, filter }),
        2 => (0..SESSIONS, 0..FILTERS.len(), any::<bool>()).prop_map(
            |(session, filter, is_added)| Step::Transient { session, filter, is_added }
        ),
        3 => (0..CUTS.len()).prop_map(|cut| Step::Split { cut }),
        2 => (0..8_usize).prop_map(|at| Step::Merge { at }),
        1 => (0..8_usize).prop_map(|at| Step::Leave { at }),
        2 => (0..8_usize).prop_map(|at| Step::Install { at }),
        1 => Just(Step::Restart),
    ]
}

/// A range; without a coprocessor if it is not here.
struct Range {
    keys: KeyRange,
    here: Option<DistCoprocessor>,
}

struct World {
    service: Arc<DistService>,
    overlay: Overlay<MemoryEngine>,
    ranges: Vec<Range>,
    /// What all nodes have together.
    truth: Routes,
    transient: BTreeMap<(usize, usize), ()>,
}

fn number(text: &str, life: Life) -> u64 {
    if filter(text).share().is_some() { life.member } else { life.inbox }
}

fn life(session: usize, life: u64) -> Life {
    let number = session as u64;
    Life { member: 1_000 + number, inbox: number + 64 * life, incarnation: 5_000 + number }
}

fn tenant(session: usize) -> &'static str {
    TENANTS[session % TENANTS.len()]
}

impl World {
    fn new() -> Self {
        let service = Arc::new(DistService::replicated());
        let overlay = Overlay::new(MemoryEngine::new(1), 1);
        let (truth, transient) = (Routes::new(), BTreeMap::new());
        let ranges = vec![Range { keys: KeyRange::all(), here: None }];
        let mut world = Self { service, overlay, ranges, truth, transient };
        world.open(0);
        world
    }

    fn reset(&mut self, at: usize) {
        let Range { keys, here } = &mut self.ranges[at];
        let view = self.overlay.view();
        let reader = SpaceReader::new(&view, SPACE, keys);
        here.as_mut().expect("it is here").reset(keys, &reader).expect("it was written");
    }

    fn open(&mut self, at: usize) {
        self.ranges[at].here = Some(DistCoprocessor::feeding(&Arc::downgrade(&self.service)));
        self.reset(at);
    }

    fn write(&mut self, at: usize, is_there: bool) {
        let (keys, mut changes) = (self.ranges[at].keys.clone(), Batch::new());
        let view = self.overlay.view();
        let reader = SpaceReader::new(&view, SPACE, &keys);
        ratatosk_store::coprocessor::scan_all(&reader, &keys, |key, _| {
            changes.remove(SPACE, Bytes::copy_from_slice(key));
            Ok(())
        })
        .expect("memory");
        drop(view);
        for ((tenant, text, number), (inbox, qos)) in self.truth.iter().filter(|_| is_there) {
            let key = schema::key(tenant, filter(text), *number);
            if keys.contains(&key) {
                let kept = kept(*inbox, *qos);
                changes.put(SPACE, key, schema::record(filter(text), &kept));
            }
        }
        self.overlay.apply(changes);
    }

    fn apply(&mut self, tenant: &str, effect: &Effect<'_>) {
        let key = effect.key(tenant);
        let range = self.ranges.iter_mut().find(|range| range.keys.contains(&key));
        let Range { keys, here } = range.expect("some range has it");
        let Some(coprocessor) = here else { return };
        let mut draft = Draft::of(tenant);
        draft.push(effect);
        let (_, command) = draft.finish();
        let mut changes = Batch::new();
        let mut writer = Writer::new(&self.overlay, SPACE, keys, &mut changes);
        let position = Position { index: 1, number: 0 };
        coprocessor.apply(position, &command, &mut writer).expect("memory");
        self.overlay.apply(changes);
    }

    fn add(&mut self, session: usize, which: u64, text: &str, qos: u8) {
        let (life, tenant) = (life(session, which), tenant(session));
        let number = number(text, life);
        let name = (tenant.to_owned(), text.to_owned(), number);
        let held = self.truth.get(&name).map_or(0, |(inbox, _)| *inbox);
        if held <= life.inbox {
            self.truth.insert(name, (life.inbox, qos));
        }
        let member = filter(text).share().map(|_| number);
        let kept = kept(life.inbox, qos);
        self.apply(tenant, &Effect::Added { filter: filter(text), member, kept });
    }

    fn remove(&mut self, session: usize, which: u64, text: &str) {
        let (life, tenant) = (life(session, which), tenant(session));
        let number = number(text, life);
        let name = (tenant.to_owned(), text.to_owned(), number);
        if self.truth.get(&name).is_some_and(|(inbox, _)| *inbox <= life.inbox) {
            self.truth.remove(&name);
        }
        let (filter, inbox) = (filter(text), InboxId(life.inbox));
        let member = filter.share().map(|_| number);
        self.apply(tenant, &Effect::Removed(Name { filter, member, inbox }));
    }

    fn transient(&mut self, session: usize, at: usize, is_added: bool) {
        let text = FILTERS[at];
        let routes = self.service.tenant(&TenantId::new(tenant(session)));
        let life = Life { inbox: 0, ..life(session, 0) };
        let is_shared = filter(text).share().is_some();
        let shard = ShardId(u8::try_from(session).expect("few"));
        let receiver = if is_shared { life.transient() } else { Receiver::Shard(shard) };
        let key = if is_shared { life.key(text) } else { ReceiverKey::Shard(shard) };
        if is_added {
            let added = routes.add(&filter(text), receiver).ready();
            assert!(matches!(added, Some(Ok(_))));
            self.transient.insert((session, at), ());
        } else {
            let removed = routes.remove(&filter(text), &key).ready();
            assert_eq!(removed, Some(self.transient.remove(&(session, at)).is_some()));
        }
    }

    fn split(&mut self, cut: &'static [u8]) {
        let at = self.ranges.iter().position(|range| range.keys.contains(cut)).expect("all keys");
        if self.ranges[at].keys.start == cut {
            return;
        }
        let end = self.ranges[at].keys.end.replace(Bytes::from_static(cut));
        let keys = KeyRange { start: Bytes::from_static(cut), end };
        self.ranges.insert(at + 1, Range { keys, here: None });
        if self.ranges[at].here.is_some() {
            let epochs = self.epochs();
            self.open(at + 1);
            assert_eq!(self.epochs(), epochs, "nothing is missing, nor comes");
            self.reset(at);
            assert_eq!(self.epochs(), epochs, "nothing is missing, nor comes");
        }
    }

    fn merge(&mut self, at: usize) {
        let at = at % self.ranges.len();
        let Some(right) = self.ranges.get(at + 1) else { return };
        if right.here.is_some() != self.ranges[at].here.is_some() {
            return;
        }
        let Range { keys, here } = self.ranges.remove(at + 1);
        self.ranges[at].keys.end = keys.end;
        if let Some(mut right) = here {
            let epochs = self.epochs();
            self.reset(at);
            right.leave();
            assert_eq!(self.epochs(), epochs, "nothing is missing, nor comes");
        }
    }

    fn leave(&mut self, at: usize) {
        let at = at % self.ranges.len();
        if let Some(mut here) = self.ranges[at].here.take() {
            here.leave();
            self.write(at, false);
        }
    }

    fn restart(&mut self) {
        self.service = Arc::new(DistService::replicated());
        self.transient.clear();
        for at in 0..self.ranges.len() {
            if self.ranges[at].here.is_some() {
                self.open(at);
            }
        }
    }

    fn epochs(&self) -> Vec<RouteEpoch> {
        let epoch = |tenant: &&str| self.service.tenant(&TenantId::new(tenant)).epoch();
        TENANTS.iter().map(epoch).collect()
    }

    fn check(&self) {
        let mut found = Routes::new();
        for tenant in TENANTS {
            let table = self.service.open(&TenantId::new(tenant));
            table.check_invariants();
            let (mut stored, mut next) = (Vec::new(), Some(0));
            while let Some(from) = next {
                next = ratatosk_contract::dist::TenantRoutes::stored(&*table, from, &mut stored);
            }
            found.extend(stored.iter().map(|held: &StoredRoute| {
                let number = held.member.unwrap_or(held.route.inbox.0);
                let name = (tenant.to_owned(), held.filter.to_string(), number);
                (name, (held.route.inbox.0, held.route.options.qos.value()))
            }));
        }
        let mut expected = self.truth.clone();
        expected.retain(|(tenant, text, number), _| {
            let key = schema::key(tenant, filter(text), *number);
            self.ranges.iter().any(|range| range.here.is_some() && range.keys.contains(&key))
        });
        assert_eq!(found, expected);
        let stats = self.service.stats();
        let shared = |(_, at): &&(usize, usize)| filter(FILTERS[*at]).share().is_some();
        let members = self.transient.keys().filter(shared).count();
        let stored = expected.keys().filter(|(_, text, _)| filter(text).share().is_some()).count();
        assert_eq!(stats.shards, self.transient.len() - members);
        assert_eq!(stats.members, members + stored);
    }
}

fn kept(inbox: u64, qos: u8) -> Kept {
    let qos = ratatosk_codec::Qos::try_from(qos).expect("below 3");
    let options = ratatosk_codec::SubscriptionOptions::new(qos);
    Kept { inbox: InboxId(inbox), options, subscription_id: None }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// DIST-001, DIST-002, DIST-004: against a naive set, with effects that are late or repeated, and
    /// ranges that part, join, go and come.
    #[test]
    fn tables_have_what_the_data_has(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Add { session, life, filter, qos } => {
                    world.add(session, life, FILTERS[filter], qos);
                }
                Step::Remove { session, life, filter } => {
                    world.remove(session, life, FILTERS[filter]);
                }
                Step::Transient { session, filter, is_added } => {
                    world.transient(session, filter, is_added);
                }
                Step::Split { cut } => world.split(CUTS[cut]),
                Step::Merge { at } => world.merge(at),
                Step::Leave { at } => world.leave(at),
                Step::Install { at } => {
                    let at = at % world.ranges.len();
                    if let Some(mut here) = world.ranges[at].here.take() {
                        here.leave();
                    }
                    world.write(at, true);
                    world.open(at);
                }
                Step::Restart => world.restart(),
            }
            world.check();
        }
    }
}

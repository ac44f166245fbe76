//! Random histories of routes: crashes that part the sessions' records from the routes, restarts
//! and repairs, against a naive copy of the records.

use std::collections::VecDeque;

use proptest::prelude::*;

use crate::durable_fixture::{Life, Process, Routes, filter};

const TENANTS: [&str; 3] = ["", "a", "ab"];
const FILTERS: [&str; 6] = ["a", "a/+", "#", "$share/g/a", "$share/h/a", "$oshare/g/#"];
/// Two sessions of each tenant.
const SESSIONS: usize = 2 * TENANTS.len();

/// What happens in a random history.
#[derive(Clone, Debug)]
enum Step {
    Subscribe {
        session: usize,
        filter: usize,
        qos: u8,
    },
    Unsubscribe {
        session: usize,
        filter: usize,
    },
    /// The session ends; its client has a new one and subscribes before the routes of the old one
    /// are removed.
    Renew {
        session: usize,
        filter: usize,
    },
    /// Commands of routes become durable.
    Settle {
        count: usize,
    },
    /// Records of sessions do.
    SettleRecords {
        count: usize,
    },
    Crash,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..SESSIONS, 0..FILTERS.len());
    prop_oneof![
        8 => (place(), 0..3_u8).prop_map(|((session, filter), qos)| {
            Step::Subscribe { session, filter, qos }
        }),
        4 => place().prop_map(|(session, filter)| Step::Unsubscribe { session, filter }),
        2 => place().prop_map(|(session, filter)| Step::Renew { session, filter }),
        2 => (1..8_usize).prop_map(|count| Step::Settle { count }),
        2 => (1..8_usize).prop_map(|count| Step::SettleRecords { count }),
        1 => Just(Step::Crash),
        1 => Just(Step::Reopen),
    ]
}

/// The records of all sessions at a moment.
#[derive(Clone, Debug)]
struct Records {
    routes: Routes,
    /// Which life of each session there is.
    lives: [u64; SESSIONS],
}

/// The records, durable and not, and the process.
struct World {
    process: Process,
    /// After each decision; the first is what a crash leaves.
    records: VecDeque<Records>,
    /// Of each session in this process; one, if it was restored.
    incarnations: [u64; SESSIONS],
    clock: u64,
}

impl World {
    fn new() -> Self {
        let records = Records { routes: Routes::new(), lives: [1; SESSIONS] };
        let records = VecDeque::from([records]);
        World { process: Process::new(), records, incarnations: [1; SESSIONS], clock: 1 }
    }

    fn now(&self) -> &Records {
        self.records.back().expect("it is never empty")
    }

    fn life(&self, session: usize) -> Life {
        let number = session as u64;
        let inbox = number + 64 * self.now().lives[session];
        Life { member: 1_000 + number, inbox, incarnation: self.incarnations[session] }
    }

    fn decide(&mut self, change: impl FnOnce(&mut Records)) {
        let mut records = self.now().clone();
        change(&mut records);
        self.records.push_back(records);
    }

    fn subscribe(&mut self, session: usize, filter: usize, qos: u8) {
        let (life, text) = (self.life(session), FILTERS[filter]);
        let tenant = TENANTS[session % TENANTS.len()];
        self.process.add_at(tenant, text, life, qos).expect("there is room");
        let name = name(tenant, text, life);
        self.decide(|records| {
            records.routes.insert(name, (life.inbox, qos));
        });
    }

    fn unsubscribe(&mut self, session: usize, filter: usize) {
        let (life, text) = (self.life(session), FILTERS[filter]);
        let tenant = TENANTS[session % TENANTS.len()];
        let name = name(tenant, text, life);
        let was_there = self.now().routes.contains_key(&name);
        assert_eq!(self.process.remove(tenant, text, life), was_there);
        self.decide(|records| {
            records.routes.remove(&name);
        });
    }

    fn renew(&mut self, session: usize, filter: usize) {
        let before = self.life(session);
        self.clock += 1;
        self.incarnations[session] = self.clock;
        self.decide(|records| {
            records.routes.retain(|_, (inbox, _)| *inbox != before.inbox);
            records.lives[session] += 1;
        });
        self.subscribe(session, filter, 1);
        let keys: Vec<_> = FILTERS.iter().map(|text| (filter_of(text), before.key(text))).collect();
        self.process.tenant(TENANTS[session % TENANTS.len()]).remove_each(&keys);
    }

    /// Another process takes over, and corrects the routes.
    fn restart(&mut self, process: Process) {
        self.process = process;
        self.incarnations = [1; SESSIONS];
        self.process.repair(&self.now().routes);
    }

    fn check(&self) {
        assert_eq!(self.process.routes(), self.now().routes);
    }
}

fn filter_of(text: &str) -> ratatosk_topic::TopicFilter<'_> {
    filter(text)
}

fn name(tenant: &str, text: &str, life: Life) -> (String, String, u64) {
    let is_shared = filter(text).share().is_some();
    let number = if is_shared { life.member } else { life.inbox };
    (tenant.to_owned(), text.to_owned(), number)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// DUR-002, DIST-002, DIST-014: whichever of the two a crash takes, records or routes,
    /// the routes are those of the records, in memory at once and in the data once it is written.
    #[test]
    fn routes_follow_the_records_through_any_crash(steps in prop::collection::vec(step(), 0..80)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Subscribe { session, filter, qos } => world.subscribe(session, filter, qos),
                Step::Unsubscribe { session, filter } => world.unsubscribe(session, filter),
                Step::Renew { session, filter } => world.renew(session, filter),
                Step::Settle { count } => world.process.keyspace.settle_some(count),
                Step::SettleRecords { count } => {
                    let count = count.min(world.records.len() - 1);
                    world.records.drain(..count);
                }
                Step::Crash => {
                    world.records.truncate(1);
                    let process = world.process.crash();
                    world.restart(process);
                }
                Step::Reopen => {
                    let last = world.records.len() - 1;
                    world.records.drain(..last);
                    let process = world.process.reopen();
                    prop_assert_eq!(process.repair(&world.now().routes), (0, 0));
                    world.restart(process);
                }
            }
            world.check();
        }
        world.process.keyspace.settle();
        prop_assert_eq!(&world.process.content(), &world.now().routes);
        let reopened = world.process.reopen();
        prop_assert_eq!(&reopened.routes(), &world.now().routes);
        prop_assert_eq!(reopened.repair(&world.now().routes), (0, 0));
    }
}

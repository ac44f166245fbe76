//! What waits for a host is bounded, goes in order, and is answered once.

use proptest::prelude::*;
use ratatosk_contract::{SessionRef, ShardId, TenantId, Ticket};
use ratatosk_telemetry::ByteCount;
use ratatosk_telemetry::memory::{Accountant, post_changes};
use ratatosk_telemetry::metric::Registry;

use super::*;
use crate::metrics::Metrics;

const BOUNDS: Bounds = Bounds {
    bytes_max: 1_000,
    in_flight_max: 400,
    message_max: 5_000,
    patience: Duration::from_millis(500),
};

struct World {
    lane: Lane,
    tenant: Arc<Tenant>,
    accountant: Accountant,
    reports: Reports,
}

fn reply(ticket: u64) -> ReplyTo {
    let session = SessionRef { shard: ShardId(0), slot: 0, generation: 0 };
    ReplyTo { session, ticket: Ticket(ticket) }
}

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

impl World {
    fn new(bounds: Bounds) -> Self {
        let accountant = Accountant::new(ByteCount::mebibytes(1));
        let metrics = Metrics::new(&Registry::new(9), accountant.clone());
        let tenant = metrics.tenant(&TenantId::new("t"));
        let lane = Lane::new(HostNumber(3), bounds);
        Self { lane, tenant, accountant, reports: Reports::new() }
    }

    fn push(&self, now: u64, ticket: u64, bytes: usize) -> Result<(), Why> {
        let encoded = vec![u8::try_from(ticket % 256).unwrap(); bytes];
        self.lane.push(at(now), &self.tenant, &encoded, Some(reply(ticket)))
    }

    fn settle(&mut self, fates: &[Fate]) -> Result<(), Malformed> {
        let mut receipt = Vec::new();
        letter::put_receipt(&mut receipt, fates);
        self.lane.settle(&receipt, &mut self.reports)
    }

    fn told(&mut self) -> Vec<(u64, Outcome)> {
        self.reports.drain(..).map(|told| (told.reply_to.ticket.0, told.outcome)).collect()
    }

    fn is_clean(&self) -> bool {
        post_changes();
        self.lane.bytes() == 0 && self.accountant.charged().bytes() == 0
    }
}

#[test]
fn each_message_is_answered_as_the_host_says() {
    let mut world = World::new(BOUNDS);
    for ticket in 0..3 {
        world.push(1, ticket, 10).unwrap();
    }
    assert_eq!(world.lane.take().unwrap().len(), 30, "they go together");
    world.settle(&[Fate::Taken, Fate::Gone, Fate::Full]).unwrap();
    let full = Outcome::Dropped(Why::Full);
    assert_eq!(world.told(), [(0, Outcome::Taken), (1, Outcome::Gone), (2, full)]);
    assert_eq!(world.tenant.dropped(Reason::Full).value(), 1);
    assert!(world.is_clean());
    assert_eq!(world.settle(&[]), Err(Malformed), "nothing was asked");
}

/// DIST-015: a queue that is full says so at once, and what it holds is charged.
#[test]
fn what_does_not_fit_is_refused_and_counted() {
    let mut world = World::new(BOUNDS);
    world.push(1, 0, 4_000).expect("alone, anything gets through that may be sent");
    assert_eq!(world.push(1, 1, 1), Err(Why::Full));
    post_changes();
    assert!(world.accountant.charged().bytes() >= 4_000);
    drop(world.lane.take());
    world.settle(&[Fate::Taken]).unwrap();
    assert_eq!(world.push(1, 2, 5_001), Err(Why::Full), "longer than any message may be");
    assert_eq!(world.tenant.dropped(Reason::Full).value(), 2);
    assert_eq!(world.told(), [(0, Outcome::Taken)]);
    assert!(world.is_clean());
}

#[test]
fn a_host_that_does_not_answer_is_sent_a_bounded_number_of_bytes() {
    let mut world = World::new(Bounds { bytes_max: 1 << 20, ..BOUNDS });
    for ticket in 0..20 {
        // Each is a batch of its own.
        world.push(ticket * 30, ticket, 100).unwrap();
    }
    let sent = std::iter::from_fn(|| world.lane.take()).count();
    assert!((2..=4).contains(&sent), "{sent} are in flight");
    world.settle(&[Fate::Taken]).unwrap();
    assert_eq!(std::iter::from_fn(|| world.lane.take()).count(), 1);
    assert_eq!(world.told(), [(0, Outcome::Taken)]);
}

/// DIST-007: a message alone does not wait; those that come while the host is busy go together.
#[test]
fn messages_gather_while_the_host_has_something_to_answer() {
    let mut world = World::new(Bounds {
        bytes_max: 1 << 20,
        in_flight_max: 1 << 20,
        message_max: 1 << 20,
        ..BOUNDS
    });
    assert!(!world.lane.is_to_gather());
    world.push(1, 0, 10).unwrap();
    assert!(!world.lane.is_to_gather(), "nothing else is on its way");
    drop(world.lane.take());
    assert!(!world.lane.is_to_gather(), "nothing waits");
    world.push(2, 1, 10).unwrap();
    assert!(world.lane.is_to_gather());
    world.push(2, 2, BATCH_BYTES).unwrap();
    assert!(!world.lane.is_to_gather(), "a batch that nothing is added to need not wait");
    assert_eq!(world.lane.take().map(|data| data.len()), Some(10));
    drop(world.lane.take());
    for count in [1, 1] {
        world.settle(&vec![Fate::Taken; count]).unwrap();
    }
    world.push(3, 3, 10).unwrap();
    assert!(world.lane.is_to_gather(), "the long one has no answer");
    world.settle(&[Fate::Taken]).unwrap();
    assert!(!world.lane.is_to_gather());
}

/// Sent or not, whoever waits is told in time, and once.
#[test]
fn what_is_late_is_dropped_and_told_once() {
    let mut world = World::new(BOUNDS);
    world.push(0, 0, 10).unwrap();
    drop(world.lane.take());
    world.push(100, 1, 10).unwrap();
    world.lane.expire(at(499), &mut world.reports);
    assert_eq!(world.told(), []);
    world.lane.expire(at(500), &mut world.reports);
    let late = Outcome::Dropped(Why::Late);
    assert_eq!(world.told(), [(0, late)]);
    world.lane.expire(at(600), &mut world.reports);
    assert_eq!(world.told(), [(1, late)]);
    assert_eq!(world.tenant.dropped(Reason::Late).value(), 2);
    assert_eq!(world.lane.take(), None, "what is late is not sent any more");
    world.push(700, 2, 10).unwrap();
    drop(world.lane.take());
    // The late answer belongs to the first one.
    world.settle(&[Fate::Taken]).unwrap();
    assert_eq!(world.told(), []);
    world.settle(&[Fate::Taken]).unwrap();
    assert_eq!(world.told(), [(2, Outcome::Taken)]);
    assert!(world.is_clean());
}

/// DIST-014: whoever waits for a host that is gone is told at once.
#[test]
fn a_stream_that_breaks_loses_what_was_sent_and_a_host_that_goes_loses_all() {
    let mut world = World::new(BOUNDS);
    world.push(0, 0, 10).unwrap();
    drop(world.lane.take());
    world.push(0, 1, 10).unwrap();
    world.lane.lose(&mut world.reports);
    let lost = Outcome::Dropped(Why::Lost);
    assert_eq!(world.told(), [(0, lost)]);
    assert!(world.lane.take().is_some(), "what was not sent goes by the next stream");
    world.push(0, 2, 10).unwrap();
    world.lane.close(&mut world.reports);
    assert_eq!(world.told(), [(1, lost), (2, lost)]);
    assert_eq!(world.push(0, 3, 10), Err(Why::Lost));
    assert_eq!(world.tenant.dropped(Reason::Lost).value(), 4);
    assert!(world.is_clean());
}

#[test]
fn a_receipt_of_something_else_settles_nothing() {
    let mut world = World::new(BOUNDS);
    world.push(0, 0, 10).unwrap();
    drop(world.lane.take());
    assert_eq!(world.settle(&[Fate::Taken, Fate::Taken]), Err(Malformed));
    assert_eq!(world.lane.settle(&[], &mut world.reports), Err(Malformed));
    assert_eq!(world.lane.settle(&[1, 7, 1], &mut world.reports), Err(Malformed));
    assert_eq!(world.told(), []);
    world.settle(&[Fate::Taken]).unwrap();
    assert_eq!(world.told(), [(0, Outcome::Taken)]);
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Take,
    Settle(bool),
    Wait(u64),
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..400_usize).prop_map(Step::Push),
        3 => Just(Step::Take),
        3 => any::<bool>().prop_map(Step::Settle),
        3 => (1..300_u64).prop_map(Step::Wait),
        1 => Just(Step::Lose),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// DIST-007: whatever happens, messages go in the order in which they came, each is answered once,
    /// and what is held is bounded.
    #[test]
    fn messages_go_in_order_and_each_is_answered_once(
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut world = World::new(BOUNDS);
        let (mut now, mut accepted, mut told) = (0, Vec::new(), Vec::new());
        let mut waiting: VecDeque<(u64, usize)> = VecDeque::new();
        let mut in_flight: VecDeque<usize> = VecDeque::new();
        for (ticket, step) in (0..).zip(&steps) {
            match *step {
                Step::Push(bytes) => if world.push(now, ticket, bytes).is_ok() {
                    accepted.push(ticket);
                    waiting.push_back((ticket, bytes));
                },
                Step::Take => if let Some(data) = world.lane.take() {
                    let (mut expected, mut count) = (Vec::new(), 0);
                    while expected.len() < data.len() {
                        let (ticket, bytes) = waiting.pop_front().expect("it waits");
                        expected.extend(vec![u8::try_from(ticket % 256).unwrap(); bytes]);
                        count += 1;
                    }
                    prop_assert_eq!(&data[..], &expected[..]);
                    in_flight.push_back(count);
                },
                Step::Settle(is_taken) => {
                    let fate = if is_taken { Fate::Taken } else { Fate::Gone };
                    let count = in_flight.pop_front();
                    let settled = world.settle(&vec![fate; count.unwrap_or(1)]);
                    prop_assert_eq!(settled.is_ok(), count.is_some());
                }
                Step::Wait(millis) => {
                    now += millis;
                    world.lane.expire(at(now), &mut world.reports);
                }
                Step::Lose => {
                    world.lane.lose(&mut world.reports);
                    in_flight.clear();
                }
            }
            for (ticket, outcome) in world.told() {
                let is_late = outcome == Outcome::Dropped(Why::Late);
                waiting.retain(|(held, _)| !is_late || *held != ticket);
                told.push(ticket);
            }
            prop_assert!(world.lane.bytes() <= BOUNDS.bytes_max);
        }
        world.lane.close(&mut world.reports);
        told.extend(world.told().into_iter().map(|(ticket, _)| ticket));
        told.sort_unstable();
        prop_assert_eq!(told, accepted);
        prop_assert!(world.is_clean());
    }
}

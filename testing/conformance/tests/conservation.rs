//! What came in for a tenant is delivered, waits, or was dropped for a counted reason.
//!
//! Clients of two tenants do at random what clients do. What they sent and got is counted here, what
//! became of it by the broker. At the end both have to agree, to the message.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::{Duration, Instant};

use ratatosk_client::held::HeldKeyspace;
use ratatosk_codec::{
    Disconnect, Packet, ProtocolVersion, Publish, PublishPropertiesBuilder, ReasonCode,
    SubscriptionOptions,
};
use ratatosk_conformance::{Broker, Client, Connector, Event, PATIENCE, Setup};
use ratatosk_contract::{TenantId, TenantSettings};
use ratatosk_inbox::{InboxCoprocessor, InboxStats};
use ratatosk_mqtt::{Config, Flow};
use ratatosk_testkit::dice::Dice;

use crate::cases::{ALL_QOS, QOS1, VERSIONS};

const TENANTS: [&str; 2] = ["a", "b"];
/// What a queue holds: few, so that it overflows.
const QUEUE_MAX: u32 = 6;
/// How much every client does before and after what expires has expired.
const STEPS: usize = 700;
/// What no client takes that says so, and what everybody does.
const LARGE: usize = 3_000;
const PACKET_MAX: u32 = 1_000;
/// Longer than the shortest life of a message.
const EXPIRY: Duration = Duration::from_millis(1_050);

/// One client of a tenant, through all its connections.
struct Actor {
    connector: Connector,
    is_v5: bool,
    /// It reads what it is sent, and says so.
    is_quick: bool,
    client: Option<Client>,
}

/// What the clients of a tenant counted.
#[derive(Copy, Clone, Debug, Default)]
struct Seen {
    published: u64,
    refused: u64,
    received: u64,
}

struct Tenant {
    name: &'static str,
    actors: Vec<Actor>,
    seen: Seen,
}

impl Actor {
    fn new(broker: &Broker, tenant: &str, number: usize) -> Self {
        let version = VERSIONS[number % 2];
        let (is_v5, is_quick) = (version == ProtocolVersion::V5, number < 4);
        // The same identifiers in both tenants.
        let mut connector = broker.client(version, &format!("c{number}"));
        connector = connector.user(&format!("{tenant}/user"));
        if number % 4 >= 2 {
            connector = connector.persistent();
        }
        if is_v5 {
            connector = connector.receive_maximum(2);
        }
        if number == 3 || number == 5 {
            connector = connector.packet_size_max(PACKET_MAX);
        }
        Actor { connector, is_v5, is_quick, client: None }
    }

    /// Takes what has come.
    fn take(&mut self, seen: &mut Seen) {
        let Some(client) = &mut self.client else { return };
        while client.has_more() {
            let Event::Publish(message) = client.event() else { continue };
            seen.received += 1;
            if self.is_quick {
                client.acknowledge(&message);
            }
        }
    }

    /// Ends the connection in one way or another, and reads it to its end.
    fn end(&mut self, dice: &mut Dice, seen: &mut Seen) {
        let Some(mut client) = self.client.take() else { return };
        match dice.below(4) {
            0 => client.half_close(),
            1 => {
                // Whoever comes takes the session over.
                self.client = Some(self.connector.connect());
            }
            2 if self.is_v5 => {
                let ends = Disconnect {
                    session_expiry_s: Some(0),
                    ..Disconnect::new(ReasonCode::Success)
                };
                client.send(&Packet::Disconnect(ends));
            }
            _ => client.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success))),
        }
        read_to_the_end(client, seen);
    }

    fn publish(&mut self, dice: &mut Dice, seen: &mut Seen) {
        let is_v5 = self.is_v5;
        let Some(client) = &mut self.client else { return };
        let qos = ALL_QOS[dice.below(3)];
        let topic = format!("t/{}", dice.below(4));
        let payload = vec![7; if dice.once_in(12) { LARGE } else { 10 }];
        let mut publish =
            Publish { qos, retain: dice.once_in(8), ..Publish::new(&topic, &payload) };
        let mut builder = PublishPropertiesBuilder::new();
        if is_v5 && dice.once_in(3) {
            builder.message_expiry_s(1).expect("fits");
            publish.properties = builder.view();
        }
        if is_v5 && dice.once_in(20) {
            // More levels than the tenant may use.
            publish = Publish { qos: QOS1, ..Publish::new("t/1/2/3/4/5", b"") };
        }
        let qos = publish.qos;
        let id = client.publish_as(publish);
        seen.published += 1;
        seen.refused += u64::from(client.finish(qos, id).is_error());
    }

    fn subscribe(&mut self, dice: &mut Dice) {
        let filter = filter(dice);
        let no_local = self.is_v5 && !filter.starts_with('$') && dice.once_in(2);
        let qos = ALL_QOS[dice.below(3)];
        let options = SubscriptionOptions { no_local, ..SubscriptionOptions::new(qos) };
        if let Some(client) = &mut self.client {
            client.subscribe_as(&[(filter, options)], None);
        }
    }

    fn step(&mut self, dice: &mut Dice, seen: &mut Seen) {
        if self.client.is_none() {
            let connector = self.connector.clone();
            let connector = if dice.once_in(6) { connector.clean() } else { connector };
            self.client = Some(connector.connect());
        }
        match dice.below(20) {
            0 => self.end(dice, seen),
            1 | 2 => self.subscribe(dice),
            3 => {
                if let Some(client) = &mut self.client {
                    client.unsubscribe(&[filter(dice)]);
                }
            }
            4..7 => self.take(seen),
            _ => self.publish(dice, seen),
        }
    }
}

fn filter(dice: &mut Dice) -> &'static str {
    const FILTERS: [&str; 7] =
        ["t/0", "t/1", "t/+", "#", "$share/g/t/2", "$share/g/t/+", "$oshare/o/t/3"];
    FILTERS[dice.below(FILTERS.len())]
}

fn read_to_the_end(mut client: Client, seen: &mut Seen) {
    loop {
        match client.event() {
            Event::Publish(_) => seen.received += 1,
            Event::Closed => return,
            _ => {}
        }
    }
}

/// Each line has to have two equal sides once nothing is on its way.
fn lines(flow: &Flow, inbox: &InboxStats, seen: &Seen) -> [(&'static str, u64, u64); 9] {
    let published = flow.received - flow.wills + flow.refused - flow.refused_late;
    let taken = inbox.committed + inbox.direct + inbox.fetched_qos0;
    let waiting = inbox.queued + inbox.queued_qos0;
    let lost = flow.dropped_sum() + inbox.dropped.sum();
    let delivered = flow.sent + inbox.committed + inbox.fetched_qos0 - flow.fetched_lost;
    [
        ("published", seen.published, published),
        ("refused", seen.refused, flow.refused),
        ("received by clients", seen.received, flow.sent + flow.fetched),
        ("copies", flow.copies, flow.accounted()),
        ("waiting for who has left", flow.waiting(), 0),
        ("stored", flow.stored + inbox.moved, inbox.appended + inbox.passed_on),
        ("handed back", flow.handed_back, inbox.direct + inbox.passed_on),
        ("appended", inbox.appended, taken + waiting + inbox.moved + inbox.dropped.sum()),
        // All of it; a copy that was given on is counted again where it came to.
        (
            "delivered, waiting, ended and dropped",
            flow.copies - flow.handed_back - flow.moved,
            delivered + waiting + flow.waiting() + flow.ended + lost,
        ),
    ]
}

/// Waits until the counters of a tenant agree with each other and with its clients.
fn settle(broker: &Broker, tenant: &Tenant) -> (Flow, InboxStats) {
    let id = TenantId::new(tenant.name);
    let end = Instant::now() + PATIENCE;
    loop {
        let (flow, inbox) = (broker.node_stats().flow(&id), broker.inbox.tenant_stats(&id));
        let lines = lines(&flow, &inbox, &tenant.seen);
        if lines.iter().all(|(_, left, right)| left == right) {
            return (flow, inbox);
        }
        let wrong: Vec<_> = lines.iter().filter(|(_, left, right)| left != right).collect();
        assert!(Instant::now() < end, "{}: {wrong:?}\n{flow:?}\n{inbox:?}", tenant.name);
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn drive(setup: Setup, seed: u64) -> (Flow, InboxStats) {
    let settings = TenantSettings {
        session_inbox_size: QUEUE_MAX,
        queue_qos0_when_offline: seed.is_multiple_of(2),
        qos0_drop_oldest: seed.is_multiple_of(4),
        max_topic_levels: 4,
        ..TenantSettings::default()
    };
    let broker = Broker::with(Setup { settings, ..setup });
    let mut dice = Dice::new(seed, 0);
    let mut tenants = TENANTS.map(|name| Tenant {
        name,
        actors: (0..8).map(|number| Actor::new(&broker, name, number)).collect(),
        seen: Seen::default(),
    });
    let mut act = |tenants: &mut [Tenant; 2]| {
        for _ in 0..STEPS {
            let tenant = &mut tenants[dice.below(2)];
            let count = tenant.actors.len();
            tenant.actors[dice.below(count)].step(&mut dice, &mut tenant.seen);
        }
    };
    act(&mut tenants);
    let begun = Instant::now();
    while begun.elapsed() < EXPIRY {
        for client in tenants.iter_mut().flat_map(|tenant| &mut tenant.actors) {
            client.client.iter_mut().for_each(Client::ping);
        }
    }
    act(&mut tenants);
    for tenant in &mut tenants {
        for actor in &mut tenant.actors {
            if let Some(mut client) = actor.client.take() {
                client.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)));
                read_to_the_end(client, &mut tenant.seen);
            }
        }
    }
    let mut sum = (Flow::default(), InboxStats::default());
    for tenant in &tenants {
        let (flow, inbox) = settle(&broker, tenant);
        assert!(flow.copies > 0, "{flow:?}");
        sum.0.add(&flow);
        sum.1.add(&inbox);
    }
    let total = broker.stats_when(|stats| stats.live == 0);
    assert_eq!((total.received, total.publish_refused), (sum.0.received, sum.0.refused));
    sum
}

/// DUR-008: of each tenant, every publish was accepted or refused, and every copy that it made for a
/// receiver was delivered, waits, went to another member, ended with its session or was dropped for
/// a counted reason.
#[test]
fn every_copy_of_a_tenants_messages_is_accounted_for() {
    let mut sum = (Flow::default(), InboxStats::default());
    for seed in 0..4 {
        let is_kept = seed % 2 == 1;
        let config = Config { shards: 1 + usize::from(seed > 0), ..Config::default() };
        let keyspace = HeldKeyspace::new(Box::<InboxCoprocessor>::default());
        let sessions_in = is_kept.then(|| Arc::clone(&keyspace) as _);
        let setup = Setup { config, sessions_in, ..Setup::default() };
        let is_over = AtomicBool::new(false);
        let (flow, inbox) = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    keyspace.settle();
                    std::thread::park_timeout(Duration::from_micros(200));
                }
            });
            let driven = catch_unwind(AssertUnwindSafe(|| drive(setup, seed)));
            is_over.store(true, Ordering::Relaxed);
            driven.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        sum.0.add(&flow);
        sum.1.add(&inbox);
    }
    // Else it would say nothing about them.
    let (flow, inbox) = sum;
    let met = [
        ("unmatched", flow.unmatched),
        ("refused", flow.refused),
        ("queued", flow.queued),
        ("queued and sent", flow.unqueued - flow.ended),
        ("ended", flow.ended),
        ("moved", flow.moved + inbox.moved),
        ("fetched and lost", flow.fetched_lost),
        ("overflow", flow.dropped_overflow),
        ("no local", flow.dropped_no_local),
        ("expired", flow.dropped_expired + inbox.dropped.expired),
        ("oversize", flow.dropped_oversize),
        ("direct", inbox.direct),
        ("inbox: committed", inbox.committed),
        ("inbox: queued", inbox.queued),
        ("inbox: overflow", inbox.dropped.overflow),
        ("inbox: session ended", inbox.dropped.session_ended),
        ("inbox: offline", inbox.dropped.offline_qos0),
    ];
    for (name, count) in met {
        assert!(count > 0, "{name}: {flow:?} {inbox:?}");
    }
}

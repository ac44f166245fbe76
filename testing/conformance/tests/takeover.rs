//! Connections that wait for a session, and end while they wait.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use ratatosk_codec::ReasonCode;
use ratatosk_conformance::{Broker, Client, Event, PATIENCE, Setup};
use ratatosk_contract::{ClientId, SessionIdentity, TenantId};
use ratatosk_mqtt::Config;

use crate::cases::{QOS0, standstill};

/// How long a connection may wait for its session.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The connections of a stage that nobody waits with.
const STANDING: u64 = 4;

/// A broker whose first shard stands still from [`Stage::block`] until [`Stage::release`].
struct Stage {
    // Goes first: a shard that stands still does not stop.
    hold: Option<mpsc::Sender<()>>,
    broker: Broker,
    owner: Client,
    blocker: Client,
    other: Client,
    _weight: Client,
}

impl Stage {
    /// The owner of session "c" and the blocker are on the first shard, the other and all that
    /// come later on the second.
    fn new() -> Stage {
        let (hold, permission) = standstill();
        let config = Config { shards: 2, connect_timeout: TIMEOUT, ..Config::default() };
        let broker = Broker::with(Setup { config, permission, ..Setup::default() });
        let owner = broker.v5("c").connect();
        let other = broker.v5("other").connect();
        let blocker = broker.v5("blocker").connect();
        // A weight on the first shard: who comes goes to the second.
        let passing = broker.v5("passing").connect();
        let weight = broker.v5("weight").connect();
        passing.disconnect(ReasonCode::Success);
        broker.stats_when(|stats| (stats.connected, stats.connections) == (5, STANDING));
        Stage { hold: Some(hold), broker, owner, blocker, other, _weight: weight }
    }

    fn block(&mut self) {
        self.blocker.publish("block", "", QOS0);
    }

    fn release(&mut self) {
        self.hold = None;
    }

    /// A connection of client "c" on the second shard that waits for the session.
    fn waiter(&self, number: u64) -> Client {
        let waiter = self.broker.v5("c").open();
        until("the connection claims the session", || {
            self.broker.session_dict.stats().replaced == number
        });
        waiter
    }

    /// Lets a waiter's time pass; the `number`th that ends before it has the session.
    fn time_out(&self, mut waiter: Client, number: u64) {
        waiter.expect_close();
        drop(waiter);
        self.broker.stats_when(|stats| stats.refused == number && stats.connections == STANDING);
    }

    fn is_held(&self) -> bool {
        use ratatosk_contract::session_dict::SessionDict as _;
        let identity = SessionIdentity {
            tenant: TenantId::new("default"),
            user: None,
            client: ClientId::new("c"),
        };
        self.broker.session_dict.find(&identity).is_some()
    }
}

fn until(what: &str, is_met: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_met() {
        assert!(Instant::now() < end, "in time: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Whether the broker has said nothing so far.
fn is_silent(client: &Client) -> bool {
    let stream = client.writer();
    stream.set_nonblocking(true).expect("a socket option");
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("a socket option");
    peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// MQTT-042: who comes behind a waiter that gave up still waits for the first owner's end.
#[test]
fn a_waiter_that_times_out_does_not_hide_the_owner_from_the_next() {
    let mut stage = Stage::new();
    stage.block();
    for number in [1, 2] {
        let waiter = stage.waiter(number);
        assert!(is_silent(&waiter), "the owner has not ended");
        stage.time_out(waiter, number);
        assert!(stage.is_held(), "the owner is known");
    }
    let mut last = stage.waiter(3);
    stage.other.ping();
    assert!(is_silent(&last), "the owner has not ended");
    stage.release();
    assert_eq!(last.connack().reason, ReasonCode::Success);
    stage.owner.expect_farewell(ReasonCode::SessionTakenOver);
    last.ping();
    assert!(stage.is_held());
    last.disconnect(ReasonCode::Success);
    assert!(!stage.is_held());
}

/// A waiter that is taken over is refused, and who took it over waits on in its place.
#[test]
fn a_waiter_that_is_taken_over_passes_the_wait_on() {
    let mut stage = Stage::new();
    stage.block();
    let mut first = stage.waiter(1);
    let second = stage.waiter(2);
    let Event::Connack(welcome) = first.event() else { panic!("it is refused") };
    assert_eq!(welcome.reason, ReasonCode::ServerBusy);
    first.expect_close();
    drop(first);
    stage.time_out(second, 2);
    let mut third = stage.waiter(3);
    stage.other.ping();
    assert!(is_silent(&third), "the owner has not ended");
    stage.release();
    assert_eq!(third.connack().reason, ReasonCode::Success);
    stage.owner.expect_farewell(ReasonCode::SessionTakenOver);
}

/// A session whose last waiter gave up is nobody's once its owner has ended.
#[test]
fn a_session_that_nobody_waits_for_any_more_is_forgotten() {
    let mut stage = Stage::new();
    stage.block();
    let waiter = stage.waiter(1);
    stage.time_out(waiter, 1);
    assert!(stage.is_held());
    stage.release();
    stage.owner.expect_farewell(ReasonCode::SessionTakenOver);
    until("the session is forgotten", || !stage.is_held());
    assert!(!stage.broker.v5("c").persistent().welcome().1.is_present);
}

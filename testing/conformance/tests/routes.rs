//! Persistent sessions and their routes, each on a store whose log is in the test's hands: what is
//! waited for, and what a start makes of the one without the other.

use std::sync::Arc;

use ratatosk_client::held::HeldKeyspace;
use ratatosk_codec::{PacketType, ReasonCode, SubscriptionOptions};
use ratatosk_conformance::{Broker, Client, Event, PATIENCE, Setup};
use ratatosk_dist::DistCoprocessor;
use ratatosk_inbox::InboxCoprocessor;

use crate::cases::QOS1;

struct Kept {
    broker: Broker,
    sessions: Arc<HeldKeyspace>,
    routes: Arc<HeldKeyspace>,
}

impl Kept {
    fn new() -> Self {
        let sessions = HeldKeyspace::new(Box::new(InboxCoprocessor::new()));
        Self::on(sessions, HeldKeyspace::new(Box::new(DistCoprocessor::new())))
    }

    fn on(sessions: Arc<HeldKeyspace>, routes: Arc<HeldKeyspace>) -> Self {
        let (sessions_in, routes_in) = (Some(sessions.clone() as _), Some(routes.clone() as _));
        let broker = Broker::with(Setup { sessions_in, routes_in, ..Setup::default() });
        // What the broker found to do when it read what is kept.
        sessions.settle();
        Self { broker, sessions, routes }
    }

    /// A crash, which leaves of each what was durable.
    fn crash(self) -> Self {
        let sessions = self.sessions.crash(Box::new(InboxCoprocessor::new()));
        let routes = self.routes.crash(Box::new(DistCoprocessor::new()));
        drop(self);
        Self::on(sessions, routes)
    }

    /// Makes the next command of a session durable, whenever it comes.
    fn settle(&self) {
        wait(|| self.sessions.waiting() > 0);
        self.sessions.settle();
    }

    fn connect(&self) -> Client {
        let mut client = self.broker.v5("subscriber").persistent().open();
        self.settle();
        assert_eq!(client.connack().reason, ReasonCode::Success);
        client
    }

    fn subscribe(&self, client: &mut Client, filter: &str) {
        let id = client.begin_subscribe(&[(filter, SubscriptionOptions::new(QOS1))], None);
        self.settle();
        assert_eq!(client.event(), Event::Suback(id, vec![ReasonCode::GrantedQos1]));
    }

    /// What a publisher is told.
    fn publish(&self, has_receivers: bool) -> ReasonCode {
        let mut publisher = self.broker.v5("publisher").connect();
        let id = publisher.publish("t", "x", QOS1);
        if has_receivers {
            self.settle();
        }
        publisher.find_ack(PacketType::Puback, id)
    }
}

fn wait(is_met: impl Fn() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !is_met() {
        assert!(std::time::Instant::now() < end, "it never comes");
        std::thread::park_timeout(std::time::Duration::from_millis(2));
    }
}

/// DUR-002, DIST-014: a SUBACK waits for the session's record; if a crash then takes the route, it is
/// made again before anybody is let in.
#[test]
fn an_acknowledged_subscription_has_its_route_after_any_crash() {
    for filter in ["t", "$share/g/t"] {
        let kept = Kept::new();
        let mut client = kept.connect();
        kept.subscribe(&mut client, filter);
        assert_eq!(kept.routes.waiting(), 1, "the route is on its way");
        let kept = kept.crash();
        assert_eq!(kept.routes.waiting(), 1, "it is written again");
        assert_eq!(kept.publish(true), ReasonCode::Success);
        kept.routes.settle();
        let kept = kept.crash();
        assert_eq!(kept.routes.waiting(), 0, "it is there");
        assert_eq!(kept.publish(true), ReasonCode::Success);
    }
}

/// DIST-014: nor does a route stay whose session a crash took, or has it no more.
#[test]
fn a_route_that_no_session_has_is_gone_after_any_crash() {
    let kept = Kept::new();
    let mut client = kept.connect();
    let _ = client.begin_subscribe(&[("t", SubscriptionOptions::new(QOS1))], None);
    wait(|| kept.routes.waiting() > 0);
    kept.routes.settle();
    let kept = kept.crash();
    assert_eq!(kept.publish(false), ReasonCode::NoMatchingSubscribers);
    kept.routes.settle();
    assert!(kept.routes.content().is_empty());

    let mut client = kept.connect();
    kept.subscribe(&mut client, "t");
    kept.subscribe(&mut client, "$share/g/t");
    kept.routes.settle();
    assert_eq!(kept.routes.content().len(), 2);
    // The client starts anew: both go, in one command that a crash takes.
    let _anew = kept.broker.v5("subscriber").clean().open();
    wait(|| {
        kept.sessions.settle();
        kept.routes.waiting() == 1
    });
    let kept = kept.crash();
    assert_eq!(kept.publish(false), ReasonCode::NoMatchingSubscribers);
    kept.routes.settle();
    assert!(kept.routes.content().is_empty());
}

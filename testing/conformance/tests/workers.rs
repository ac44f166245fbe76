//! Routes that three stores have: what clients see when one of them is lost.

use std::sync::Arc;
use std::time::Duration;

use ratatosk_client::{Pipe, held::HeldKeyspace};
use ratatosk_codec::ReasonCode;
use ratatosk_conformance::{Broker, Setup};
use ratatosk_dist::{DistCoprocessor, DistService, RouteDivision};
use ratatosk_inbox::InboxCoprocessor;
use ratatosk_mqtt::Config;
use ratatosk_stores::PATIENCE;
use ratatosk_stores::trio::{Kind, Trio};

use crate::cases::{QOS1, QOS2};

const DIST: &str = "dist.route";
/// Whose replica the broker asks.
const HERE: usize = 0;

/// DIST-016: whether it led or not. What changes meanwhile is acknowledged and matched by, too.
#[test]
fn publishes_are_acknowledged_and_delivered_with_one_of_three_dist_workers_lost() {
    for (leader, lost) in [(1, 1), (1, 2), (HERE, 2)] {
        let mut trio = Trio::new(
            "workers",
            Kind {
                keyspace: DIST,
                service: Box::new(|_| DistService::replicated()),
                coprocessor: |feed| Box::new(DistCoprocessor::feeding(feed)),
                pipe: |router, clock| Pipe::dividing(Box::new(router), DIST, RouteDivision, clock),
                connect: Box::new(|service: &DistService, pipe, replicas| {
                    service.connect(Arc::new(pipe), Box::new(replicas));
                }),
            },
        );
        trio.transfer(leader as u64 + 1);
        // Its sessions are in a log of their own, as they are wherever several nodes have the routes.
        let sessions = HeldKeyspace::new(Box::<InboxCoprocessor>::default());
        let keyspace = Arc::downgrade(&sessions);
        let clerk = std::thread::spawn(move || {
            while let Some(keyspace) = keyspace.upgrade() {
                keyspace.settle();
                std::thread::yield_now();
            }
        });
        // A busy machine takes its time to elect.
        let patience = Duration::max(PATIENCE, Config::default().route_patience);
        let config = Config { route_patience: patience, ..Setup::default().config };
        let broker = Broker::with(Setup {
            config,
            dist: Some(Arc::clone(&trio.services[HERE])),
            sessions_in: Some(sessions),
            ..Setup::default()
        });

        let mut kept = broker.v5("kept").persistent().connect();
        assert_eq!(kept.subscribe("t/#", QOS1), ReasonCode::GrantedQos1);
        let mut live = broker.v5("live").connect();
        live.subscribe("t/+", QOS1);
        let mut publisher = broker.v5("publisher").connect();
        assert_eq!(publisher.deliver("t/0", "0", QOS1), ReasonCode::Success);
        trio.kill(lost);
        for (number, qos) in ["1", "2", "3"].into_iter().zip([QOS1, QOS2, QOS1]) {
            let topic = format!("t/{number}");
            assert_eq!(publisher.deliver(&topic, number, qos), ReasonCode::Success);
        }
        for number in ["0", "1", "2", "3"] {
            assert_eq!((kept.message().text(), live.message().text()), (number, number));
        }
        assert_eq!(kept.subscribe("u", QOS1), ReasonCode::GrantedQos1);
        assert_eq!(publisher.deliver("u", "4", QOS1), ReasonCode::Success);
        assert_eq!(kept.message().text(), "4");
        drop((kept, live, publisher, broker));
        clerk.join().expect("no panic");
    }
}

//! Routes that three stores have: what clients see when one of them is lost.

use std::{sync::Arc, time::Duration};

use ratatosk_client::{Pipe, Poller, Router};
use ratatosk_clock::SystemClock;
use ratatosk_codec::{ProtocolVersion, ReasonCode};
use ratatosk_conformance::{Broker, Setup};
use ratatosk_dist::{DistCoprocessor, DistService, RouteDivision, StoreReplicas};
use ratatosk_mqtt::Config;
use ratatosk_store::coprocessor::{Factory, Keyspaces};
use ratatosk_stores::{PATIENCE, Stores};

use crate::cases::{QOS1, QOS2};

const DIST: &str = "dist.route";
/// Whose replica the broker asks.
const HERE: u64 = 1;
const LEADER: u64 = 2;

/// DIST-016: whether it led or not. What changes meanwhile is acknowledged and matched by, too.
#[test]
fn publishes_are_acknowledged_and_delivered_with_one_of_three_dist_workers_lost() {
    for lost in [LEADER, 3] {
        let clock = SystemClock::new();
        let services = [(); 3].map(|()| Arc::new(DistService::replicated()));
        let feeds = services.each_ref().map(Arc::downgrade);
        let knows = move |store: u64| {
            let feed = feeds[usize::try_from(store - 1).expect("few")].clone();
            let factory: Factory = Box::new(move || Box::new(DistCoprocessor::feeding(&feed)));
            Keyspaces::new(vec![(DIST.to_owned(), factory)]).served_by_replicas(DIST)
        };
        let mut stores = Stores::of_each("workers", 3, knows);
        let whole = stores.whole(DIST);
        stores.change(&whole, &[1, 2, 3]);
        stores.transfer(whole.group, LEADER);
        let router = Router::new(clock);
        stores.live().for_each(|(store, handle)| router.attach(store, Arc::new(handle)));
        let pipe = Pipe::dividing(Box::new(router.clone()), DIST, RouteDivision, clock);
        let _poller = Poller::start(router.clone(), vec![pipe.clone()]).expect("a thread");
        let [here, ..] = &services;
        here.connect(Arc::new(pipe), Box::new(StoreReplicas::new(stores.handle(HERE), DIST)));
        // A busy machine takes its time to elect.
        let patience = Duration::max(PATIENCE, Config::default().route_patience);
        let config = Config { route_patience: patience, ..Setup::default().config };
        let broker = Broker::with(Setup { config, dist: Some(here.clone()), ..Setup::default() });

        let mut kept = broker.client(ProtocolVersion::V5, "kept").persistent().connect();
        kept.subscribe("t/#", QOS1);
        let mut live = broker.v5("live").connect();
        live.subscribe("t/+", QOS1);
        let mut publisher = broker.v5("publisher").connect();
        assert_eq!(publisher.deliver("t/0", "0", QOS1), ReasonCode::Success);
        router.detach(lost);
        stores.kill(lost);
        for (number, qos) in ["1", "2", "3"].into_iter().zip([QOS1, QOS2, QOS1]) {
            let topic = format!("t/{number}");
            assert_eq!(publisher.deliver(&topic, number, qos), ReasonCode::Success);
        }
        for number in ["0", "1", "2", "3"] {
            assert_eq!((kept.message().text(), live.message().text()), (number, number));
        }
        kept.subscribe("u", QOS1);
        assert_eq!(publisher.deliver("u", "4", QOS1), ReasonCode::Success);
        assert_eq!(kept.message().text(), "4");
    }
}

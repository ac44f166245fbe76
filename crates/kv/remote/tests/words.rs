//! What nodes tell each other of many ranges.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ratatosk_balance::landscape::{Leading, Lineage, LogEnd, Reach, Report, Store};
use ratatosk_clock::SystemClock;
use ratatosk_engine::KeyRange;
use ratatosk_remote::{Config, Network, Serving};
use ratatosk_rpc::{
    ClusterId, Environment, HostId, Identity, Listener, MemoryDiscovery, Permission, Version,
};
use ratatosk_store::log::GroupId;
use ratatosk_store::node::Node as StoreNode;
use ratatosk_store::range::Descriptor;
use ratatosk_stores::counter::counters;
use ratatosk_stores::{CLUSTER, Make, Stores, until};
use ratatosk_telemetry::metric::Registry;
use tokio::runtime::Handle;

use crate::support::metric;

const RANGES: u64 = 10_000;
/// How long the test's stores may be silent.
const SILENCE: Duration = Duration::from_millis(1_500);

struct Served {
    network: Network,
    registry: Registry,
    port: ratatosk_rpc::Node,
    _serving: Serving,
    _listener: Listener,
    _store: StoreNode,
    _stores: Stores,
}

/// Where calls run: a thread that ends with the tests.
fn runtime() -> Handle {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the system has room");
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    handle
}

fn serve(runtime: &Handle, discovery: &MemoryDiscovery, number: u64) -> Served {
    let config = ratatosk_rpc::Config::new(Identity {
        cluster: ClusterId(CLUSTER.into()),
        environment: Environment::new("test").expect("a name"),
        host: HostId(number.into()),
        version: Version::CURRENT,
    });
    let _entered = runtime.enter();
    let registry = Registry::new(1);
    let discovery = Arc::new(discovery.clone());
    let port = ratatosk_rpc::Node::new(config, discovery, &registry, 7);
    let any = "127.0.0.1:0".parse().expect("an address");
    let listener = runtime.block_on(port.listen(any, None, Permission::Silent)).expect("a port");
    let mut config = Config::new(CLUSTER, number);
    config.silence_max = SILENCE;
    let network = Network::new(port.clone(), &registry, SystemClock::new(), config);
    let name = format!("remote-words-{number}");
    let mut stores = Stores::new(&name, 0, &[("k", counters as Make)]);
    let mut config = stores.config(number);
    config.transport = network.transport();
    let store = StoreNode::open(config).expect("it opens");
    let serving = network.serve(&store.handle()).expect("it is announced");
    Served {
        network,
        registry,
        port,
        _serving: serving,
        _listener: listener,
        _store: store,
        _stores: stores,
    }
}

/// A range of many, kept by two stores, one of which nobody has heard of.
fn report(number: u64, clock: SystemClock) -> (GroupId, Report) {
    let group = GroupId(number + 1);
    let mut descriptor = Descriptor::whole(group, "k".to_owned(), 5);
    let key = |number: u64| number.to_be_bytes().to_vec().into();
    descriptor.boundary = KeyRange { start: key(number), end: Some(key(number + 1)) };
    let leading = Leading { idle_since: Some(clock.now()), ..Leading::default() };
    let (log, lineage) = (LogEnd { term: 1, index: number }, Lineage::default());
    (group, Report { descriptor, term: 1, log, lineage, leading: Some(leading) })
}

fn store(replicas: BTreeMap<GroupId, Report>) -> Store {
    let labels = [("zone".to_owned(), "a".to_owned())].into();
    Store { labels, keyspaces: ["k".to_owned()].into(), replicas, ..Store::default() }
}

/// KV-026: ten thousand ranges are seen elsewhere within seconds, and what changes costs what it is.
#[test]
fn ten_thousand_ranges_are_seen_elsewhere_and_then_only_what_changes_is_told() {
    let runtime = runtime();
    let (discovery, clock) = (MemoryDiscovery::new(), SystemClock::new());
    let served = [1, 2].map(|number| serve(&runtime, &discovery, number));
    let words = served.each_ref().map(|served| served.network.words());
    let mut replicas: BTreeMap<_, _> = (0..RANGES).map(|number| report(number, clock)).collect();
    let began = clock.now();
    words[0].tell(1, store(replicas.clone()));
    until("all ranges are seen", || {
        let seen = words[1].landscape();
        let told = seen.stores.get(&1).filter(|store| store.replicas.len() as u64 == RANGES)?;
        assert_eq!((told.reach, told.labels["zone"].as_str()), (Reach::Up, "a"));
        Some(())
    });
    let took = clock.now().since(began);
    assert!(took < Duration::from_secs(10), "{took:?}");
    let bytes =
        || metric(&served[1].registry, &["frame_bytes_total", "Follow", "client", "\"in\""]);
    let of_all = bytes();
    let changed = GroupId(4_711);
    replicas.get_mut(&changed).expect("it is there").term = 2;
    words[0].tell(1, store(replicas.clone()));
    let seen = until("what has changed is seen", || {
        let seen = words[1].landscape();
        (seen.stores[&1].replicas[&changed].term == 2).then_some(seen)
    });
    assert_eq!(seen.stores[&1].replicas.len() as u64, RANGES);
    assert!(of_all > 100 * RANGES / 2, "{of_all}");
    assert!(bytes() - of_all < 10_000, "{} after {of_all}", bytes() - of_all);
    // A store that is named and that nobody has heard of does not answer, and is known to be missed.
    assert!(matches!(seen.stores[&5].reach, Reach::Away { .. }));
    let since = seen.stores[&1].replicas[&changed].leading.as_ref().and_then(|it| it.idle_since);
    assert!(since.is_some_and(|since| since <= clock.now()));
}

/// KV-026: who says nothing for long is known not to answer, and what it said of its lead is forgotten.
#[test]
fn a_store_that_says_nothing_any_more_is_seen_not_to_answer() {
    let runtime = runtime();
    let (discovery, clock) = (MemoryDiscovery::new(), SystemClock::new());
    let served = [1, 2].map(|number| serve(&runtime, &discovery, number));
    let words = served.each_ref().map(|served| served.network.words());
    words[0].tell(1, store([report(7, clock)].into()));
    until("it is heard", || {
        let seen = words[1].landscape();
        (seen.stores.get(&1)?.reach == Reach::Up && !seen.stores[&1].replicas.is_empty())
            .then_some(())
    });
    runtime.block_on(served[0].port.stop());
    let told = clock.now();
    let since = until("it does not answer", || match words[1].landscape().stores[&1].reach {
        Reach::Away { since } => Some(since),
        Reach::Up => None,
    });
    assert!(clock.now().since(since) >= SILENCE, "since {since:?}, stopped at {told:?}");
    let seen = words[1].landscape();
    assert!(seen.stores[&1].replicas[&GroupId(8)].leading.is_none());
}

//! Discovery by the hosts of a cluster, over the loopback of this machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ratatosk_clock::SystemClock;
use ratatosk_cluster::{Cluster, ClusterId, Config, Tuning};
use ratatosk_rpc::{
    AnnounceError, ClusterDiscovery, Discovery as _, HostId, Landscape, Scope, ServerId,
    ServerRecord, ServiceName, Version, pinned_to,
};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::{LONG, group, tenant};

struct Host {
    cluster: Arc<Cluster>,
    discovery: ClusterDiscovery,
}

const LASTING: &str = "test.Lasting";
const PASSING: &str = "test.Passing";

fn host(seeds: &[&Host]) -> Host {
    let fast = Tuning {
        probe_interval: Duration::from_millis(500),
        probe_timeout: Duration::from_millis(200),
        suspicion: Duration::from_millis(800),
        announce_alone: Duration::from_millis(200),
        ..Tuning::default()
    };
    host_with(seeds, fast)
}

fn host_with(seeds: &[&Host], tuning: Tuning) -> Host {
    let any = "127.0.0.1:0".parse().expect("an address");
    let mut config = Config::new(SystemClock::new(), "test", any);
    config.cluster = ClusterId::from_number(7);
    config.seeds = seeds.iter().map(|host| host.cluster.address().to_string()).collect();
    config.tuning = tuning;
    let cluster = Arc::new(Cluster::start(config).expect("it starts"));
    let discovery = ClusterDiscovery::new(Arc::clone(&cluster), [service(LASTING)]);
    Host { cluster, discovery }
}

impl Host {
    fn id(&self) -> HostId {
        ClusterDiscovery::identity_of(&self.cluster)
    }

    fn record(&self, name: &str, of: &str) -> ServerRecord {
        ServerRecord {
            service: service(of),
            id: ServerId::new(name).expect("a name"),
            host: self.id(),
            address: Some("10.0.0.1:7".parse().expect("an address")),
            groups: [group("g")].into(),
            attributes: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            version: Version::CURRENT,
        }
    }

    fn watch(&self, of: &str) -> watch::Receiver<Arc<Landscape>> {
        self.discovery.watch(&service(of))
    }

    async fn meets(&self, count: usize) {
        let members = self.cluster.members();
        let met = tokio::task::spawn_blocking(move || {
            members.wait_until(LONG, |members| members.len() == count).is_some()
        });
        assert!(met.await.expect("no panic"));
    }
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).expect("a name")
}

/// Waits until a landscape is as wanted.
async fn until(
    watch: &mut watch::Receiver<Arc<Landscape>>,
    is_so: impl FnMut(&Arc<Landscape>) -> bool,
) -> Arc<Landscape> {
    let seen = timeout(LONG, watch.wait_for(is_so)).await.expect("in time");
    Arc::clone(&seen.expect("it goes on"))
}

/// RPC-001, RPC-002: what one host announces is seen by another one as it was said, until it is taken back
/// or its host is dead.
#[tokio::test]
async fn servers_are_seen_by_other_hosts_until_they_are_gone() {
    let one = host(&[]);
    let two = host(&[&one]);
    let mut seen = two.watch(PASSING);
    let record = one.record("a", PASSING);
    one.discovery.announce(record.clone()).expect("room");
    assert_eq!(one.watch(PASSING).borrow().servers.len(), 1, "its own at once");
    let landscape = until(&mut seen, |seen| seen.servers.len() == 1).await;
    assert_eq!(landscape.servers[&record.id], record);
    let other = ServerRecord { address: None, ..record.clone() };
    one.discovery.announce(other.clone()).expect("its own");
    until(&mut seen, |seen| seen.servers.get(&record.id) == Some(&other)).await;
    one.discovery.withdraw(&record.service, &record.id, two.id());
    assert_eq!(one.watch(PASSING).borrow().servers.len(), 1, "it is not theirs");
    one.discovery.withdraw(&record.service, &record.id, one.id());
    until(&mut seen, |seen| seen.servers.is_empty()).await;
    one.discovery.announce(record).expect("room");
    until(&mut seen, |seen| seen.servers.len() == 1).await;
    one.cluster.halt();
    until(&mut seen, |seen| seen.servers.is_empty()).await;
}

/// RPC-002: whose ports refuse connections is dead at once: its servers are gone long before anybody misses its
/// words.
#[tokio::test]
async fn the_servers_of_a_host_that_refuses_connections_are_gone_at_once() {
    let hour = Duration::from_secs(3_600);
    let slow = || Tuning { probe_interval: hour, suspicion: hour, ..Tuning::default() };
    let one = host_with(&[], slow());
    let two = host_with(&[&one], slow());
    let mut seen = two.watch(PASSING);
    one.discovery.announce(one.record("a", PASSING)).expect("room");
    until(&mut seen, |seen| seen.servers.len() == 1).await;
    let dead = one.id();
    one.cluster.halt();
    // Its thread may close its sockets a little later.
    let asking = async {
        loop {
            two.discovery.refused(dead);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        _ = until(&mut seen, |seen| seen.servers.is_empty()) => {}
        () = asking => {}
    }
}

/// A server of a lasting service outlasts the word that its host is dead, and not that it took it back.
#[tokio::test]
async fn lasting_servers_stay_until_another_host_has_their_name() {
    let one = host(&[]);
    let two = host(&[&one]);
    let (mut lasting, mut passing) = (two.watch(LASTING), two.watch(PASSING));
    for of in [LASTING, PASSING] {
        one.discovery.announce(one.record("a", of)).expect("room");
    }
    one.discovery.announce(one.record("b", LASTING)).expect("room");
    until(&mut lasting, |seen| seen.servers.len() == 2).await;
    until(&mut passing, |seen| seen.servers.len() == 1).await;
    let withdrawn = one.record("b", LASTING);
    one.discovery.withdraw(&withdrawn.service, &withdrawn.id, one.id());
    until(&mut lasting, |seen| seen.servers.len() == 1).await;
    one.cluster.halt();
    until(&mut passing, |seen| seen.servers.is_empty()).await;
    assert_eq!(lasting.borrow().servers.len(), 1);
    let three = host(&[&two]);
    three.meets(1).await;
    let record = three.record("a", LASTING);
    three.discovery.announce(record.clone()).expect("its host is dead");
    let is_threes = |seen: &Arc<Landscape>| seen.servers.values().eq([&record]);
    until(&mut lasting, is_threes).await;
}

/// Who knows of a name's owner is refused; of two who did not know of each other both see the same owner.
#[tokio::test]
async fn a_name_belongs_to_the_host_that_began_first() {
    let one = host(&[]);
    let two = host(&[]);
    // So that their beginnings differ.
    let (first, second) = match one.cluster.host().generation <= two.cluster.host().generation {
        true if (one.cluster.host().generation, one.id())
            < (two.cluster.host().generation, two.id()) =>
        {
            (&one, &two)
        }
        _ => (&two, &one),
    };
    for host in [first, second] {
        host.discovery.announce(host.record("a", PASSING)).expect("nobody knows of another");
    }
    assert_eq!(
        second.watch(PASSING).borrow().servers.values().next().map(|it| it.host),
        Some(second.id())
    );
    let bridge = host(&[&one, &two]);
    let is_firsts =
        |seen: &Arc<Landscape>| seen.servers.values().map(|server| server.host).eq([first.id()]);
    for host in [&bridge, first, second] {
        host.meets(2).await;
        until(&mut host.watch(PASSING), is_firsts).await;
    }
    let taken = bridge.discovery.announce(bridge.record("a", PASSING));
    assert!(
        matches!(taken, Err(AnnounceError::Taken { host, .. }) if host == first.id()),
        "{taken:?}"
    );
    // When the first is gone the name is the second's.
    first.cluster.halt();
    let is_seconds =
        |seen: &Arc<Landscape>| seen.servers.values().map(|server| server.host).eq([second.id()]);
    until(&mut bridge.watch(PASSING), is_seconds).await;
    until(&mut second.watch(PASSING), is_seconds).await;
}

/// RPC-005, RPC-006: traffic rules reach all hosts, of their own service only, and can be taken away.
#[tokio::test]
async fn traffic_rules_reach_all_hosts() {
    let one = host(&[]);
    let two = host(&[&one]);
    let (mut seen, other) = (two.watch(PASSING), two.watch(LASTING));
    let (rule, prefix) = (Scope::Tenant(tenant("t")), Scope::Prefix(tenant("")));
    for scope in [&rule, &prefix] {
        let shares = Some(pinned_to(group("g")));
        one.discovery.set_rule(&service(PASSING), scope.clone(), shares).expect("room");
    }
    let landscape = until(&mut seen, |seen| seen.rules.iter().count() == 2).await;
    let rules: BTreeMap<_, _> = landscape.rules.iter().collect();
    assert_eq!(rules[&rule], &pinned_to(group("g")));
    assert!(rules.contains_key(&prefix));
    assert_eq!(other.borrow().rules.iter().count(), 0);
    two.discovery.set_rule(&service(PASSING), rule.clone(), None).expect("room");
    let mut seen = one.watch(PASSING);
    until(&mut seen, |seen| seen.rules.iter().map(|(scope, _)| scope).eq([&prefix])).await;
}

/// What has no room in a record is refused, and nothing is announced.
#[tokio::test]
async fn what_has_no_room_is_refused() {
    let one = host(&[]);
    let long = one.record(&"n".repeat(65), PASSING);
    assert!(matches!(one.discovery.announce(long), Err(AnnounceError::Full { .. })));
    let mut large = one.record("a", PASSING);
    large.attributes.insert("large".to_owned(), "l".repeat(20_000));
    assert!(matches!(one.discovery.announce(large), Err(AnnounceError::Full { .. })));
    assert!(one.watch(PASSING).borrow().servers.is_empty());
}

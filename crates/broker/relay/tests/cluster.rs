//! Hosts that find each other by a cluster.

use std::sync::Arc;
use std::time::Duration;

use ratatosk_clock::SystemClock;
use ratatosk_cluster::{Cluster, ClusterId, Config, Tuning};
use ratatosk_rpc::ClusterDiscovery;

use crate::support::{Host, meet};

async fn start(seeds: &[&(Arc<Cluster>, Host)]) -> (Arc<Cluster>, Host) {
    let any = "127.0.0.1:0".parse().expect("an address");
    let mut config = Config::new(SystemClock::new(), "test", any);
    config.cluster = ClusterId::from_number(7);
    config.seeds = seeds.iter().map(|(cluster, _)| cluster.address().to_string()).collect();
    config.tuning = Tuning {
        probe_interval: Duration::from_millis(500),
        probe_timeout: Duration::from_millis(200),
        suspicion: Duration::from_millis(800),
        announce_alone: Duration::from_millis(200),
        ..Tuning::default()
    };
    let cluster = Arc::new(Cluster::start(config).expect("it starts"));
    let discovery = Arc::new(ClusterDiscovery::new(Arc::clone(&cluster), []));
    let id = ClusterDiscovery::identity_of(&cluster);
    let generation = cluster.host().generation;
    let adjust = |config: &mut ratatosk_relay::Config| config.generation = generation;
    let host = Host::start_at(discovery, id, "127.0.0.1:0", adjust).await;
    (cluster, host)
}

/// DIST-014: a host whose process dies is forgotten, and one that takes its place is found.
#[tokio::test]
async fn hosts_of_a_cluster_follow_each_other_until_they_die() {
    let one = start(&[]).await;
    let two = start(&[&one]).await;
    let three = start(&[&one]).await;
    meet(&[&one.1, &two.1, &three.1]).await;
    two.1.sees(two.1.want("a")).await;
    three.1.sees(three.1.want("a")).await;
    assert_eq!(one.1.hosts_of("a").len(), 2);

    let (cluster, host) = two;
    cluster.halt();
    host.relay.stop().await;
    host.node.stop().await;
    one.1.knows(&[three.1.node.host().0]).await;
    assert_eq!(one.1.hosts_of("a"), [three.1.node.host().0]);

    let four = start(&[&one]).await;
    meet(&[&one.1, &three.1, &four.1]).await;
    four.1.sees(four.1.want("b")).await;
    assert_eq!(one.1.hosts_of("b"), [four.1.node.host().0]);
}

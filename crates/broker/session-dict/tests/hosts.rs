//! Nodes that find each other as hosts of a cluster do, and notice by themselves who is gone.

use std::sync::Arc;
use std::time::Duration;

use ratatosk_clock::SystemClock;
use ratatosk_cluster::{Cluster, ClusterId, Config, Tuning};
use ratatosk_contract::session_dict::{EndCause, Registered};
use ratatosk_rpc::ClusterDiscovery;

use crate::support::{Member, Word, session};

struct Host {
    cluster: Arc<Cluster>,
    member: Member,
}

async fn host(seeds: &[&Host]) -> Host {
    let any = "127.0.0.1:0".parse().expect("an address");
    let mut config = Config::new(SystemClock::new(), "test", any);
    config.cluster = ClusterId::from_number(7);
    config.seeds = seeds.iter().map(|host| host.cluster.address().to_string()).collect();
    config.tuning = Tuning {
        probe_interval: Duration::from_millis(500),
        probe_timeout: Duration::from_millis(200),
        suspicion: Duration::from_millis(800),
        announce_alone: Duration::from_millis(200),
        ..Tuning::default()
    };
    let cluster = Arc::new(Cluster::start(config).expect("it starts"));
    let number = ClusterDiscovery::identity_of(&cluster).0;
    let discovery = ClusterDiscovery::new(Arc::clone(&cluster), []);
    let member = Member::with(Arc::new(discovery), number, true).await;
    Host { cluster, member }
}

/// MQTT-042, DICT-004: among hosts of a real cluster a session is taken over, and once a host is dead
/// by the word of the others its sessions are free and its part of the directory is with them.
#[tokio::test]
async fn hosts_of_a_cluster_take_sessions_over_and_outlive_the_death_of_one() {
    const CLIENTS: u32 = 30;
    let one = host(&[]).await;
    let two = host(&[&one]).await;
    let three = host(&[&one, &two]).await;
    for host in [&one, &two, &three] {
        host.member.settles(3, 2).await;
    }
    let name = |client: u32| format!("c{client}");
    for client in 0..CLIENTS {
        [&one, &three][usize::from(client % 2 == 1)].member.own(&name(client), client).await;
    }
    assert_eq!(two.member.claim(&name(0), 100), Registered::Pending);
    let told = |words: &[Word]| words.contains(&Word::Ended(EndCause::TakenOver));
    let desk = &one.member.desk;
    let mut changes = desk.watch();
    let heard = changes.wait_for(|_| told(&desk.words(session(0))));
    assert!(tokio::time::timeout(crate::support::LONG, heard).await.is_ok());
    one.member.remove(&name(0), 0);
    two.member.desk.hears(session(100), &[Word::Granted]).await;
    // Now it is dead, and says nothing of it.
    three.cluster.halt();
    three.member.die().await;
    for host in [&one, &two] {
        host.member.settles(2, 1).await;
    }
    for client in (1..CLIENTS).step_by(2) {
        two.member.own(&name(client), 100 + client).await;
    }
    let identities: Vec<_> =
        (0..CLIENTS).map(|client| crate::support::identity(&name(client))).collect();
    let expected: Vec<_> = (0..CLIENTS)
        .map(|client| match client {
            0 => Some(two.member.owner(100)),
            client if client % 2 == 1 => Some(two.member.owner(100 + client)),
            client => Some(one.member.owner(client)),
        })
        .collect();
    assert_eq!(one.member.dict.locate(&identities).await, expected);
}

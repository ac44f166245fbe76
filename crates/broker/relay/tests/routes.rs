//! What hosts want is known to the others, as long as they live.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ratatosk_contract::PublisherId;
use ratatosk_contract::group::MemberState;
use ratatosk_contract::relay::{IsVisible, Relay as _};
use ratatosk_relay::service_name;
use ratatosk_rpc::{
    Call, Discovery as _, Error, HostId, Hosting, MemoryDiscovery, Receiver, Sender, ServerId,
};
use tokio::time::timeout;

use crate::support::raw::{Frame, Relay, relay_service};
use crate::support::{Host, LONG, filter, meet, member, node, tenant};

/// DIST-009: each host is found once, by the others, however many filters of it match.
#[tokio::test]
async fn hosts_know_what_the_others_want() {
    let discovery = MemoryDiscovery::new();
    let [one, two] = [Host::start(&discovery, 1).await, Host::start(&discovery, 2).await];
    // Before anybody listens, and after.
    let early = two.want("a/+");
    two.want("a/b");
    let three = Host::start(&discovery, 3).await;
    meet(&[&one, &two, &three]).await;
    let late = three.want("#");
    two.sees(early).await;
    three.sees(late).await;
    assert_eq!(one.hosts_of("a/b"), [2, 3]);
    assert_eq!(two.hosts_of("a/b"), [3]);
    assert_eq!(three.hosts_of("a/b"), [2]);
    assert_eq!(one.hosts_of("c"), [3]);

    let gone = three.relay.unwant(&tenant(), &filter("#"));
    three.sees(gone).await;
    assert_eq!(one.hosts_of("a/b"), [2]);
    assert_eq!(two.dist.stats().routes, 0);
}

/// DIST-014: what was sent to it is answered, and nothing of its routes is left.
#[tokio::test]
async fn the_routes_of_a_host_that_dies_vanish() {
    let discovery = MemoryDiscovery::new();
    let mut hosts = Vec::new();
    for id in 1..=3 {
        hosts.push(Host::start(&discovery, id).await);
    }
    let [one, two, three] = &hosts[..] else { unreachable!() };
    meet(&[one, two, three]).await;
    let state = Arc::default();
    three.relay.join(&tenant(), &filter("$share/g/a"), &member(8, &state));
    let wanted = three.want("a");
    three.sees(wanted).await;
    two.sees(two.want("a")).await;
    assert_eq!(one.hosts_of("a"), [2, 3]);
    let before = one.number(3);

    discovery.remove_host(HostId(3));
    one.knows(&[2]).await;
    assert_eq!(one.hosts_of("a"), [2]);
    assert!(one.resolve("a").groups.is_empty());
    assert_eq!(one.dist.stats().hosts, 1);
    let sent = one.send_to(&crate::support::Sketch::new(b"x"), &[before], Some(1));
    assert_eq!((sent.pending, sent.dropped), (0, 1), "a number is never given twice");
}

/// DIST-014: a host that was only believed dead is found again, as it is now.
#[tokio::test]
async fn a_false_alarm_is_made_good() {
    let discovery = MemoryDiscovery::new();
    let [one, two] = [Host::start(&discovery, 1).await, Host::start(&discovery, 2).await];
    meet(&[&one, &two]).await;
    two.want("b");
    two.sees(two.want("a")).await;
    let record = {
        let landscape = discovery.watch(&service_name());
        let landscape = landscape.borrow();
        landscape.servers.values().find(|it| it.host == HostId(2)).expect("it is there").clone()
    };
    discovery.remove_host(HostId(2));
    one.knows(&[]).await;
    assert_eq!(one.dist.stats().routes, 0);
    two.relay.unwant(&tenant(), &filter("b"));
    discovery.announce(record).expect("nobody has its name");
    one.knows(&[2]).await;
    two.sees(two.want("c")).await;
    assert_eq!((one.hosts_of("a"), one.hosts_of("b")), (vec![2], vec![]));
}

/// DIST-014: nobody waits until the cluster has seen that the earlier process is over.
#[tokio::test]
async fn a_later_life_at_an_address_ends_the_earlier_one_at_once() {
    let discovery = MemoryDiscovery::new();
    let [one, two] = [Host::start(&discovery, 1).await, Host::start(&discovery, 2).await];
    meet(&[&one, &two]).await;
    two.sees(two.want("a")).await;
    let landscape = discovery.watch(&service_name());
    let find = |host: &HostId| {
        landscape.borrow().servers.values().find(|it| it.host == *host).cloned().expect("it is")
    };
    let (address, record) = (two.address.to_string(), find(&HostId(2)));
    two.relay.stop().await;
    two.node.stop().await;
    drop(two);
    // The cluster has not seen it.
    discovery.announce(record).expect("nobody has its name");
    let later = Arc::new(discovery.clone());
    let later = Host::start_at(later, HostId(3), &address, |config| config.generation = 2).await;
    one.knows(&[3]).await;
    assert_eq!(one.hosts_of("a"), [0; 0]);
    later.sees(later.want("b")).await;
    assert_eq!(one.hosts_of("b"), [3]);
}

/// DIST-011: a publisher elsewhere chooses among all members, by what it knows of each.
#[tokio::test]
async fn members_of_groups_are_known_with_their_states() {
    let discovery = MemoryDiscovery::new();
    let [one, two] = [Host::start(&discovery, 1).await, Host::start(&discovery, 2).await];
    meet(&[&one, &two]).await;
    let states: Vec<Arc<MemberState>> = (0..2).map(|_| Arc::default()).collect();
    let shared = filter("$share/g/a");
    two.relay.join(&tenant(), &shared, &member(7, &states[0]));
    two.sees(two.relay.join(&tenant(), &shared, &member(8, &states[1]))).await;
    let group = Arc::clone(&one.resolve("a").groups[0]);
    assert_eq!(group.members.iter().map(|it| it.id).collect::<Vec<_>>(), [7, 8]);
    let known = &group.members[0];
    assert_eq!((known.host(), known.subscription_id), (Some(one.number(2)), Some(5)));
    let epoch = one.resolve("a").epoch;

    states[0].full.store(true, Ordering::Relaxed);
    // Seen by those who hold the group already, without a look at dist.
    let noticed = async {
        while !known.state.full.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, noticed).await.expect("in time");
    assert_eq!(one.resolve("a").epoch, epoch);
    let chosen = (0..4).map(|_| group.choose(PublisherId(1), None).expect("somebody").id);
    assert_eq!(chosen.collect::<Vec<_>>(), [8; 4]);

    two.sees(two.relay.leave(&tenant(), &shared, 8, 1)).await;
    assert_eq!(one.resolve("a").groups[0].members.len(), 1);
}

/// A host that counts as alive and follows nobody.
struct Deaf;

impl Relay for Deaf {
    async fn follow(
        &self,
        _call: Call,
        _questions: Receiver<Frame>,
        _answers: Sender<Frame>,
    ) -> Result<(), Error> {
        std::future::pending().await
    }

    async fn deliver(
        &self,
        _call: Call,
        _questions: Receiver<Frame>,
        _answers: Sender<Frame>,
    ) -> Result<(), Error> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn who_waits_for_a_host_that_does_not_follow_is_told_so() {
    let discovery = MemoryDiscovery::new();
    let shared = Arc::new(discovery.clone());
    let one = Host::start_at(shared.clone(), HostId(1), "127.0.0.1:0", |config| {
        config.visible_max = Duration::from_millis(100);
    });
    let one = one.await;
    assert_eq!(one.is_visible(one.want("a")).await, IsVisible::Yes, "nobody is there");
    let (deaf, _registry, _listener) = node(shared, HostId(2), "127.0.0.1:0").await;
    let mut hosting = Hosting::new(ServerId::new(&HostId(2).to_string()).expect("a name"));
    hosting.attributes.insert("generation".to_owned(), "1".to_owned());
    let _serving = deaf.serve(relay_service(&Arc::new(Deaf)), hosting).expect("it is announced");
    one.knows(&[2]).await;
    assert_eq!(one.is_visible(one.want("b")).await, IsVisible::NotInTime);
}

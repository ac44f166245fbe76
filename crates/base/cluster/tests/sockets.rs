//! Hosts over real sockets, on the loopback of this machine.
//!
//! Every wait is for an event, for as long as a busy machine may take; nothing sleeps.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::SystemClock;
use ratatosk_cluster::{
    AgentName, AskError, Audience, Carriage, Cluster, ClusterId, Config, Event, KeyRing, MapKey,
    Refusal, StartError, Tuning, ask_cluster,
};

const LONG: Duration = Duration::from_secs(30);

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn keys(first: u8) -> Option<KeyRing> {
    let line: String = (first..first + 32).map(|byte| format!("{byte:02x}")).collect();
    Some(KeyRing::parse(&line).expect("a key"))
}

fn config(seeds: &[String]) -> Config {
    let mut config = Config::new(SystemClock::new(), "test", loopback(0));
    config.seeds = seeds.to_vec();
    config.cluster = ClusterId::from_number(1);
    config.labels.zone = "here".into();
    // Tests are as impatient as they can be without taking a busy host for dead.
    config.tuning = Tuning { announce_alone: Duration::from_millis(200), ..Tuning::default() };
    config
}

fn start(config: Config) -> Cluster {
    Cluster::start(config).expect("starts")
}

fn seed(cluster: &Cluster) -> Vec<String> {
    vec![cluster.address().to_string()]
}

fn sees(cluster: &Cluster, count: usize) {
    let members = cluster.members();
    let seen = members.wait_until(LONG, |members| {
        members.len() == count && members.iter().all(|member| member.labels.is_some())
    });
    assert!(seen.is_some(), "sees {:?}", members.current());
}

/// CLU-001: hosts form a cluster from a list of seeds.
#[test]
fn hosts_form_a_cluster_from_a_list_of_seeds() {
    let one = start(config(&[]));
    // A seed that is not there does not keep the others from being asked.
    let mut seeds = seed(&one);
    seeds.insert(0, loopback(1).to_string());
    let two = start(config(&seeds));
    let three = start(config(&seed(&two)));
    for cluster in [&one, &two, &three] {
        sees(cluster, 2);
        assert_eq!((cluster.health(), cluster.is_running()), (0, true));
    }
    let zones = one.members().current();
    assert!(zones.iter().all(|it| it.labels.as_ref().is_some_and(|it| it.zone == "here")));
}

/// CLU-002: hosts form a cluster from a name that is looked up.
#[test]
fn hosts_form_a_cluster_from_a_name() {
    let one = start(config(&[]));
    let two = start(config(&[format!("localhost:{}", one.address().port())]));
    sees(&one, 1);
    sees(&two, 1);
}

/// CLU-002: a name that means nothing yet is looked up again, and seeds that are known are asked anyway.
#[test]
fn a_name_that_is_not_found_does_no_harm() {
    let one = start(config(&[]));
    let mut seeds = seed(&one);
    seeds.push("nowhere.invalid:7883".into());
    let two = start(config(&seeds));
    sees(&two, 1);
}

/// Hosts are found over IPv6 as over IPv4, where the machine has it.
#[test]
fn hosts_form_a_cluster_over_ipv6() {
    let mut first = config(&[]);
    first.bind = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0));
    let one = match Cluster::start(first.clone()) {
        Err(StartError::Bind { .. }) => return,
        started => started.expect("starts"),
    };
    first.seeds = seed(&one);
    let two = start(first.clone());
    sees(&one, 1);
    sees(&two, 1);
    // One that listens to both is reached by hosts of IPv4.
    first.bind = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
    first.advertise = Some(loopback(0));
    first.seeds = Vec::new();
    let both = start(first);
    let four = start(config(&seed(&both)));
    sees(&both, 1);
    sees(&four, 1);
}

/// Hosts may be reached elsewhere than they listen, if there is a key to prove who they are.
#[test]
fn hosts_may_be_reached_elsewhere_than_they_listen() {
    let behind = |last: u8, keys: Option<KeyRing>, seeds: &[String]| {
        let mut config = config(seeds);
        config.bind = SocketAddr::from(([0, 0, 0, 0], 0));
        config.advertise = Some(SocketAddr::from(([127, 0, 0, last], 0)));
        config.keys = keys;
        start(config)
    };
    let one = behind(2, keys(1), &[]);
    let two = behind(3, keys(1), &seed(&one));
    sees(&one, 1);
    sees(&two, 1);
    assert_eq!(one.members().current()[0].host.address, two.address());
    let plain = behind(2, None, &[]);
    let _liar = behind(3, None, &seed(&plain));
    refused(&plain, Refusal::Source);
    assert!(plain.members().current().is_empty());
}

/// CLU-003: hosts of another environment never join.
#[test]
fn hosts_of_another_environment_never_join() {
    let one = start(config(&[]));
    let mut foreign = config(&seed(&one));
    foreign.environment = "other".into();
    let foreign = start(foreign);
    refused(&one, Refusal::Environment);
    assert!(one.members().current().is_empty());
    assert!(foreign.members().current().is_empty());
}

/// Waits until something was refused a few times for a reason, and a host that may join has joined
/// meanwhile, so that it is known to work.
fn refused(one: &Cluster, refusal: Refusal) {
    let clock = SystemClock::new();
    while one.counters().refused(refusal) < 3 {
        assert!(clock.now().as_millis() < 30_000, "{refusal:?} was not counted");
        std::thread::yield_now();
    }
}

/// CLU-012: hosts with a key hear none that have not got it.
#[test]
fn hosts_without_the_key_never_join() {
    let mut sealed = config(&[]);
    sealed.keys = keys(1);
    let one = start(sealed.clone());
    sealed.seeds = seed(&one);
    let two = start(sealed.clone());
    sees(&one, 1);
    sees(&two, 1);
    let plain = start(config(&seed(&one)));
    refused(&one, Refusal::Unsealed);
    sealed.keys = keys(2);
    let other = start(sealed);
    refused(&one, Refusal::UnknownKey);
    assert_eq!(one.members().current().len(), 1);
    assert!(plain.members().current().is_empty());
    assert!(other.members().current().is_empty());
}

/// CLU-007: a host that stops in good order has left, and is not taken for dead.
#[test]
fn a_host_that_stops_in_good_order_has_left() {
    let one = start(config(&[]));
    let two = start(config(&seed(&one)));
    sees(&one, 1);
    sees(&two, 1);
    let events = one.subscribe();
    let host = two.host();
    assert!(two.leave(LONG));
    let left = std::iter::from_fn(|| events.recv_timeout(LONG).ok())
        .find(|event| matches!(event, Event::Down { .. }));
    assert_eq!(left, Some(Event::Down { host, has_left: true }));
    sees(&one, 0);
    // Nobody to tell is no reason to wait.
    assert!(one.leave(LONG));
}

/// CLU-008: a process that starts at the address of one that was killed takes its place.
#[test]
fn a_process_at_the_address_of_a_killed_one_takes_its_place() {
    let one = start(config(&[]));
    let two = start(config(&seed(&one)));
    sees(&one, 1);
    sees(&two, 1);
    let (old, address) = (two.host(), two.address());
    two.stop();
    let mut again = config(&seed(&one));
    again.bind = address;
    let again = start(again);
    let new = again.host();
    let seen = one
        .members()
        .wait_until(LONG, |members| members.iter().map(|member| member.host).eq([new]));
    assert!(seen.is_some(), "{:?}", one.members().current());
    assert!(new.id != old.id && new.address == old.address);
    sees(&again, 1);
}

/// CLU-001: a host without a cluster takes that of whom it joins, and says so once.
#[test]
fn a_host_takes_the_cluster_of_whom_it_joins() {
    let one = start(config(&[]));
    let mut newcomer = config(&seed(&one));
    newcomer.cluster = None;
    let newcomer = start(newcomer);
    sees(&newcomer, 1);
    sees(&one, 1);
    assert_eq!(newcomer.cluster_id(), one.cluster_id());
    let other = ClusterId::from_number(2).expect("not zero");
    assert_eq!(newcomer.set_cluster_id(other), Err(one.cluster_id().expect("has one")));
}

/// CLU-007, CLU-010: what fits no datagram goes by TCP: records, entries, messages.
#[test]
fn what_fits_no_datagram_goes_by_tcp() {
    for keys in [None, keys(1)] {
        let mut first = config(&[]);
        first.keys = keys.clone();
        let one = start(first);
        let mut second = config(&seed(&one));
        second.keys = keys;
        let two = start(second);
        sees(&one, 1);
        sees(&two, 1);
        let name = |instance| AgentName::new("service", instance).expect("a name");
        let seen = two.agents("service");
        let a = one.register(name("a"), vec![1; 16_000].into()).expect("room");
        let b = two.register(name("b"), Bytes::new()).expect("room");
        assert!(seen.wait_until(LONG, |agents| agents.len() == 2).is_some());
        assert!(one.agents("service").wait_until(LONG, |agents| agents.len() == 2).is_some());
        a.update(vec![2; 12_000].into()).expect("room");
        let is_new = |bytes: &Bytes| bytes.len() == 12_000;
        let updated = seen.wait_until(LONG, |agents| agents.values().any(|it| is_new(&it.bytes)));
        assert!(updated.is_some());
        for (length, carriage) in [(10, Carriage::Datagram), (200_000, Carriage::Datagram)] {
            let body = Bytes::from(vec![7; length]);
            a.send(&Audience::One(b.address()), &body, carriage).expect("is there");
            let got = b.messages().recv_timeout(LONG).expect("comes");
            assert_eq!((got.from, got.body), (a.address(), body));
        }
        let key = MapKey::new("rules", b"tenant").expect("a key");
        one.write(&key, Some(vec![3; 15_000].into())).expect("room");
        let rules = two.space("rules");
        assert!(rules.wait_until(LONG, |rules| rules.len() == 1).is_some());
        // As much as a frame takes, and more.
        for entry in 0..99_u8 {
            let key = MapKey::new("rules", &[entry]).expect("a key");
            one.write(&key, Some(vec![4; 15_000].into())).expect("room");
        }
        assert!(rules.wait_until(LONG, |rules| rules.len() == 100).is_some());
        drop(a);
        assert!(seen.wait_until(LONG, |agents| agents.len() == 1).is_some());
    }
}

/// CLU-010: an agent that takes nothing loses what is too much, and it is counted.
#[test]
fn an_agent_that_takes_nothing_does_not_fill_the_memory() {
    let one = start(config(&[]));
    let name = |instance| AgentName::new("service", instance).expect("a name");
    let a = one.register(name("a"), Bytes::new()).expect("room");
    let b = one.register(name("b"), Bytes::new()).expect("room");
    for _ in 0..1_000 {
        let all = Audience::Service("service".into());
        a.send(&all, &Bytes::from_static(b"x"), Carriage::Datagram).expect("is there");
    }
    refused(&one, Refusal::Undelivered);
    assert!(b.messages().recv_timeout(LONG).is_ok());
    assert!(a.messages().try_recv().is_err(), "nobody hears itself");
}

/// Strangers at the port are turned away: garbage, too long, half open, too many.
#[test]
fn strangers_at_the_port_are_turned_away() {
    let mut impatient = config(&[]);
    impatient.tuning.stream_time = Duration::from_secs(2);
    let one = start(impatient);
    let udp = UdpSocket::bind(loopback(0)).expect("a socket");
    for length in [0, 1, 47, 1400, 1401, 60_000] {
        udp.send_to(&vec![b'R'; length], one.address()).expect("is sent");
    }
    let mut web = TcpStream::connect(one.address()).expect("connects");
    web.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("is sent");
    let ended = web.read(&mut [0; 1]);
    assert!(matches!(ended, Ok(0) | Err(_)), "it is closed");
    let crowd: Vec<TcpStream> =
        (0..80).map(|_| TcpStream::connect(one.address()).expect("connects")).collect();
    let clock = SystemClock::new();
    let refused = |count| one.counters().count(count);
    while refused(ratatosk_cluster::Count::StreamsRefused) < 16 {
        assert!(clock.now().as_millis() < 30_000, "the crowd was let in");
        std::thread::yield_now();
    }
    // Those that prove nothing make room, and are closed when their time is over.
    let two = start(config(&seed(&one)));
    sees(&one, 1);
    sees(&two, 1);
    for mut stream in crowd {
        stream.set_read_timeout(Some(LONG)).expect("is set");
        assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
    assert!(one.counters().refused(Refusal::Magic) >= 4);
    assert!(one.counters().refused(Refusal::Oversized) >= 2);
}

/// What makes no sense is said before a socket opens, or when it does not.
#[test]
fn what_is_wrong_with_a_configuration_is_said_at_the_start() {
    let error = |config| Cluster::start(config).expect_err("is refused");
    let mut everywhere = config(&[]);
    everywhere.bind = SocketAddr::from(([0, 0, 0, 0], 0));
    assert!(matches!(error(everywhere.clone()), StartError::Unreachable { .. }));
    // Listening everywhere is fine for who says where it is reached.
    everywhere.advertise = Some(loopback(0));
    let one = start(everywhere);
    assert_eq!(one.address().ip(), loopback(0).ip());
    let mut taken = config(&[]);
    taken.bind = one.address();
    assert!(matches!(error(taken), StartError::Bind { .. }));
    assert!(matches!(error(config(&["nowhere".into()])), StartError::Seed { .. }));
    let mut zone = config(&[]);
    zone.labels.zone = "z".repeat(65);
    assert!(matches!(error(zone), StartError::Label(_)));
    let mut tuning = config(&[]);
    tuning.tuning.probe_timeout = tuning.tuning.probe_interval;
    assert!(matches!(error(tuning), StartError::Tuning { .. }));
}

/// CLU-003, CLU-012: a seed is asked for its cluster without being joined, by who has its environment and
/// key.
#[test]
fn a_seed_is_asked_for_its_cluster() {
    let ask = |cluster: &Cluster, environment, keys: Option<KeyRing>| {
        let seed = cluster.address().to_string();
        ask_cluster(&seed, environment, keys.as_ref(), LONG)
    };
    let open = start(config(&[]));
    let none = start(Config { cluster: None, ..config(&[]) });
    let closed = start(Config { keys: keys(1), ..config(&[]) });
    let cluster = ClusterId::from_number(1);
    assert_eq!(ask(&open, "test", None).ok(), Some(cluster));
    assert_eq!(ask(&none, "test", None).ok(), Some(None));
    assert_eq!(ask(&closed, "test", keys(1)).ok(), Some(cluster));
    for refused in
        [ask(&open, "other", None), ask(&closed, "test", None), ask(&closed, "test", keys(2))]
    {
        assert!(matches!(refused, Err(AskError::Refused)), "{refused:?}");
    }
    assert!(matches!(ask_cluster("127.0.0.1:1", "test", None, LONG), Err(AskError::Io(_))));
    assert!(open.members().current().is_empty(), "nobody has joined");
}

//! Modes and traffic rules, as properties over made-up landscapes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{Router, ServerIndex};
use crate::identity::{Group, HostId, ServerId, ServiceName, Tenant, Version};
use crate::landscape::{Landscape, ServerRecord};
use crate::traffic::{Rules, Scope, Shares, Weight, pinned_to};

fn group(name: &str) -> Group {
    Group::new(name).expect("a group")
}

fn tenant(name: &str) -> Tenant {
    Tenant::new(name).expect("a tenant")
}

fn weight(value: u8) -> Weight {
    Weight::new(value).expect("a weight")
}

fn record(id: &str, groups: &[&str]) -> ServerRecord {
    ServerRecord {
        service: ServiceName::new("test.Service").expect("a service"),
        id: ServerId::new(id).expect("a server"),
        host: HostId(0),
        address: None,
        groups: groups.iter().map(|name| group(name)).collect(),
        attributes: BTreeMap::new(),
        version: Version::CURRENT,
    }
}

fn landscape(servers: &[(&str, &[&str])], rules: &[(Scope, &[(&str, u8)])]) -> Landscape {
    let servers = servers.iter().map(|(id, groups)| {
        let record = record(id, groups);
        (record.id.clone(), record)
    });
    let mut all = Rules::default();
    for (scope, shares) in rules {
        all.set(scope.clone(), shares.iter().map(|(name, w)| (group(name), weight(*w))).collect());
    }
    Landscape { servers: servers.collect(), rules: all }
}

fn router(landscape: &Landscape) -> Router {
    Router::new(landscape, Version::CURRENT)
}

fn name(router: &Router, server: Option<ServerIndex>) -> Option<&str> {
    server.map(|index| router.servers()[index.0].id.as_str())
}

/// The names of the servers that work for a tenant.
fn workers<'a>(router: &'a Router, of: &str) -> Vec<&'a str> {
    let pool = router.pool(router.pool_of(&tenant(of)));
    pool.servers().filter_map(|server| name(router, Some(server))).collect()
}

/// A pool of weighted servers: server `s{i}` is in group `g{i}` with the i-th weight.
fn weighted(weights: &[u8]) -> Landscape {
    let mut rules = Rules::default();
    let mut shares = Shares::new();
    let mut servers = BTreeMap::new();
    for (index, value) in weights.iter().enumerate() {
        let group_name = format!("g{index}");
        shares.insert(group(&group_name), weight(*value));
        let server = record(&format!("s{index}"), &[&group_name]);
        servers.insert(server.id.clone(), server);
    }
    rules.set(Scope::Prefix(tenant("")), shares);
    Landscape { servers, rules }
}

fn every(_: ServerIndex) -> bool {
    true
}

/// RPC-005: the longest prefix counts, and a rule for the name comes before all prefixes.
#[test]
fn the_longest_prefix_of_a_tenant_chooses_its_groups() {
    let landscape = landscape(
        &[("a", &["gold"]), ("b", &["silver"]), ("c", &[]), ("d", &["gold", "silver"])],
        &[
            (Scope::Prefix(tenant("ac")), &[("silver", 5)]),
            (Scope::Prefix(tenant("acme")), &[("gold", 10)]),
            (Scope::Tenant(tenant("acme-test")), &[("", 1)]),
            (Scope::Prefix(tenant("é")), &[("gold", 1)]),
        ],
    );
    let router = router(&landscape);
    let cases: [(&str, &[&str]); 9] = [
        ("acme", &["a", "d"]),
        ("acme-eu", &["a", "d"]),
        ("acme-test", &["c"]),
        ("acme-test2", &["a", "d"]),
        ("acm", &["b", "d"]),
        ("a", &["c"]),
        ("", &["c"]),
        ("élan", &["a", "d"]),
        ("è", &["c"]),
    ];
    for (tenant, expected) in cases {
        assert_eq!(workers(&router, tenant), expected, "tenant {tenant:?}");
    }
}

/// RPC-006: a pin is a rule for one name, and takes nobody else along.
#[test]
fn a_pinned_tenant_has_its_group_to_itself() {
    let mut landscape = landscape(&[("a", &["own"]), ("b", &[])], &[]);
    assert_eq!(workers(&router(&landscape), "acme"), ["b"]);
    landscape.rules.set(Scope::Tenant(tenant("acme")), pinned_to(group("own")));
    assert_eq!(workers(&router(&landscape), "acme"), ["a"]);
    assert_eq!(workers(&router(&landscape), "acme2"), ["b"]);
    assert!(landscape.rules.remove(&Scope::Tenant(tenant("acme"))));
    assert_eq!(workers(&router(&landscape), "acme"), ["b"]);
}

/// RPC-005: a rule without a living server leaves its tenants without one.
#[test]
fn a_rule_does_not_fall_back_to_other_groups() {
    let rules = [(Scope::Prefix(tenant("t")), &[("gone", 10), ("off", 0)][..])];
    let landscape = landscape(&[("a", &[]), ("b", &["off"])], &rules);
    let router = router(&landscape);
    let pool = router.pool(router.pool_of(&tenant("t1")));
    assert!(pool.is_empty());
    assert_eq!(pool.random(7, every), None);
    assert_eq!(pool.round_robin(7, every), None);
    assert_eq!(pool.hashed(b"key"), None);
    assert_eq!(pool.rendezvous(b"key"), None);
}

#[test]
fn servers_of_a_version_out_of_reach_are_left_out() {
    let mut landscape = landscape(&[("a", &[]), ("b", &[])], &[]);
    let stranger = Version { major: 9, minor: 0 };
    for (id, record) in &mut landscape.servers {
        if id.as_str() == "b" {
            record.version = stranger;
        }
    }
    let router = router(&landscape);
    assert_eq!(workers(&router, "t"), ["a"]);
    assert_eq!(router.barred(), Some(stranger));
    assert_eq!(router.server("b"), None);
}

/// RPC-003: the same names give the same choice in every build.
#[test]
fn choices_for_a_key_never_change_between_releases() {
    let landscape = landscape(&[("a", &[]), ("b", &[]), ("c", &[]), ("d", &[])], &[]);
    let router = router(&landscape);
    let pool = router.pool(router.pool_of(&tenant("t")));
    let of = |server| name(&router, server).unwrap_or("-");
    let keys = ["", "one", "two", "three", "four", "five", "six", "seven"];
    let ring: String = keys.iter().map(|key| of(pool.hashed(key.as_bytes()))).collect();
    let best: String = keys.iter().map(|key| of(pool.rendezvous(key.as_bytes()))).collect();
    assert_eq!((ring.as_str(), best.as_str()), ("cacadcdd", "adbcacdd"));
}

/// What each server gets of `count` choices.
fn shares(router: &Router, count: u64, choose: impl Fn(u64) -> Option<ServerIndex>) -> Vec<f64> {
    let mut counts = vec![0_u32; router.servers().len()];
    for number in 0..count {
        counts[choose(number).expect("a server").0] += 1;
    }
    counts.iter().map(|n| f64::from(*n) / count as f64).collect()
}

fn weights() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..=10_u8, 1..9)
        .prop_filter("somebody must work", |weights| weights.iter().any(|w| *w > 0))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// RPC-003, RPC-005: every mode shares by weight, and weight 0 gets nothing.
    #[test]
    fn every_mode_shares_by_weight(weights in weights(), seed: u64) {
        let landscape = weighted(&weights);
        let router = router(&landscape);
        let pool = router.pool(router.pool_of(&tenant("t")));
        let total: u32 = weights.iter().map(|w| u32::from(*w)).sum();
        let key = |n: u64| (seed ^ n).to_le_bytes();
        let draws = crate::draw::Draws::new(seed);
        let modes = [
            ("random", shares(&router, 20_000, |_| pool.random(draws.next(), every)), 0.02),
            ("turns", shares(&router, u64::from(total), |n| pool.round_robin(n, every)), 1e-9),
            ("ring", shares(&router, 20_000, |n| pool.hashed(&key(n))), 0.15),
            ("rendezvous", shares(&router, 20_000, |n| pool.rendezvous(&key(n))), 0.02),
        ];
        for (mode, shares, tolerance) in modes {
            for (share, weight) in shares.iter().zip(&weights) {
                let due = f64::from(*weight) / f64::from(total);
                prop_assert!((share - due).abs() <= tolerance, "{mode}: {share} instead of {due}");
                prop_assert!(*weight > 0 || *share == 0.0, "{mode}: weight 0 got {share}");
            }
        }
    }

    /// RPC-004: a server that joins takes about its share of the keys, and no other key moves.
    #[test]
    fn only_the_share_of_a_newcomer_moves(count in 1..30_u32, seed: u64) {
        let names: Vec<String> = (0..=count).map(|n| format!("{seed:x}-{n}")).collect();
        let servers: Vec<(&str, &[&str])> = names.iter().map(|n| (n.as_str(), &[][..])).collect();
        let newcomer = names[count as usize].as_str();
        let (few, more) = (landscape(&servers[..count as usize], &[]), landscape(&servers, &[]));
        let (few, more) = (router(&few), router(&more));
        let (before, after) = (few.pool(few.pool_of(&tenant("t"))), more.pool(more.pool_of(&tenant("t"))));
        let keys = 4_000_u32;
        let mut moved = [0_u32; 2];
        for number in 0..keys {
            let key = number.to_le_bytes();
            let pairs = [
                (name(&few, before.hashed(&key)), name(&more, after.hashed(&key))),
                (name(&few, before.rendezvous(&key)), name(&more, after.rendezvous(&key))),
            ];
            for (mode, (old, new)) in pairs.into_iter().enumerate() {
                if old != new {
                    prop_assert_eq!(new, Some(newcomer));
                    moved[mode] += 1;
                }
            }
        }
        for moved in moved {
            let share = f64::from(moved) / f64::from(keys) * f64::from(count + 1);
            prop_assert!((0.5..=1.6).contains(&share), "{share} of 1/{}", count + 1);
        }
    }

    /// RPC-002: what cannot be used is passed over, in every mode that has a choice.
    #[test]
    fn unusable_servers_are_passed_over(weights in weights(), mask: u8, number: u64) {
        let landscape = weighted(&weights);
        let router = router(&landscape);
        let pool = router.pool(router.pool_of(&tenant("t")));
        let usable: BTreeSet<usize> =
            pool.servers().map(|s| s.0).filter(|s| mask & (1 << s) != 0).collect();
        let is_usable = |server: ServerIndex| usable.contains(&server.0);
        for chosen in [pool.random(number, is_usable), pool.round_robin(number, is_usable)] {
            let chosen = chosen.expect("somebody works");
            prop_assert!(usable.is_empty() || is_usable(chosen));
            prop_assert!(pool.has(chosen));
        }
    }

    /// RPC-003: turns of a server are spread: it never waits for two rounds of its own.
    #[test]
    fn turns_are_spread_evenly(weights in weights()) {
        let landscape = weighted(&weights);
        let router = router(&landscape);
        let pool = router.pool(router.pool_of(&tenant("t")));
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        for server in pool.servers() {
            let weight = u64::from(weights[server.0]);
            let turns: Vec<u64> =
                (0..2 * total).filter(|n| pool.round_robin(*n, every) == Some(server)).collect();
            let longest = turns.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(total);
            let others = pool.servers().map(|_| 1).sum::<u64>();
            prop_assert!(longest <= total.div_ceil(weight) + others);
        }
    }
}

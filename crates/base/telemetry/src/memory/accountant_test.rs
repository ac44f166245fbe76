//! That charges sum up, release to zero, and make the pressure they should.

use super::{Accountant, NODE_TENANT};
use crate::ByteCount;
use crate::memory::batch::step;
use crate::memory::{Account, Pressure, Share, post_changes, register};
use crate::metric::Registry;

const LIMIT: ByteCount = ByteCount::mebibytes(1);

/// MEM-002: every tenant's memory is known, and the tenants' sum is the process's.
#[test]
fn charges_are_known_by_tenant_and_share() {
    let accountant = Accountant::new(LIMIT);
    let (small, large) = (accountant.account("small"), accountant.account("large"));
    let node = accountant.account(NODE_TENANT);
    small.charge(Share::Queues, 10);
    large.charge(Share::Queues, 1_000);
    large.charge(Share::Retained, 500);
    node.charge(Share::Overlay, 100);
    small.release(Share::Queues, 4);
    let snapshot = accountant.snapshot();
    let tenants: Vec<_> =
        snapshot.tenants.iter().map(|charge| (&*charge.tenant, charge.total().bytes())).collect();
    assert_eq!(tenants, [("large", 1_500), (NODE_TENANT, 100), ("small", 6)]);
    assert_eq!(snapshot.charged[Share::Queues.index()], ByteCount::new(1_006));
    assert_eq!(accountant.charged(), ByteCount::new(1_606));
    assert_eq!(&*accountant.largest(1)[0].tenant, "large");
}

/// MEM-001: pressure rises at once, in order, is counted, and falls with hysteresis.
#[test]
fn pressure_follows_charges() {
    let accountant = Accountant::new(ByteCount::new(1_000_000));
    let account = accountant.account("t");
    let mut seen = Vec::new();
    for _ in 0..20 {
        account.charge(Share::Queues, 50_000);
        if seen.last() != Some(&accountant.pressure()) {
            seen.push(accountant.pressure());
        }
    }
    assert_eq!(seen, Pressure::ALL);
    account.release(Share::Queues, 60_000);
    assert_eq!(accountant.pressure(), Pressure::RefuseConnect, "not yet below the lower mark");
    account.release(Share::Queues, 600_000);
    assert_eq!(accountant.pressure(), Pressure::None);
    assert_eq!(accountant.snapshot().entered, [0, 1, 1, 1, 1]);
}

/// MEM-001: what the allocator holds beyond the charges counts, and so does a burst between two
/// observations.
#[test]
fn pressure_follows_the_resident_size_and_what_was_charged_since() {
    let accountant = Accountant::new(ByteCount::new(1_000_000));
    let account = accountant.account("t");
    account.charge(Share::Queues, 100_000);
    assert_eq!(accountant.observe_rss(ByteCount::new(800_000)), Pressure::Caches);
    account.charge(Share::Connections, 128_000);
    assert_eq!(accountant.pressure(), Pressure::RefuseConnect);
    assert_eq!(accountant.snapshot().used, ByteCount::new(960_000));
    assert_eq!(accountant.observe_rss(ByteCount::new(500_000)), Pressure::None);
}

/// MEM-002: a thread hides less than a step, whatever it does to however many accounts.
#[test]
fn a_thread_posts_large_changes_at_once_and_small_ones_together() {
    let accountant = Accountant::new(LIMIT);
    let step = usize::try_from(step(LIMIT.bytes())).unwrap();
    let account = accountant.account("t");
    let mut hold = account.hold(Share::Queues, step);
    assert_eq!(accountant.charged(), ByteCount::ZERO);
    hold.resize(step + 1);
    assert_eq!(accountant.charged(), ByteCount::new(step as u64 + 1));
    let others: Vec<_> = (0..100).map(|number| accountant.account(&number.to_string())).collect();
    let holds: Vec<_> = others.iter().map(|account| account.hold(Share::Queues, 100)).collect();
    let hidden = (step + 1 + 100 * holds.len()) as u64 - accountant.charged().bytes();
    assert!(hidden <= step as u64, "{hidden} bytes are hidden");
    drop((hold, holds));
    post_changes();
    assert_eq!(accountant.charged(), ByteCount::ZERO);
}

/// MEM-001: what many share is charged once, until the last of them drops it, wherever that is.
#[test]
fn shared_bytes_are_charged_once_until_the_last_holder_goes() {
    let accountant = Accountant::new(LIMIT);
    let account = accountant.account("t");
    let whole = account.keep(Share::Queues, vec![7; 100_000], 100_000);
    let parts: Vec<_> = (0..1_000).map(|_| whole.slice(10..50_000)).collect();
    drop(whole);
    post_changes();
    assert_eq!(accountant.charged(), ByteCount::new(100_000));
    std::thread::spawn(move || {
        assert_eq!(&parts[999][..2], [7, 7]);
        drop(parts);
    })
    .join()
    .unwrap();
    assert_eq!(accountant.charged(), ByteCount::ZERO);
}

#[test]
fn a_hold_moves_with_its_owner_to_another_tenant() {
    let accountant = Accountant::new(LIMIT);
    let (unknown, known) = (accountant.account(""), accountant.account("acme"));
    let mut hold = unknown.hold(Share::Connections, 10_000);
    hold.move_to(known.clone());
    post_changes();
    assert_eq!((hold.bytes(), hold.account().tenant()), (10_000, "acme"));
    let held = |account: &Account| account.charged().total().bytes();
    assert_eq!((held(&unknown), held(&known)), (0, 10_000));
}

/// MEM-001: what threads hide from each other is little beside the smallest limit.
#[test]
fn the_step_follows_the_limit() {
    assert_eq!(step(16 << 20), 16 << 10);
    assert_eq!(step(512 << 20), 64 << 10);
    assert_eq!(step(0), 4 << 10);
}

#[test]
fn concurrent_charges_sum_up_and_release_to_zero() {
    let accountant = Accountant::new(ByteCount::mebibytes(64));
    let tenants = ["a", "b", "c"];
    let held: Vec<_> = tenants.iter().map(|tenant| accountant.account(tenant)).collect();
    let run = |sign: bool| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..3_000_usize {
                        let account = accountant.account(tenants[round % tenants.len()]);
                        let share = Share::ALL[round % Share::ALL.len()];
                        let (before, after) = if sign { (0, round) } else { (round, 0) };
                        account.adjust(share, before, after);
                    }
                    post_changes();
                });
            }
        });
    };
    run(true);
    let expected = ByteCount::new(4 * (0..3_000).sum::<u64>());
    assert_eq!(accountant.charged(), expected);
    let by_tenant: u64 =
        accountant.snapshot().tenants.iter().map(|charge| charge.total().bytes()).sum();
    assert_eq!(by_tenant, expected.bytes());
    run(false);
    assert_eq!(accountant.charged(), ByteCount::ZERO);
    assert!(held.iter().all(|account| account.charged().total() == ByteCount::ZERO));
}

#[test]
fn a_release_that_overtakes_its_charge_reads_as_zero() {
    let accountant = Accountant::new(LIMIT);
    let account = accountant.account("t");
    account.release(Share::Queues, 10);
    assert_eq!(accountant.charged(), ByteCount::ZERO);
    account.charge(Share::Queues, 15);
    assert_eq!(accountant.charged(), ByteCount::new(5));
}

#[test]
fn what_a_vanished_account_never_released_is_taken_from_the_totals() {
    let accountant = Accountant::new(LIMIT);
    let account = accountant.account("t");
    account.charge(Share::Queues, 10);
    assert_eq!(accountant.account("t").charged().total(), ByteCount::new(10));
    drop(account);
    assert_eq!(accountant.charged(), ByteCount::ZERO);
    assert!(accountant.snapshot().tenants.is_empty());
}

#[test]
fn accounts_of_tenants_that_left_do_not_pile_up() {
    let accountant = Accountant::new(LIMIT);
    for index in 0..10_000 {
        drop(accountant.account(&format!("tenant-{index}")));
    }
    assert!(accountant.books.accounts.lock().by_tenant.len() <= super::SWEEP_MIN);
}

/// MEM-002, MET-014: the metrics carry the sum per tenant and share.
#[test]
fn the_metrics_say_what_the_accountant_knows() {
    let (accountant, registry) = (Accountant::new(LIMIT), Registry::new(10));
    register(&accountant, &registry);
    let account = accountant.account("acme");
    account.charge(Share::Queues, 1_000_000);
    accountant.observe_rss(ByteCount::new(7));
    let page = registry.render();
    for line in [
        "ratatosk_memory_limit_bytes 1048576",
        "ratatosk_memory_resident_bytes 7",
        "ratatosk_memory_charged_bytes{tenant=\"acme\",share=\"queues\"} 1000000",
        "ratatosk_memory_pressure_level 4",
        "ratatosk_memory_pressure_entries_total{level=\"qos0\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
}

#[test]
fn the_excess_is_what_lies_above_the_mark_of_the_readers() {
    let accountant = Accountant::new(ByteCount::new(1_000));
    let account = accountant.account("a");
    account.charge(Share::Connections, 900);
    assert_eq!(accountant.excess(), ByteCount::ZERO);
    account.charge(Share::Connections, 77);
    assert_eq!(accountant.excess(), ByteCount::new(77));
}

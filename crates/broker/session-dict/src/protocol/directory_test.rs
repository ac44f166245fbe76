//! A server by itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use ratatosk_clock::{Instant, Timestamp};
use ratatosk_contract::{ClientId, SessionIdentity, SessionRef, ShardId, TenantId};

use super::{Directory, Location};
use crate::protocol::{Begun, Host, Question, Registration, Reply, Stamp, Time, View, ViewId};

const ME: Host = Host(1);
const OTHER: Host = Host(2);
const TIME: Time = Time { now: Instant::ZERO, wall: Timestamp::from_millis(1) };

fn hosts(all: &[Host]) -> BTreeSet<Host> {
    all.iter().copied().collect()
}

fn view(nodes: &[Host]) -> View {
    View::new(&hosts(&[ME]), &hosts(nodes))
}

fn directory(nodes: &[Host]) -> Directory {
    let mut directory = Directory::new(ME);
    directory.set_members(view(nodes), &hosts(nodes));
    directory
}

fn identity(client: &str) -> Arc<SessionIdentity> {
    let (tenant, client) = (TenantId::new("t"), ClientId::new(client));
    Arc::new(SessionIdentity { tenant, user: None, client })
}

fn session(slot: u32) -> SessionRef {
    SessionRef { shard: ShardId(0), slot, generation: 0 }
}

fn register(
    directory: &mut Directory,
    from: Host,
    client: &str,
    stamp: u64,
    is_claim: bool,
) -> Reply {
    let view = directory.view.id();
    let (identity, session) = (identity(client), session(u32::try_from(from.0).unwrap()));
    let stamp = Stamp(stamp);
    let question = Question::Register { view, identity, session, stamp, is_claim };
    directory.step(TIME, from, &question)
}

fn begin(
    directory: &mut Directory,
    from: Host,
    view: ViewId,
    base: Option<ViewId>,
) -> (Begun, u64) {
    match directory.step(TIME, from, &Question::Begin { view, base }) {
        Reply::Begun(begun, round) => (begun, round),
        other => panic!("{other:?}"),
    }
}

fn commit(directory: &mut Directory, from: Host, view: ViewId, round: u64) -> Reply {
    directory.step(TIME, from, &Question::Commit { view, round })
}

fn is_complete(reply: &Reply) -> bool {
    matches!(reply, Reply::Registered { is_complete: true, .. })
}

/// DICT-001: a claim is newer than all that is registered, whatever its node's clock says; who registers
/// again keeps its stamp.
#[test]
fn a_claim_gets_a_stamp_above_all_others() {
    let mut directory = directory(&[ME, OTHER]);
    let first = register(&mut directory, OTHER, "c", 900 << 16, true);
    assert!(matches!(first, Reply::Registered { stamp: Stamp(stamp), .. } if stamp == 900 << 16));
    let Reply::Registered { stamp, others, .. } = register(&mut directory, ME, "c", 5, true) else {
        panic!("it is registered")
    };
    assert!(stamp > Stamp(900 << 16));
    let other = Registration { host: OTHER, session: session(2), stamp: Stamp(900 << 16) };
    assert_eq!(others, [other]);
    assert_eq!(directory.find(&identity("c")).map(|found| found.host), Some(ME));
    let again = register(&mut directory, OTHER, "c", 900 << 16, false);
    assert!(matches!(again, Reply::Registered { stamp: Stamp(stamp), .. } if stamp == 900 << 16));
    assert_eq!(directory.find(&identity("c")).map(|found| found.host), Some(ME));
    let remove = Question::Remove { identity: identity("c"), host: ME, stamp: Some(Stamp(5)) };
    directory.step(TIME, OTHER, &remove);
    assert_eq!(directory.find(&identity("c")).map(|found| found.host), Some(ME), "another one");
    let remove = Question::Remove { identity: identity("c"), host: ME, stamp: None };
    directory.step(TIME, ME, &remove);
    assert_eq!(directory.find(&identity("c")).map(|found| found.host), Some(OTHER));
}

/// DICT-004: a server says that it knows all only while every node that it sees has told all, by the
/// view that the server has and since it has it.
#[test]
fn a_server_is_complete_once_every_node_has_committed() {
    let both = [ME, OTHER];
    let mut directory = directory(&both);
    let of_both = view(&both).id();
    for host in both {
        assert!(!is_complete(&register(&mut directory, ME, "c", 1, true)));
        let (begun, round) = begin(&mut directory, host, of_both, None);
        assert_eq!(begun, Begun::All);
        assert_eq!(commit(&mut directory, host, of_both, round), Reply::Committed);
    }
    assert!(is_complete(&register(&mut directory, ME, "c", 1, true)));
    let third = [ME, OTHER, Host(3)];
    directory.set_members(view(&third), &hosts(&third));
    assert!(!is_complete(&register(&mut directory, ME, "c", 1, true)));
    // The view comes back: what was said before may have been overtaken.
    directory.set_members(view(&both), &hosts(&both));
    assert!(!is_complete(&register(&mut directory, ME, "c", 1, true)));
    for host in both {
        assert_eq!(begin(&mut directory, host, of_both, Some(of_both)).0, Begun::Nothing);
    }
    assert!(is_complete(&register(&mut directory, ME, "c", 1, true)));
    // A node that has told others in between tells the rest.
    let (begun, round) = begin(&mut directory, OTHER, view(&third).id(), Some(of_both));
    assert_eq!(begun, Begun::Rest);
    assert_eq!(commit(&mut directory, OTHER, view(&third).id(), round), Reply::Committed);
    assert!(!is_complete(&register(&mut directory, ME, "c", 1, true)));
}

/// What a host had registered that is not seen any more does not count, nor does what comes of it, nor
/// what it does not tell again when it is back.
#[test]
fn registrations_of_the_dead_do_not_count() {
    let both = [ME, OTHER];
    let mut directory = directory(&both);
    register(&mut directory, OTHER, "c", 1, true);
    register(&mut directory, OTHER, "d", 1, true);
    directory.set_members(view(&[ME]), &hosts(&[ME]));
    assert_eq!(directory.find(&identity("c")), None);
    assert_eq!(register(&mut directory, OTHER, "e", 1, true), Reply::Stranger);
    directory.set_members(view(&both), &hosts(&both));
    assert_eq!(directory.find(&identity("c")), None);
    let (_, stale) = begin(&mut directory, OTHER, view(&both).id(), None);
    let (begun, round) = begin(&mut directory, OTHER, view(&both).id(), None);
    assert_eq!(begun, Begun::All);
    register(&mut directory, OTHER, "d", 1, false);
    assert_eq!(commit(&mut directory, OTHER, view(&both).id(), stale), Reply::Stranger);
    assert_eq!(commit(&mut directory, OTHER, view(&both).id(), round), Reply::Committed);
    assert_eq!(directory.find(&identity("c")), None);
    assert!(directory.find(&identity("d")).is_some());
    assert_eq!(directory.len(), 2);
    directory.sweep(100);
    assert_eq!(directory.len(), 1, "what does not count is thrown away");
}

/// What belongs elsewhere is not listed, and is kept until everybody has told it there.
#[test]
fn what_belongs_to_another_server_goes_when_all_have_told_it() {
    let both = [ME, OTHER];
    let mut directory = directory(&both);
    for number in 0..200 {
        register(&mut directory, OTHER, &format!("c{number:03}"), 1, true);
    }
    let two = View::new(&hosts(&both), &hosts(&both));
    directory.set_members(two.clone(), &hosts(&both));
    let (listed, is_all) = directory.list(&TenantId::new("t"), None, 1_000);
    assert!(is_all && (50..150).contains(&listed.len()), "{}", listed.len());
    let mut paged: Vec<Location> = Vec::new();
    loop {
        let after = paged.last().map(|last| last.identity.clone());
        let (page, is_all) = directory.list(&TenantId::new("t"), after.as_ref(), 7);
        paged.extend(page);
        if is_all {
            break;
        }
    }
    assert_eq!(paged, listed);
    (0..50).for_each(|_| directory.sweep(9));
    assert_eq!(directory.len(), 200);
    for host in both {
        let (_, round) = begin(&mut directory, host, two.id(), None);
        for location in listed.iter().filter(|_| host == OTHER) {
            let client = location.identity.client.as_str();
            register(&mut directory, OTHER, client, 1, false);
        }
        commit(&mut directory, host, two.id(), round);
    }
    (0..50).for_each(|_| directory.sweep(9));
    assert_eq!(directory.len(), listed.len());
    assert_eq!(directory.list(&TenantId::new("t"), None, 1_000).0.len(), listed.len());
}

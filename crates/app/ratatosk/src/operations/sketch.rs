//! From what stores and hosts tell to what operators are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ratatosk_admin::cluster::{
    Bounds, Following, Host, HostState, Keepers, Leader, Loss, Range, RangeState, Reach, Standing,
    Store, UnderReplicated, Version,
};
use ratatosk_balance::landscape::{self, Progress, StoreId};
use ratatosk_balance::overview::{Lead, Line, Overview, State};
use ratatosk_balance::plan::{Action, Shortage};
use ratatosk_balance::recover::Recovery;
use ratatosk_clock::Instant;
use ratatosk_cluster::{HostId, Member};
use ratatosk_engine::KeyRange;
use ratatosk_remote::Roll;
use ratatosk_store::membership::Target;
use ratatosk_store::range::Descriptor;

/// The host that looks.
pub(super) struct Own<'a> {
    pub(super) host: ratatosk_cluster::Host,
    pub(super) zone: &'a str,
}

/// A number as it is written.
pub(super) fn name(number: u64) -> String {
    format!("{number:016x}")
}

/// A range as it is named to people.
pub(super) fn range_name(descriptor: &Descriptor) -> String {
    format!("{} {:016x}", descriptor.keyspace, descriptor.group.0)
}

/// What is said of a range that has too few voters.
pub(super) fn under_replicated(line: &Line) -> Option<String> {
    let Shortage { voters, wanted, .. } = line.short.as_ref()?;
    Some(format!("{}: {voters} of {wanted} voters", range_name(&line.descriptor)))
}

/// The hosts that count as alive, the one that looks first.
pub(super) fn hosts(own: &Own<'_>, members: &[Member], roll: &Roll) -> Vec<Host> {
    let served = |id: HostId| {
        let number = u128::from_be_bytes(*id.as_bytes());
        roll.seats.iter().filter(move |(_, seat)| seat.host.0 == number)
    };
    let sketch = |host: &ratatosk_cluster::Host, state, zone: &str, version: &str| Host {
        id: host.id.to_string(),
        address: host.address,
        calls: served(host.id).find_map(|(_, seat)| seat.address),
        state,
        zone: zone.to_owned(),
        version: version.to_owned(),
        stores: served(host.id).map(|(store, _)| name(*store)).collect(),
    };
    let first = sketch(&own.host, HostState::Alive, own.zone, env!("CARGO_PKG_VERSION"));
    let mut members: Vec<&Member> = members.iter().collect();
    members.sort_by_key(|member| member.host.address);
    let others = members.into_iter().map(|member| {
        let state = if member.is_suspect { HostState::Suspect } else { HostState::Alive };
        let labels = member.labels.as_ref();
        let zone = labels.map_or("", |labels| labels.zone.as_str());
        sketch(&member.host, state, zone, labels.map_or("", |labels| labels.software.as_str()))
    });
    [first].into_iter().chain(others).collect()
}

/// A store, without what does not leave it.
pub(super) fn store(
    number: StoreId,
    held: &landscape::Store,
    overview: &Overview,
    roll: &Roll,
    now: Instant,
) -> Store {
    let lasting = || overview.ranges.iter().filter(|line| line.state != State::Superseded);
    let count = |has: &dyn Fn(&Line) -> bool| lasting().filter(|line| has(line)).count();
    let target = |line: &Line| line.descriptor.membership.target();
    Store {
        id: name(number),
        host: host_of(number, roll),
        reach: match held.reach {
            landscape::Reach::Up => Reach::Up,
            landscape::Reach::Away { .. } => Reach::Away,
        },
        away_seconds: match held.reach {
            landscape::Reach::Up => None,
            landscape::Reach::Away { since } => Some(now.since(since).as_secs()),
        },
        standing: match held.standing {
            landscape::Standing::Member => Standing::Member,
            landscape::Standing::Draining => Standing::Draining,
            landscape::Standing::GivenUp => Standing::GivenUp,
        },
        labels: held.labels.clone(),
        leads: count(&|line| line.leader.as_ref().is_some_and(|lead| lead.store == number)),
        votes: count(&|line| target(line).voters.contains(&number)),
        learns: count(&|line| target(line).learners.contains(&number)),
        stuck: Vec::new(),
    }
}

/// Whether a store is remembered only: it was to become empty, it is, and it does not answer.
pub(super) fn is_over(store: &Store) -> bool {
    store.reach == Reach::Away
        && store.standing != Standing::Member
        && store.leads + store.votes + store.learns == 0
}

pub(super) fn range(line: &Line, roll: &Roll) -> Range {
    let Line { descriptor, state, leader, goal, short } = line;
    let following = |lead: &Lead| -> BTreeMap<String, Following> {
        let held = lead.progress.iter();
        held.map(|(store, progress)| (name(*store), following(*progress))).collect()
    };
    let lead = leader.as_ref();
    Range {
        id: name(descriptor.group.0),
        keyspace: descriptor.keyspace.clone(),
        keys: bounds(&descriptor.boundary),
        version: Version {
            boundary: descriptor.version.boundary,
            config: descriptor.version.config,
        },
        edition: descriptor.edition.0,
        state: match state {
            State::Led => RangeState::Led,
            State::Leaderless => RangeState::Leaderless,
            State::Superseded => RangeState::Superseded,
            State::InDoubt => RangeState::InDoubt,
        },
        leader: lead.map(|lead| Leader {
            store: name(lead.store),
            host: host_of(lead.store, roll),
            term: lead.term,
        }),
        keepers: keepers(&descriptor.membership.target()),
        goal: goal.as_ref().map(keepers),
        under_replicated: short
            .as_ref()
            .map(|short| UnderReplicated { voters: short.voters, wanted: short.wanted }),
        following: lead.map(following).unwrap_or_default(),
        size_bytes: lead.map(|lead| lead.size_bytes),
        entries_per_second: lead.map(|lead| lead.entries_per_second),
    }
}

/// What bringing a range back would come to; `None` if it is known no more.
pub(super) fn loss(recovery: &Recovery, overview: &Overview) -> Option<Loss> {
    let group = recovery.plan.group;
    let line = overview.ranges.iter().find(|line| line.descriptor.group == group)?;
    Some(Loss {
        range: name(group.0),
        keyspace: line.descriptor.keyspace.clone(),
        keys: bounds(&line.descriptor.boundary),
        survivor: name(survivor(recovery)),
        log_term: recovery.log.term,
        log_index: recovery.log.index,
        lost: names(&recovery.lost),
    })
}

/// The store that goes on.
///
/// # Panics
/// Never: what brings a range back names a store.
pub(super) fn survivor(recovery: &Recovery) -> StoreId {
    match recovery.plan.action {
        Action::Recover { store } => store,
        _ => unreachable!("a recovery recovers"),
    }
}

fn host_of(store: StoreId, roll: &Roll) -> Option<String> {
    roll.seats.get(&store).map(|seat| format!("{:032x}", seat.host.0))
}

fn keepers(target: &Target) -> Keepers {
    Keepers { voters: names(&target.voters), learners: names(&target.learners) }
}

fn names(stores: &BTreeSet<StoreId>) -> Vec<String> {
    stores.iter().map(|store| name(*store)).collect()
}

fn following(progress: Progress) -> Following {
    match progress {
        Progress::CaughtUp => Following::CaughtUp,
        Progress::Lagging => Following::Lagging,
        Progress::Snapshot => Following::Snapshot,
        Progress::Silent => Following::Silent,
    }
}

fn bounds(keys: &KeyRange) -> Bounds {
    Bounds { from: printable(&keys.start), to: keys.end.as_ref().map(|end| printable(end)) }
}

/// Bytes as text that can be read back.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\\' => text.push_str("\\x5c"),
            b' '..=b'~' => text.push(char::from(*byte)),
            // Writing to a string does not fail.
            _ => drop(write!(text, "\\x{byte:02x}")),
        }
    }
    text
}

//! Whoever reads what a table tells has what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use ratatosk_codec::Qos;
use ratatosk_contract::group::MemberTarget;
use ratatosk_contract::inbox::InboxId;
use ratatosk_engine::wire::Parser;

use super::*;
use crate::record::take;

fn member(id: u64, incarnation: u64, state: &Arc<MemberState>) -> Member {
    Member {
        id,
        incarnation,
        target: MemberTarget::Inbox(InboxId(id)),
        options: SubscriptionOptions::new(Qos::AtLeastOnce),
        subscription_id: None,
        state: Arc::clone(state),
    }
}

/// What somebody has who reads what is told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reader {
    filters: BTreeSet<(String, String)>,
    /// With the incarnation and the flags.
    members: BTreeMap<(String, String, u64), (u64, u8)>,
    /// How many records told of an entry.
    told: usize,
}

impl Reader {
    fn read(&mut self, bytes: &[u8]) {
        let (mut parser, mut tenant) = (Parser::new(bytes), String::new());
        while let Some(record) = take(&mut parser).expect("it was written") {
            self.told += 1;
            match record {
                Record::Tenant(name) => {
                    tenant = name.to_owned();
                    self.told -= 1;
                }
                Record::Filter(text) => {
                    self.filters.insert((tenant.clone(), text.to_owned()));
                }
                Record::FilterGone(text) => {
                    self.filters.remove(&(tenant.clone(), text.to_owned()));
                }
                Record::Member(MemberRecord { filter, id, incarnation, flags, .. }) => {
                    let key = (tenant.clone(), filter.to_owned(), id);
                    self.members.insert(key, (incarnation, flags));
                }
                Record::MemberGone { filter, id } => {
                    self.members.remove(&(tenant.clone(), filter.to_owned(), id));
                }
                Record::After(_) | Record::Through(_) => self.told -= 1,
                Record::Begin(_) | Record::End => unreachable!("a table has no beginning"),
            }
        }
    }

    /// Reads everything, a page after the other.
    fn all(table: &Table, bytes_max: usize) -> Self {
        let (mut reader, mut behind) = (Self::default(), None);
        loop {
            let mut page = Vec::new();
            behind = table.page(behind.as_ref(), bytes_max, &mut page);
            reader.read(&page);
            if behind.is_none() {
                return reader;
            }
        }
    }
}

#[test]
fn what_comes_and_goes_before_it_is_told_is_told_once() {
    let (mut table, tenant) = (Table::new(100), TenantId::new("t"));
    let seen = table.want(&tenant, "a");
    for _ in 0..10 {
        table.want(&tenant, "b");
        table.unwant(&tenant, "b");
        table.unwant(&tenant, "a");
        table.want(&tenant, "a");
    }
    let (mut page, mut reader) = (Vec::new(), Reader::default());
    assert_eq!(table.changes(seen, usize::MAX, &mut page), Ok(table.sequence()));
    reader.read(&page);
    assert_eq!(reader.told, 2, "one record for each filter");
    assert_eq!(reader.filters, [("t".to_owned(), "a".to_owned())].into());
    table.check_invariants();
}

/// DIST-009: others are told of the first receiver and of the last.
#[test]
fn receivers_of_a_filter_are_counted() {
    let (mut table, tenant) = (Table::new(100), TenantId::new("t"));
    let first = table.want(&tenant, "a");
    assert_eq!(table.want(&tenant, "a"), first, "it is told by then");
    assert_eq!(table.unwant(&tenant, "a"), first);
    assert_eq!(table.sequence(), first);
    assert!(table.unwant(&tenant, "a") > first);
    assert_eq!(table.unwant(&tenant, "a"), table.sequence(), "nobody is left");
    assert_eq!(table.len(), 0);
    table.check_invariants();
}

/// DIST-002
#[test]
fn an_earlier_life_of_a_member_neither_replaces_nor_ends_a_later_one() {
    let (mut table, tenant) = (Table::new(100), TenantId::new("t"));
    let state = Arc::default();
    let joined = table.join(&tenant, "$share/g/a", &member(5, 4, &state));
    table.join(&tenant, "$share/g/a", &member(5, 3, &state));
    table.join(&tenant, "$share/g/a", &member(5, 4, &state));
    table.leave(&tenant, "$share/g/a", 5, 3);
    assert_eq!(table.sequence(), joined);
    table.leave(&tenant, "$share/g/a", 5, 4);
    assert_eq!(table.len(), 0);
}

#[test]
fn the_states_of_members_are_told_when_they_have_changed() {
    let (mut table, tenant) = (Table::new(100), TenantId::new("t"));
    let states: Vec<Arc<MemberState>> = (0..10).map(|_| Arc::default()).collect();
    for (id, state) in (0..).zip(&states) {
        table.join(&tenant, "$share/g/a", &member(id, 1, state));
    }
    let seen = table.sequence();
    states[7].full.store(true, Ordering::Relaxed);
    let looks = (0..3).filter(|_| table.look(4)).count();
    assert_eq!(looks, 1, "each is looked at in its turn");
    let (mut page, mut reader) = (Vec::new(), Reader::default());
    table.changes(seen, usize::MAX, &mut page).unwrap();
    reader.read(&page);
    assert_eq!(reader.members, [(("t".to_owned(), "$share/g/a".to_owned(), 7), (1, 2))].into());
    assert!(!(0..3).any(|_| table.look(4)));
    table.check_invariants();
}

#[derive(Clone, Debug)]
enum Step {
    Want(u8, u8),
    Unwant(u8, u8),
    Join(u8, u8, u64, u64),
    Leave(u8, u8, u64, u64),
    Congest(u8, bool),
    Look,
    /// The reader reads a page of the changes.
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..2_u8, 0..4_u8);
    let life = || (0..4_u64, 1..4_u64);
    prop_oneof![
        place().prop_map(|(tenant, filter)| Step::Want(tenant, filter)),
        place().prop_map(|(tenant, filter)| Step::Unwant(tenant, filter)),
        (place(), life()).prop_map(|(at, life)| Step::Join(at.0, at.1, life.0, life.1)),
        (place(), life()).prop_map(|(at, life)| Step::Leave(at.0, at.1, life.0, life.1)),
        (0..4_u8, any::<bool>()).prop_map(|(id, is_set)| Step::Congest(id, is_set)),
        Just(Step::Look),
        Just(Step::Read),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// However often it reads, a reader has what the table has once it has read the last change; or it is
    /// told that it is too far behind, which it never is within the bound.
    #[test]
    fn changes_lead_to_what_there_is(
        steps in prop::collection::vec(step(), 0..120),
        recent_min in 1..40_usize,
        bytes_max in 1..200_usize,
    ) {
        let mut table = Table::new(recent_min);
        let states: Vec<Arc<MemberState>> = (0..4).map(|_| Arc::default()).collect();
        let tenant = |number: u8| TenantId::new(["one", "two"][usize::from(number)]);
        let filter = |number: u8| ["a", "a/+", "#", "b"][usize::from(number)];
        let shared = |number: u8| format!("$share/g/{}", filter(number));
        let (mut reader, mut seen) = (Reader::default(), 0);
        let read = |table: &Table, reader: &mut Reader, seen: &mut u64| {
            let mut page = Vec::new();
            match table.changes(*seen, bytes_max, &mut page) {
                Ok(through) => *seen = through,
                Err(TooFar) => {
                    assert!(table.sequence() - *seen >= recent_min as u64);
                    (*reader, *seen) = (Reader::all(table, bytes_max), table.sequence());
                }
            }
            reader.read(&page);
        };
        for step in &steps {
            match *step {
                Step::Want(at, number) => drop(table.want(&tenant(at), filter(number))),
                Step::Unwant(at, number) => drop(table.unwant(&tenant(at), filter(number))),
                Step::Join(at, number, id, incarnation) => {
                    let state = &states[usize::try_from(id).unwrap()];
                    table.join(&tenant(at), &shared(number), &member(id, incarnation, state));
                }
                Step::Leave(at, number, id, incarnation) => {
                    table.leave(&tenant(at), &shared(number), id, incarnation);
                }
                Step::Congest(id, is_set) => {
                    states[usize::from(id)].congested.store(is_set, Ordering::Relaxed);
                }
                Step::Look => drop(table.look(3)),
                Step::Read => read(&table, &mut reader, &mut seen),
            }
            table.check_invariants();
        }
        while seen < table.sequence() {
            read(&table, &mut reader, &mut seen);
        }
        let mut all = Reader::all(&table, bytes_max);
        all.told = reader.told;
        prop_assert_eq!(reader, all);
    }
}

//! Tables of several hosts, told over streams that break anywhere, against a model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::dist::{Dist, Resolution};
use ratatosk_contract::group::{Member, MemberTarget};
use ratatosk_contract::inbox::InboxId;
use ratatosk_contract::{HostNumber, TenantId};
use ratatosk_dist::DistService;
use ratatosk_topic::{TopicLimits, TopicName};

use crate::image::{Image, Refused, Work};
use crate::record::{Record, put};
use crate::table::Table;

const TENANTS: [&str; 2] = ["one", "two"];
const FILTERS: [&str; 4] = ["a", "a/+", "#", "b"];
const TOPICS: [&str; 4] = ["a", "a/c", "b", "c/d"];
/// Bytes of a page: few, so that there are many.
const PAGE: usize = 40;

/// A host that tells, and how far its reader is.
struct Host {
    number: HostNumber,
    table: Table,
    image: Image,
    teller: Teller,
    wanted: BTreeMap<(usize, usize), u32>,
    members: BTreeSet<(usize, usize, u64)>,
}

/// One side of a stream, as `serve.rs` has it.
#[derive(Clone)]
enum Teller {
    Fresh,
    Beginning { sequence: u64, behind: Option<crate::table::Key> },
    Following { seen: u64 },
}

impl Host {
    fn new(number: u32, dist: &Arc<DistService>) -> Self {
        let number = HostNumber(number);
        Self {
            number,
            table: Table::new(5),
            image: Image::new(number, Arc::clone(dist) as _),
            teller: Teller::Fresh,
            wanted: BTreeMap::new(),
            members: BTreeSet::new(),
        }
    }

    /// The next page, if there is one.
    fn tell(&mut self) -> Option<Vec<u8>> {
        let mut page = Vec::new();
        if let Teller::Following { seen } = self.teller {
            match self.table.changes(seen, PAGE, &mut page) {
                Ok(through) => {
                    self.teller = Teller::Following { seen: through };
                    return (!page.is_empty()).then_some(page);
                }
                Err(_) => self.teller = Teller::Fresh,
            }
        }
        let (sequence, behind) = match &self.teller {
            Teller::Beginning { sequence, behind } => (*sequence, behind.clone()),
            _ => {
                put(&mut page, &Record::Begin(self.table.sequence()));
                (self.table.sequence(), None)
            }
        };
        let behind = self.table.page(behind.as_ref(), PAGE, &mut page);
        self.teller = if behind.is_some() {
            Teller::Beginning { sequence, behind }
        } else {
            put(&mut page, &Record::End);
            Teller::Following { seen: sequence }
        };
        Some(page)
    }

    fn break_off(&mut self) {
        self.teller = Teller::Fresh;
        self.image.restart();
    }

    /// Hears a page.
    fn hear(&mut self, page: &[u8]) {
        if let Some(work) = self.image.apply(page).expect("it was told in order") {
            finish(&mut self.image, work);
        }
    }

    /// Dies: its table is of no use to anybody any more.
    fn die(&mut self) {
        self.image.clear();
        finish(&mut self.image, Work::More);
        self.table = Table::new(5);
        self.wanted.clear();
        self.members.clear();
        self.break_off();
    }
}

/// Does what is to be done before the next page; the sequence that is reached.
fn finish(image: &mut Image, mut work: Work) -> u64 {
    loop {
        match work {
            Work::More => work = image.work(),
            Work::Done(sequence) => return sequence,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Want(usize, usize),
    Unwant(usize, usize),
    Join(usize, usize, u64),
    Leave(usize, usize, u64),
    Tell,
    Break,
    Die,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let place = || (0..TENANTS.len(), 0..FILTERS.len());
    let step = prop_oneof![
        6 => place().prop_map(|at| Step::Want(at.0, at.1)),
        4 => place().prop_map(|at| Step::Unwant(at.0, at.1)),
        4 => (place(), 0..3_u64).prop_map(|(at, id)| Step::Join(at.0, at.1, id)),
        3 => (place(), 0..3_u64).prop_map(|(at, id)| Step::Leave(at.0, at.1, id)),
        12 => Just(Step::Tell),
        2 => Just(Step::Break),
        1 => Just(Step::Die),
    ];
    (0..2_usize, step)
}

fn member(id: u64) -> Member {
    Member {
        id,
        incarnation: 1,
        target: MemberTarget::Inbox(InboxId(id)),
        options: SubscriptionOptions::new(Qos::AtLeastOnce),
        subscription_id: None,
        state: Arc::default(),
    }
}

fn shared(filter: usize) -> String {
    format!("$share/g/{}", FILTERS[filter])
}

fn carry_out(host: &mut Host, step: &Step) {
    let tenant = |at: usize| TenantId::new(TENANTS[at]);
    match *step {
        Step::Want(at, filter) => {
            host.table.want(&tenant(at), FILTERS[filter]);
            *host.wanted.entry((at, filter)).or_default() += 1;
        }
        Step::Unwant(at, filter) => {
            host.table.unwant(&tenant(at), FILTERS[filter]);
            let count = host.wanted.entry((at, filter)).or_default();
            *count = count.saturating_sub(1);
        }
        Step::Join(at, filter, id) => {
            host.table.join(&tenant(at), &shared(filter), &member(id));
            host.members.insert((at, filter, id));
        }
        Step::Leave(at, filter, id) => {
            host.table.leave(&tenant(at), &shared(filter), id, 1);
            host.members.remove(&(at, filter, id));
        }
        Step::Tell => {
            if let Some(page) = host.tell() {
                host.hear(&page);
            }
        }
        Step::Break => host.break_off(),
        Step::Die => host.die(),
    }
}

/// The hosts and members that a topic has, in dist.
fn found(dist: &DistService, tenant: usize, topic: &str) -> (Vec<u32>, Vec<(u32, u64)>) {
    let mut found = Resolution::default();
    let topic = TopicName::parse(topic, &TopicLimits::PROTOCOL).unwrap();
    dist.tenant(&TenantId::new(TENANTS[tenant])).resolve(topic, &mut found);
    let members = found.groups.iter().flat_map(|group| &group.members);
    let mut members: Vec<_> =
        members.filter_map(|member| Some((member.host()?.0, member.id))).collect();
    members.sort_unstable();
    (found.hosts.iter().map(|host| host.0).collect(), members)
}

fn expected(hosts: &[Host], tenant: usize, topic: &str) -> (Vec<u32>, Vec<(u32, u64)>) {
    let matches = |filter: usize| ratatosk_topic::matches(FILTERS[filter], topic);
    let (mut wanting, mut members) = (Vec::new(), Vec::new());
    for host in hosts {
        let mut filters =
            host.wanted.iter().filter(|(at, count)| at.0 == tenant && **count > 0).map(|it| it.0.1);
        wanting.extend(filters.any(matches).then_some(host.number.0));
        let of_topic = host.members.iter().filter(|it| it.0 == tenant && matches(it.1));
        members.extend(of_topic.map(|(.., id)| (host.number.0, *id)));
    }
    members.sort_unstable();
    (wanting, members)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// DIST-014: wherever a stream breaks and whenever a host dies, once all is told dist has what each
    /// host has; what a host has all the while, and has told once, is never missing.
    #[test]
    fn dist_has_what_hosts_tell(steps in prop::collection::vec(step(), 0..150)) {
        let dist = Arc::new(DistService::new());
        let mut hosts = [Host::new(0, &dist), Host::new(1, &dist)];
        for host in &mut hosts {
            carry_out(host, &Step::Want(0, 2));
            while let Some(page) = host.tell() {
                host.hear(&page);
            }
        }
        let mut is_unbroken = [true; 2];
        for (at, step) in &steps {
            let is_kept = !matches!(step, Step::Die | Step::Unwant(0, 2));
            is_unbroken[*at] &= is_kept;
            carry_out(&mut hosts[*at], step);
            let (now, _) = found(&dist, 0, "c/d");
            for host in hosts.iter().filter(|host| is_unbroken[host.number.0 as usize]) {
                prop_assert!(now.contains(&host.number.0), "{step:?}");
            }
        }
        for host in &mut hosts {
            while let Some(page) = host.tell() {
                host.hear(&page);
            }
        }
        for tenant in 0..TENANTS.len() {
            for topic in TOPICS {
                prop_assert_eq!(found(&dist, tenant, topic), expected(&hosts, tenant, topic));
            }
        }
        drop(hosts);
        prop_assert_eq!(dist.stats().routes, 0, "who is gone leaves nothing");
    }

    #[test]
    fn an_image_takes_any_bytes(
        pages in prop::collection::vec(prop::collection::vec(0..12_u8, 0..60), 0..6),
    ) {
        let dist = Arc::new(DistService::new());
        let mut image = Image::new(HostNumber(1), Arc::clone(&dist) as _);
        let mut begin = Vec::new();
        put(&mut begin, &Record::Begin(1));
        image.apply(&begin).unwrap();
        for page in &pages {
            let _ = image.apply(page);
        }
        drop(image);
        prop_assert_eq!(dist.stats().routes, 0);
    }
}

#[test]
fn what_does_not_follow_is_refused() {
    let dist = Arc::new(DistService::new());
    let mut image = Image::new(HostNumber(1), Arc::clone(&dist) as _);
    let mut apply = |records: &[Record<'_>]| {
        let mut page = Vec::new();
        records.iter().for_each(|record| put(&mut page, record));
        let work = image.apply(&page)?;
        Ok(work.map(|work| finish(&mut image, work)))
    };
    let (tenant, filter) = (Record::Tenant("t"), Record::Filter("a"));
    assert_eq!(apply(&[tenant, filter]), Err(Refused::Gap), "before the beginning");
    assert_eq!(apply(&[Record::End]), Err(Refused::Gap));
    assert_eq!(apply(&[Record::Begin(7), tenant, filter]), Ok(None));
    assert_eq!(apply(&[Record::Through(8)]), Err(Refused::Gap), "before the end");
    assert_eq!(apply(&[Record::End]), Ok(Some(7)));
    assert_eq!(apply(&[Record::After(8), Record::Through(9)]), Err(Refused::Gap));
    assert_eq!(apply(&[Record::After(7), Record::Through(9)]), Ok(Some(9)));
    assert_eq!(apply(&[filter]), Err(Refused::Malformed), "nobody knows whose it is");
    let malformed = [Record::Filter("a/#/b"), Record::Filter("$share/g/a"), Record::Filter("")];
    for record in malformed {
        assert_eq!(apply(&[tenant, record]), Err(Refused::Malformed), "{record:?}");
    }
    let gone = Record::MemberGone { filter: "a", id: 1 };
    assert_eq!(apply(&[tenant, gone]), Err(Refused::Malformed), "no group has it");
}

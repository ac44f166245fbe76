//! What another host tells of its wishes, as dist has it here.
//!
//! A stream begins with everything: routes are added as they come, and when all have come, those that did
//! not are taken away. So a route that is in both is never missing. After that come changes, each page
//! behind the last; what does not follow is refused, and the stream has to begin again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ratatosk_contract::dist::{Dist, HostRoute, Receiver, ReceiverKey, RouteId, TenantRoutes};
use ratatosk_contract::group::{Group, Member, MemberState, MemberTarget};
use ratatosk_contract::{HostNumber, TenantId};
use ratatosk_engine::wire::{Malformed, Parser};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::record::{MemberRecord, Record, note_flags, take};

/// See the module. Dropped, all routes of the host are.
pub(crate) struct Image {
    host: HostNumber,
    dist: Arc<dyn Dist>,
    /// The tenants with a route of the host.
    tenants: BTreeMap<TenantId, Members>,
    phase: Phase,
    /// How many beginnings there were.
    round: u64,
}

/// The states of members, each with the round in which it was told last.
type Members = HashMap<Box<str>, HashMap<u64, (Arc<MemberState>, u64)>>;

enum Phase {
    /// Nothing was told on this stream.
    Fresh,
    /// Everything is being told, as of a sequence.
    Beginning { sequence: u64, told: BTreeMap<TenantId, Told> },
    /// Everything was; what was not told is being taken away.
    Ending { sequence: u64, told: BTreeMap<TenantId, Told>, left: Vec<(TenantId, Vec<RouteId>)> },
    /// Everything up to a sequence was.
    Following { sequence: u64 },
}

/// Whether there is more to be done before the next page.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// There is.
    More,
    /// There is not, and everything up to a sequence is applied.
    Done(u64),
}

/// Filters that are looked at in one go: about a millisecond.
const WORK_FILTERS: usize = 512;

/// What was told of a tenant in a beginning.
#[derive(Default)]
struct Told {
    filters: HashSet<RouteId>,
    /// By filter and number, the groups: their names, and whether they are ordered.
    members: HashMap<(RouteId, u64), Groups>,
}

type Groups = Vec<(Box<str>, bool)>;

/// What was told makes no sense here: the stream has to begin again.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The bytes mean nothing.
    #[error("it makes no sense")]
    Malformed,
    /// Something is missing before it.
    #[error("something is missing before it")]
    Gap,
}

impl From<Malformed> for Refused {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

impl Image {
    pub(crate) fn new(host: HostNumber, dist: Arc<dyn Dist>) -> Self {
        Self { host, dist, tenants: BTreeMap::new(), phase: Phase::Fresh, round: 0 }
    }

    /// A new stream: it has to begin with everything.
    pub(crate) fn restart(&mut self) {
        self.phase = Phase::Fresh;
    }

    /// Applies some records; answers if everything is applied up to another sequence, or will be by
    /// [`Image::work`], for which the next page has to wait.
    ///
    /// # Errors
    /// Those before it are applied; the stream is of no use any more.
    pub(crate) fn apply(&mut self, bytes: &[u8]) -> Result<Option<Work>, Refused> {
        let mut parser = Parser::new(bytes);
        let mut tenant: Option<(TenantId, Arc<dyn TenantRoutes>)> = None;
        let mut applied = None;
        while let Some(record) = take(&mut parser)? {
            match record {
                Record::Begin(sequence) => {
                    self.round += 1;
                    self.phase = Phase::Beginning { sequence, told: BTreeMap::new() };
                }
                Record::End => {
                    let Phase::Beginning { sequence, told } = &mut self.phase else {
                        return Err(Refused::Gap);
                    };
                    let (sequence, told) = (*sequence, std::mem::take(told));
                    self.end(sequence, told);
                    applied = Some(Work::More);
                }
                Record::After(sequence) => match self.phase {
                    Phase::Following { sequence: at } if at == sequence => {}
                    _ => return Err(Refused::Gap),
                },
                Record::Through(sequence) => match &mut self.phase {
                    Phase::Following { sequence: at } if *at <= sequence => {
                        *at = sequence;
                        applied = Some(Work::Done(sequence));
                    }
                    _ => return Err(Refused::Gap),
                },
                Record::Tenant(name) => {
                    let id = TenantId::new(name);
                    let routes = self.dist.tenant(&id);
                    tenant = Some((id, routes));
                }
                Record::Filter(_)
                | Record::FilterGone(_)
                | Record::Member(_)
                | Record::MemberGone { .. } => {
                    if matches!(self.phase, Phase::Fresh | Phase::Ending { .. }) {
                        return Err(Refused::Gap);
                    }
                    let (id, routes) = tenant.as_ref().ok_or(Malformed)?;
                    self.change(id, &**routes, record)?;
                }
            }
        }
        Ok(applied)
    }

    /// Begins to take all routes of the host away, which [`Image::work`] goes on with.
    pub(crate) fn clear(&mut self) {
        self.end(0, BTreeMap::new());
    }

    /// Goes on with taking away what was not told.
    pub(crate) fn work(&mut self) -> Work {
        let Phase::Ending { sequence, told, left } = &mut self.phase else {
            return Work::Done(0);
        };
        let sequence = *sequence;
        let Some((tenant, filters)) = left.last_mut() else {
            self.phase = Phase::Following { sequence };
            return Work::Done(sequence);
        };
        let of_tenant = told.get(tenant);
        let mut keep = |route: HostRoute<'_>| {
            of_tenant.is_some_and(|told| match route {
                HostRoute::Filter(route) => told.filters.contains(&route),
                HostRoute::Member { group, id } => told.has_member(group, id),
            })
        };
        let routes = self.dist.tenant(tenant);
        let page = filters.split_off(filters.len().saturating_sub(WORK_FILTERS));
        routes.retain_host(self.host, &page, &mut keep);
        if filters.is_empty() {
            let tenant = std::mem::replace(tenant, TenantId::new(""));
            left.pop();
            if let Some(members) = self.tenants.get_mut(&tenant) {
                members.retain(|_, of_filter| {
                    of_filter.retain(|_, (_, round)| *round == self.round);
                    !of_filter.is_empty()
                });
            }
            self.forget(&tenant, &*routes);
        }
        Work::More
    }

    fn change(
        &mut self,
        tenant: &TenantId,
        routes: &dyn TenantRoutes,
        record: Record<'_>,
    ) -> Result<(), Refused> {
        let host = self.host;
        match record {
            Record::Filter(text) => {
                let filter = parse(text, false)?;
                let added = routes.add(&filter, Receiver::Host(host)).ready();
                self.tenants.entry(tenant.clone()).or_default();
                if let (Some(Ok(route)), Some(told)) = (added, self.told(tenant)) {
                    told.filters.insert(route);
                }
            }
            Record::Member(record) => {
                let filter = parse(record.filter, true)?;
                let member = self.member(tenant, &record)?;
                let id = member.id;
                // How many a group may have is decided where they join.
                let receiver = Receiver::Member { member, members_max: u32::MAX };
                let added = routes.add(&filter, receiver).ready();
                let share = filter.share().ok_or(Malformed)?;
                if let (Some(Ok(route)), Some(told)) = (added, self.told(tenant)) {
                    let groups = told.members.entry((route, id)).or_default();
                    groups.push((share.group.into(), share.ordered));
                }
            }
            Record::FilterGone(text) => {
                routes.remove(&parse(text, false)?, &ReceiverKey::Host(host));
                self.forget(tenant, routes);
            }
            Record::MemberGone { filter: text, id } => {
                routes.remove(&parse(text, true)?, &ReceiverKey::HostMember { host, id });
                if let Some(members) = self.tenants.get_mut(tenant)
                    && let Some(of_filter) = members.get_mut(text)
                {
                    of_filter.remove(&id);
                    if of_filter.is_empty() {
                        members.remove(text);
                    }
                }
                self.forget(tenant, routes);
            }
            Record::Begin(_)
            | Record::End
            | Record::After(_)
            | Record::Through(_)
            | Record::Tenant(_) => {}
        }
        Ok(())
    }

    /// The member of a record, with the state that it has here already if it is known.
    fn member(&mut self, tenant: &TenantId, record: &MemberRecord<'_>) -> Result<Member, Refused> {
        let MemberRecord { filter, id, incarnation, options, subscription_id, flags } = *record;
        let options = options.try_into().map_err(|_| Malformed)?;
        let members = self.tenants.entry(tenant.clone()).or_default();
        let of_filter = match members.get_mut(filter) {
            Some(of_filter) => of_filter,
            None => members.entry(filter.into()).or_default(),
        };
        let (state, round) = of_filter.entry(id).or_default();
        *round = self.round;
        note_flags(state, flags);
        let (state, target) = (Arc::clone(state), MemberTarget::Host(self.host));
        Ok(Member { id, incarnation, target, options, subscription_id, state })
    }

    /// What was told of a tenant, if everything is being told.
    fn told(&mut self, tenant: &TenantId) -> Option<&mut Told> {
        let Phase::Beginning { told, .. } = &mut self.phase else { return None };
        if !told.contains_key(tenant) {
            told.insert(tenant.clone(), Told::default());
        }
        told.get_mut(tenant)
    }

    /// Everything was told: what was not is to be there no more.
    fn end(&mut self, sequence: u64, told: BTreeMap<TenantId, Told>) {
        let of = |tenant: &TenantId| self.dist.tenant(tenant).host_routes(self.host);
        let left = self.tenants.keys().map(|tenant| (tenant.clone(), of(tenant))).collect();
        self.phase = Phase::Ending { sequence, told, left };
    }

    /// Forgets a tenant without a route of the host.
    fn forget(&mut self, tenant: &TenantId, routes: &dyn TenantRoutes) {
        if routes.host_routes_count(self.host) == 0 {
            self.tenants.remove(tenant);
        }
    }
}

impl Told {
    fn has_member(&self, group: &Group, id: u64) -> bool {
        let groups = self.members.get(&(group.route, id));
        groups.is_some_and(|groups| {
            groups
                .iter()
                .any(|(name, is_ordered)| **name == *group.name && *is_ordered == group.is_ordered)
        })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.clear();
        while self.work() == Work::More {}
    }
}

/// A filter that names a group, or none.
fn parse(text: &str, is_shared: bool) -> Result<TopicFilter<'_>, Refused> {
    let filter = TopicFilter::parse(text, &TopicLimits::PROTOCOL);
    filter.ok().filter(|filter| filter.share().is_some() == is_shared).ok_or(Refused::Malformed)
}

//! Members of shared groups for a message: whom somebody wants to have it, and who has it.
//!
//! A message that is brought again goes to those that were chosen when it was begun, whoever was chosen meanwhile.
//! Where such a member is gone, somebody else is chosen in its stead. That the partition of the new one has the
//! message for others is nothing to go by, so it goes there under a number of its own.
//!
//! If nobody was chosen before, a transient session was, say, nobody has it: then whoever is chosen now is. If
//! a transient session is chosen now and another member was before, its data plane is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use ratatosk_contract::dist::{Dist, InboxRoute, Resolution};
use ratatosk_contract::group::{Group as SharedGroup, MemberTarget};
use ratatosk_contract::inbox::{InboxId, SharedRoute};
use ratatosk_contract::serving::{Begun, Choice, GroupMark};
use ratatosk_contract::{ReplyTo, TenantId};
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};
use xxhash_rust::xxh3::Xxh3;

use crate::ask::Chosen;
use crate::cluster_inbox::Shared;
use crate::jobs::{Group, JobId};

/// A member of a shared group that is to have a message.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) route: InboxRoute,
    pub(crate) group: Arc<SharedGroup>,
    /// The group's filter without its share prefix; empty if the group was gone when the message came.
    pub(crate) filter: Arc<str>,
}

/// A member that was chosen before and is gone.
pub(crate) type Gone = (GroupMark, InboxId);

/// Where a message that is begun goes.
#[derive(Default)]
pub(crate) struct Plan {
    /// Of each number one; that with the exchange first.
    pub(crate) groups: Vec<Group>,
    /// In whose stead others are to be chosen before.
    pub(crate) gone: Vec<Gone>,
    /// The groups of which no transient session is to have it.
    kept: Vec<Arc<SharedGroup>>,
}

impl Wanted {
    /// What names its group on all hosts.
    pub(crate) fn mark(&self) -> GroupMark {
        let mut hash = Xxh3::new();
        hash.update(self.filter.as_bytes());
        // No filter and no name has it.
        hash.update(&[0]);
        hash.update(self.group.name.as_bytes());
        hash.update(&[0, u8::from(self.group.is_ordered)]);
        GroupMark(hash.digest())
    }

    pub(crate) fn shared_route(&self) -> SharedRoute {
        SharedRoute { route: self.route, group: Arc::clone(&self.group) }
    }

    /// Another member of the same group; `None` if it is one no longer.
    fn other(&self, inbox: InboxId) -> Option<Wanted> {
        let is_it = |target| target == MemberTarget::Inbox(inbox);
        let member = self.group.members.iter().find(|member| is_it(member.target))?;
        let route = InboxRoute {
            inbox,
            incarnation: member.incarnation,
            options: member.options,
            subscription_id: member.subscription_id,
        };
        Some(Wanted { route, ..self.clone() })
    }
}

impl Shared {
    /// Members of groups, with what names these on all hosts.
    pub(crate) fn wanted(&self, tenant: &TenantId, shared: &[SharedRoute]) -> Vec<Wanted> {
        if shared.is_empty() {
            return Vec::new();
        }
        let routes = self.dist.tenant(tenant);
        let wanted = |SharedRoute { route, group }: &SharedRoute| {
            let mut filter = String::new();
            routes.filter_text(group.route, &mut filter);
            Wanted { route: *route, group: Arc::clone(group), filter: filter.into() }
        };
        shared.iter().map(wanted).collect()
    }

    /// Members of groups, by names that mean the same on every host.
    pub(crate) fn all_chosen(&self, tenant: &TenantId, shared: &[Wanted]) -> Vec<Chosen> {
        shared.iter().filter_map(|wanted| self.chosen(tenant, wanted)).collect()
    }

    /// `None` of a group that there is no longer. Where the routes here are being read anew it may be missing and
    /// be there all the same; then whoever serves its member says whether he knows it.
    fn chosen(&self, tenant: &TenantId, wanted: &Wanted) -> Option<Chosen> {
        let Wanted { route, group, filter } = wanted;
        let chosen = Chosen {
            route: *route,
            filter: (**filter).into(),
            group: (*group.name).into(),
            is_ordered: group.is_ordered,
        };
        let is_current = self.dist.tenant(tenant).may_answer().is_some();
        let is_gone = is_current && find_group(&*self.dist, tenant, &chosen).is_none();
        (!filter.is_empty() && !is_gone).then_some(chosen)
    }

    /// Where a group of a message goes that is begun. Members that are gone already, and were named so, are
    /// not named again.
    pub(crate) fn plan(&self, job: JobId, group: &Group, begun: &Begun, gone: &[Gone]) -> Plan {
        let own: Vec<_> = group.shared.iter().map(|wanted| (wanted.mark(), wanted)).collect();
        let own_of = |mark| own.iter().find(|known| known.0 == mark).map(|known| known.1);
        let is_own = |choice: &Choice| own_of(choice.group).is_some();
        let here = match begun.choices.iter().all(is_own) {
            true => Vec::new(),
            false => self.groups_of(job),
        };
        let (mut plan, mut members) = (Plan::default(), Vec::new());
        for Choice { group, inbox, number } in &begun.choices {
            let own = own_of(*group);
            let of_here = || here.iter().find(|known| known.mark() == *group);
            // A group that is not here has no member any more.
            let Some(known) = own.or_else(of_here) else { continue };
            match (known.other(*inbox), own) {
                (Some(member), own) => {
                    plan.kept.extend(own.is_none().then(|| Arc::clone(&member.group)));
                    members.push((*number, member));
                }
                (None, Some(own)) if gone.contains(&(*group, *inbox)) => {
                    members.push((begun.others, own.clone()));
                }
                (None, Some(_)) => plan.gone.push((*group, *inbox)),
                (None, None) => {}
            }
        }
        let is_known = |mark| begun.choices.iter().any(|choice| choice.group == mark);
        let others = own.iter().filter(|(mark, _)| !is_known(*mark));
        members.extend(others.map(|(_, wanted)| (begun.others, (*wanted).clone())));
        plan.groups = by_number(group, members, begun.once.number);
        plan
    }

    /// The groups of a message's topic as they are here now, each with a member that is nobody's choice.
    fn groups_of(&self, job: JobId) -> Vec<Wanted> {
        let (tenant, message) = {
            let jobs = self.jobs.lock();
            let Some(job) = jobs.job(job) else { return Vec::new() };
            (job.tenant.clone(), Arc::clone(&job.message))
        };
        let Ok(topic) = TopicName::parse(&message.topic, &TopicLimits::PROTOCOL) else {
            return Vec::new();
        };
        let mut found = Resolution::default();
        self.dist.tenant(&tenant).resolve(topic, &mut found);
        let any = |group: Arc<SharedGroup>| {
            let member = group.members.first()?;
            let route = InboxRoute {
                inbox: InboxId(0),
                incarnation: member.incarnation,
                options: member.options,
                subscription_id: None,
            };
            Some(SharedRoute { route, group })
        };
        let groups: Vec<SharedRoute> = found.groups.into_iter().filter_map(any).collect();
        self.wanted(&tenant, &groups)
    }

    /// Has whoever brought a message give it to no transient member of groups that have it otherwise.
    pub(crate) fn tell_kept(&self, job: JobId, plan: &mut Plan) {
        let reply_to = self.jobs.lock().job(job).and_then(|job| job.reply_to);
        let kept = std::mem::take(&mut plan.kept);
        if let Some(ReplyTo { session, ticket }) = reply_to
            && !kept.is_empty()
        {
            self.home.chosen_before(session, ticket, kept);
        }
    }
}

/// Parts a group by the numbers under which its members have the message.
fn by_number(group: &Group, members: Vec<(u64, Wanted)>, own: u64) -> Vec<Group> {
    let mut by_number: BTreeMap<u64, Vec<Wanted>> = BTreeMap::new();
    for (number, wanted) in members {
        by_number.entry(number).or_default().push(wanted);
    }
    let shared = by_number.remove(&own).unwrap_or_default();
    let whole = Group { shared, routes: group.routes.clone(), ..Group::default() };
    let mut groups = vec![Group { exchange: group.exchange, ..whole }];
    let later = |(number, shared)| Group { shared, number: Some(number), ..Group::default() };
    groups.extend(by_number.into_iter().map(later));
    groups
}

/// The member that was chosen, with its group as it is here now.
pub(crate) fn find_group(dist: &dyn Dist, tenant: &TenantId, chosen: &Chosen) -> Option<Wanted> {
    let routes = dist.tenant(tenant);
    let filter = TopicFilter::parse(&chosen.filter, &TopicLimits::PROTOCOL).ok()?;
    let group = routes.group(routes.find(&filter)?, &chosen.group, chosen.is_ordered)?;
    Some(Wanted { route: chosen.route, group, filter: (*chosen.filter).into() })
}

//! Messages that come from other hosts, on their way to the shards.
//!
//! They come on the relay's thread, which only finds the shards and leaves records in their mailboxes,
//! in a lane of its own. What matches is looked up once a topic, as in a shard; what is known of topics
//! is forgotten once a minute, and while memory is short. Nothing goes on to other hosts from here, nor
//! to inboxes or groups: the host where a message was published has seen to those.

use std::{collections::HashMap, fmt::Write as _, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_contract::{
    Message, ShardId,
    dist::{Dist, Resolution, RouteEpoch, RouteId, TenantRoutes},
    group::MemberTarget as GroupTarget,
    relay::{Addressee, Deliverer, Fate, Parcel},
};
use ratatosk_telemetry::memory::{Accountant, Hold, Pressure, Share};
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};

use crate::{
    node::Node,
    shard::{
        mailbox::{Batch, Mailbox},
        publish::group_key,
        regroup::FROM_AWAY,
        shed::lane_max,
        topic_cache::ROUTES_MAX,
        wire::MemberTarget,
    },
    tenants::{TenantNumber, Tenants},
};

/// How long something is known of a topic.
const AGE_MAX: Duration = Duration::from_secs(60);
/// What a record takes besides its message, about.
const RECORD_BYTES: usize = 64;

/// See the module.
pub(crate) struct Arrivals {
    dist: Arc<dyn Dist>,
    mailboxes: Arc<[Mailbox]>,
    tenants: Tenants,
    memory: Accountant,
    clock: SystemClock,
    /// Locked by the relay's thread only.
    state: Mutex<State>,
}

struct State {
    known: HashMap<TenantNumber, Known, foldhash::fast::RandomState>,
    /// When everything was forgotten.
    forgotten: Instant,
    /// What each shard is to get.
    outbound: Vec<Outbound>,
    found: Resolution,
    filter: String,
}

/// Records for one shard.
#[derive(Default)]
struct Outbound {
    batch: Batch,
    /// How many bytes they hold, about.
    bytes: usize,
}

/// What is known of a tenant.
struct Known {
    routes: Arc<dyn TenantRoutes>,
    topics: Topics,
}

/// What is known of a tenant's topics.
struct Topics {
    wanted: HashMap<Box<str>, Wanted, foldhash::fast::RandomState>,
    /// At most [`ROUTES_MAX`], or those of one topic.
    routes: usize,
    hold: Hold,
}

/// Which shards have sessions for a topic, and by which routes.
struct Wanted {
    epoch: RouteEpoch,
    shards: Vec<(ShardId, Vec<RouteId>)>,
}

impl Arrivals {
    pub(crate) fn new(node: &Node) -> Self {
        Arrivals {
            dist: Arc::clone(&node.dist),
            mailboxes: Arc::clone(&node.mailboxes),
            tenants: node.tenants.clone(),
            memory: node.memory.clone(),
            clock: node.clock,
            state: Mutex::new(State {
                known: HashMap::default(),
                forgotten: node.clock.now(),
                outbound: node.mailboxes.iter().map(|_| Outbound::default()).collect(),
                found: Resolution::default(),
                filter: String::new(),
            }),
        }
    }

    /// The lane of each mailbox that is the relay's.
    fn lane(&self) -> usize {
        self.mailboxes.len()
    }

    fn forget(&self, state: &mut State) {
        let now = self.clock.now();
        let is_short = self.memory.pressure() >= Pressure::Caches;
        if is_short || now.since(state.forgotten) >= AGE_MAX {
            state.forgotten = now;
            state.known = HashMap::default();
        }
    }

    fn open(&self, number: TenantNumber) -> Known {
        let tenant = self.tenants.name(number);
        Known {
            routes: self.dist.tenant(&tenant),
            topics: Topics::new(self.memory.account(tenant.as_str()).hold(Share::Caches, 0)),
        }
    }

    fn take(&self, state: &mut State, parcel: &Parcel<'_>) -> Fate {
        let Some(number) = self.tenants.find(parcel.tenant) else {
            // None of its sessions was ever here.
            return match parcel.to {
                Addressee::Sessions => Fate::Taken,
                Addressee::Member { .. } => Fate::Gone,
            };
        };
        let State { known, outbound, found, filter, .. } = state;
        let known = known.entry(number).or_insert_with(|| self.open(number));
        let message = &parcel.message;
        match parcel.to {
            Addressee::Sessions => {
                let wanted = known.wanted(message.topic, found);
                let mut fate = Fate::Taken;
                for (shard, routes) in &wanted.shards {
                    // Those that have room have it, whatever becomes of the others.
                    match self.room(outbound, *shard, message) {
                        Some(batch) => batch.push_routed(number, routes, message),
                        None => fate = Fate::Full,
                    }
                }
                fate
            }
            Addressee::Member { .. } => {
                let Some((shard, member)) = known.member(&parcel.to, filter) else {
                    return Fate::Gone;
                };
                let Some(batch) = self.room(outbound, shard, message) else { return Fate::Full };
                batch.push_member(number, &member, message);
                Fate::Taken
            }
        }
    }

    /// The batch for a shard, if its mailbox has room for more.
    fn room<'a>(
        &self,
        outbound: &'a mut [Outbound],
        shard: ShardId,
        message: &Message<'_>,
    ) -> Option<&'a mut Batch> {
        let outbound = outbound.get_mut(shard.index())?;
        let waiting = self.mailboxes[shard.index()].lane_bytes(self.lane());
        if waiting + outbound.bytes >= lane_max(self.memory.pressure()) {
            return None;
        }
        outbound.bytes += message.size_bytes() + RECORD_BYTES;
        Some(&mut outbound.batch)
    }
}

impl Known {
    /// Who wants a topic.
    fn wanted(&mut self, topic: &str, found: &mut Resolution) -> &Wanted {
        let epoch = self.routes.epoch();
        let is_known = self.topics.wanted.get(topic).is_some_and(|known| known.epoch == epoch);
        if !is_known {
            let wanted = self.look_up(topic, epoch, found);
            self.topics.insert(topic, wanted);
        }
        &self.topics.wanted[topic]
    }

    fn look_up(&self, topic: &str, epoch: RouteEpoch, found: &mut Resolution) -> Wanted {
        let mut shards: Vec<(ShardId, Vec<RouteId>)> = Vec::new();
        let Ok(topic) = TopicName::parse(topic, &TopicLimits::PROTOCOL) else {
            // Nobody can have subscribed to it.
            return Wanted { epoch, shards };
        };
        self.routes.resolve(topic, found);
        for transient in &found.transient {
            for shard in transient.shards.iter() {
                match shards.iter_mut().find(|(known, _)| *known == shard) {
                    Some((_, routes)) => routes.push(transient.route),
                    None => shards.push((shard, vec![transient.route])),
                }
            }
        }
        Wanted { epoch: found.epoch, shards }
    }

    /// Where a member of a shared group is, if it is still here; a later life of it is as good.
    fn member(&self, to: &Addressee<'_>, text: &mut String) -> Option<(ShardId, MemberTarget)> {
        let Addressee::Member { filter, group, is_ordered, id, incarnation } = *to else {
            return None;
        };
        text.clear();
        let prefix = if is_ordered { "$oshare" } else { "$share" };
        let _ = write!(text, "{prefix}/{group}/{filter}");
        let filter = TopicFilter::parse(text, &TopicLimits::PROTOCOL).ok()?;
        let route = self.routes.find(&filter)?;
        let group = self.routes.group(route, group, is_ordered)?;
        let here = group.members.iter().find_map(|member| match member.target {
            GroupTarget::Session(session)
                if member.id == id && member.incarnation >= incarnation =>
            {
                Some(session)
            }
            _ => None,
        })?;
        let target = MemberTarget {
            slot: here.slot,
            generation: here.generation,
            route,
            group: group_key(&group.name, is_ordered),
            hops: FROM_AWAY,
        };
        Some((here.shard, target))
    }
}

impl Topics {
    fn new(hold: Hold) -> Self {
        Topics { wanted: HashMap::default(), routes: 0, hold }
    }

    /// Remembers a topic in place of what was known of it; forgets all others if they are too many.
    fn insert(&mut self, topic: &str, wanted: Wanted) {
        if self.routes + wanted.routes() > ROUTES_MAX {
            self.wanted.clear();
            self.routes = 0;
            self.hold.resize(0);
        }
        self.routes += wanted.routes();
        let mut bytes = self.hold.bytes() + wanted.memory_bytes() + topic.len();
        if let Some(before) = self.wanted.insert(topic.into(), wanted) {
            self.routes -= before.routes();
            bytes -= before.memory_bytes() + topic.len();
        }
        self.hold.resize(bytes);
    }
}

impl Wanted {
    fn routes(&self) -> usize {
        1 + self.shards.iter().map(|(_, routes)| routes.len()).sum::<usize>()
    }

    /// About how many bytes it holds, with its place in a table.
    fn memory_bytes(&self) -> usize {
        let routes = self.shards.iter().map(|(_, routes)| 40 + routes.len() * 8).sum::<usize>();
        size_of::<Self>() + 32 + routes
    }
}

impl Deliverer for Arrivals {
    fn deliver(&self, parcels: &[Parcel<'_>], fates: &mut Vec<Fate>) {
        let mut state = self.state.lock();
        self.forget(&mut state);
        fates.extend(parcels.iter().map(|parcel| self.take(&mut state, parcel)));
        for (mailbox, outbound) in self.mailboxes.iter().zip(&mut state.outbound) {
            if !outbound.batch.is_empty() {
                outbound.bytes = 0;
                mailbox.hand_over(self.lane(), &mut outbound.batch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(routes: usize) -> Wanted {
        let route = RouteId { index: 0, generation: 0 };
        Wanted { epoch: RouteEpoch(1), shards: vec![(ShardId(0), vec![route; routes])] }
    }

    /// DIST-006: bounded per tenant; charged as long as it is there.
    #[test]
    fn what_is_known_of_topics_stays_within_its_bound_and_is_charged() {
        let memory = Accountant::default();
        let mut topics = Topics::new(memory.account("t").hold(Share::Caches, 0));
        for number in 0..ROUTES_MAX {
            topics.insert(&format!("t/{}", number % 150_000), wanted(number % 3));
            assert!(topics.routes <= ROUTES_MAX, "{} routes", topics.routes);
        }
        let sum = |each: fn(&Wanted) -> usize| topics.wanted.values().map(each).sum::<usize>();
        assert_eq!(topics.routes, sum(Wanted::routes));
        let names: usize = topics.wanted.keys().map(|topic| topic.len()).sum();
        assert_eq!(topics.hold.bytes(), sum(Wanted::memory_bytes) + names);
        // One topic that is larger than the bound is known alone.
        topics.insert("large", wanted(2 * ROUTES_MAX));
        assert_eq!(topics.wanted.len(), 1);
        topics.insert("small", wanted(1));
        assert_eq!((topics.wanted.len(), topics.routes), (1, 2));
    }
}

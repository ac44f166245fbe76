//! Questions of operators, answered from any node: where sessions are, which there are, and that
//! they end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ratatosk_contract::session_dict::EndCause;
use ratatosk_contract::{ClientId, SessionIdentity, SessionRef, TenantId};
use ratatosk_rpc::{Call, Error, HostId, Target, Tenant};

use super::convert::{self, Malformed};
use super::serve::PAGE_MAX;
use super::{ClusterDict, Inner, first_of, server_id, wire};
use crate::entry::Key;
use crate::protocol::{Host, Location, Registration};

/// How long another node has to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of identities in one message, about.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// And how many.
const IDENTITIES_MAX: usize = 8_192;
/// Sessions that are looked at under one lock.
const LOOKS: usize = 1_024;

/// Who holds a session.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The node.
    pub host: HostId,
    /// The connection there.
    pub session: SessionRef,
}

/// A part of the sessions of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// In the order of client ids, of one client id in the order of users.
    pub sessions: Vec<(SessionIdentity, Owner)>,
    /// There are more behind the last.
    pub has_more: bool,
    /// Every server has answered; otherwise some sessions may be missing.
    pub is_whole: bool,
}

/// Whose sessions are to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Victims {
    /// One session.
    Session(SessionIdentity),
    /// All of a user segment of a tenant.
    User(TenantId, Arc<str>),
    /// All of a tenant.
    Tenant(TenantId),
}

/// What became of it.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Killed {
    /// Sessions that are about to end.
    pub count: u64,
    /// Every node has answered; otherwise there may be more.
    pub is_whole: bool,
}

impl ClusterDict {
    /// Who holds each of the sessions, in their order: one question to each server, all at once.
    /// Where a server does not know all, or does not answer, every node is asked. DICT-002, DICT-005
    pub async fn locate(&self, identities: &[SessionIdentity]) -> Vec<Option<Owner>> {
        let places = self.inner.locate(identities).await;
        places.into_iter().map(|place| place.as_ref().map(Owner::of)).collect()
    }

    /// The sessions of a tenant on all nodes behind `after`, of which only client id and user count;
    /// at most `count_max`, and never more than 10,000.
    pub async fn listing(
        &self,
        tenant: &TenantId,
        after: Option<&SessionIdentity>,
        count_max: usize,
    ) -> Listing {
        self.inner.listing(tenant, after, count_max.min(PAGE_MAX)).await
    }

    /// Has sessions ended, on whichever node they are. DICT-002, DICT-003
    pub async fn kill(&self, victims: &Victims) -> Killed {
        let inner = &self.inner;
        let peers: Vec<Host> = inner.state.lock().roster.peers().iter().copied().collect();
        let others = peers.into_iter().map(|host| async move {
            let (call, target) = (call(), Target::Server(server_id(host)));
            inner.peers.kill(call, &target, victims.write()).await
        });
        let (here, there) = tokio::join!(inner.kill_here(victims), join_all(others));
        let mut killed = Killed { count: here, is_whole: true };
        for answer in there {
            match answer {
                Ok(answer) => killed.count = killed.count.saturating_add(answer.count),
                Err(_) => killed.is_whole = false,
            }
        }
        killed
    }
}

impl Owner {
    fn of(registration: &Registration) -> Self {
        Self { host: HostId(registration.host.0), session: registration.session }
    }
}

impl Victims {
    fn write(&self) -> wire::Victims {
        let (tenant, user, client) = match self {
            Self::Session(SessionIdentity { tenant, user, client }) => {
                (tenant, user.clone(), Some(client.as_str().to_owned()))
            }
            Self::User(tenant, user) => (tenant, Some(Arc::clone(user)), None),
            Self::Tenant(tenant) => (tenant, None, None),
        };
        let user = user.as_deref().map(str::to_owned);
        wire::Victims { tenant: tenant.as_str().to_owned(), user, client }
    }

    pub(super) fn read(victims: &wire::Victims) -> Result<Self, Malformed> {
        let wire::Victims { tenant, user, client } = victims.clone();
        let is_session = client.is_some();
        let identity = wire::Identity { tenant, user, client: client.unwrap_or_default() };
        let identity = convert::read_identity(&identity)?;
        Ok(match identity {
            identity if is_session => Self::Session(identity),
            SessionIdentity { tenant, user: Some(user), .. } => Self::User(tenant, user),
            SessionIdentity { tenant, .. } => Self::Tenant(tenant),
        })
    }

    fn tenant(&self) -> &TenantId {
        match self {
            Self::Session(SessionIdentity { tenant, .. })
            | Self::User(tenant, _)
            | Self::Tenant(tenant) => tenant,
        }
    }
}

pub(super) fn call() -> Call {
    Call::new(Tenant::none()).within(PATIENCE)
}

pub(super) fn found(places: &[Option<Registration>], is_complete: bool) -> wire::Found {
    let places = places
        .iter()
        .map(|place| wire::Place { registration: place.as_ref().map(convert::registration) });
    wire::Found { places: places.collect(), is_complete }
}

impl Inner {
    /// What the server of this process knows, and whether that is all; `None` if it is none.
    pub(super) fn find_at_server(
        &self,
        identities: &[SessionIdentity],
    ) -> Option<(Vec<Option<Registration>>, bool)> {
        let directory = self.directory.as_ref()?.lock();
        let places = identities.iter().map(|identity| directory.find(identity)).collect();
        Some((places, directory.is_settled()))
    }

    /// What this node holds itself.
    pub(super) fn find_here(&self, identities: &[SessionIdentity]) -> Vec<Option<Registration>> {
        let state = self.state.lock();
        let place = |identity| {
            let (session, stamp) = state.roster.held(identity)?;
            Some(Registration { host: self.me, session, stamp })
        };
        identities.iter().map(place).collect()
    }

    /// A page of the server of this process, and whether there are more.
    pub(super) fn list_at_server(
        &self,
        tenant: &TenantId,
        after: Option<&SessionIdentity>,
        count_max: usize,
    ) -> Option<(Vec<Location>, bool)> {
        let directory = self.directory.as_ref()?.lock();
        let (mut locations, is_whole) = directory.list(tenant, after, count_max);
        let mut bytes = 0;
        let fits = locations.iter().take_while(|location| {
            bytes += convert::identity_bytes(&location.identity);
            bytes <= 2 * MESSAGE_BYTES_MAX
        });
        let count = fits.count();
        let has_more = !is_whole || count < locations.len();
        locations.truncate(count);
        Some((locations, has_more))
    }

    async fn locate(self: &Arc<Self>, identities: &[SessionIdentity]) -> Vec<Option<Registration>> {
        let (view, peers) = {
            let state = self.state.lock();
            (Arc::clone(state.roster.view()), state.roster.peers().clone())
        };
        let mut by_server: BTreeMap<Host, Vec<usize>> = BTreeMap::new();
        let mut doubted: Vec<usize> = Vec::new();
        for (index, identity) in identities.iter().enumerate() {
            match view.server(identity) {
                Some(server) => by_server.entry(server).or_default().push(index),
                None => doubted.push(index),
            }
        }
        let mut places = vec![None; identities.len()];
        let asked = by_server.into_iter().map(|(server, indexes)| async move {
            let answer = self.find_by(server, identities, &indexes, Asked::Server).await;
            (indexes, answer)
        });
        for (indexes, answer) in join_all(asked).await {
            let is_complete = answer.as_ref().is_some_and(|(_, is_complete)| *is_complete);
            merge(&mut places, &indexes, answer.map(|(places, _)| places));
            if !is_complete {
                doubted.extend(indexes);
            }
        }
        if doubted.is_empty() {
            return places;
        }
        let nodes = peers.into_iter().chain([self.me]);
        let (doubted, places_of) =
            (&doubted, |host| self.find_by(host, identities, &doubted, Asked::Node));
        let answers = join_all(nodes.map(places_of)).await;
        for answer in answers {
            merge(&mut places, doubted, answer.map(|(places, _)| places));
        }
        places
    }

    /// Asks one host for some of the identities; `None` if it does not answer.
    async fn find_by(
        &self,
        host: Host,
        identities: &[SessionIdentity],
        indexes: &[usize],
        asked: Asked,
    ) -> Option<(Vec<Option<Registration>>, bool)> {
        let wanted: Vec<SessionIdentity> =
            indexes.iter().map(|index| identities[*index].clone()).collect();
        if host == self.me {
            return match asked {
                Asked::Server => self.find_at_server(&wanted),
                Asked::Node => Some((self.find_here(&wanted), true)),
            };
        }
        let (mut places, mut is_complete) = (Vec::with_capacity(wanted.len()), true);
        for part in parts(&wanted) {
            let target = Target::Server(server_id(host));
            let message =
                wire::Identities { identities: part.iter().map(convert::identity).collect() };
            let answer = match asked {
                Asked::Server => self.directories.find(call(), &target, message).await,
                Asked::Node => self.peers.find(call(), &target, message).await,
            };
            let answer = answer.ok().filter(|answer| answer.places.len() == part.len())?;
            is_complete &= answer.is_complete;
            for place in &answer.places {
                let read = place.registration.as_ref().map(|registration| {
                    convert::read_registration(registration, self.clock.wall())
                });
                places.push(read.transpose().ok()?);
            }
        }
        Some((places, is_complete))
    }

    async fn listing(
        self: &Arc<Self>,
        tenant: &TenantId,
        after: Option<&SessionIdentity>,
        count_max: usize,
    ) -> Listing {
        let view = Arc::clone(self.state.lock().roster.view());
        let pages =
            view.servers().iter().map(|server| self.page(*server, tenant, after, count_max));
        let pages = join_all(pages).await;
        let is_whole = pages.iter().all(Result::is_ok) && !view.servers().is_empty();
        let pages: Vec<(Vec<Location>, bool)> = pages.into_iter().flatten().collect();
        // Behind the last one of a page that has more there may be others that are not seen.
        let ends = pages.iter().filter(|(_, has_more)| *has_more);
        let end =
            ends.map(|(page, _)| page.last().map(|last| last.identity.clone())).min_by(|a, b| {
                let keys = [a, b].map(|end| end.as_ref().map(Key::of));
                keys[0].cmp(&keys[1])
            });
        let mut merged: BTreeMap<(ClientId, Option<Arc<str>>), Registration> = BTreeMap::new();
        for location in pages.into_iter().flat_map(|(page, _)| page) {
            let Location { identity, registration } = location;
            let is_seen = end.as_ref().is_none_or(|end| {
                end.as_ref().is_some_and(|end| Key::of(&identity) <= Key::of(end))
            });
            if is_seen {
                let held = merged.entry((identity.client, identity.user)).or_insert(registration);
                if registration.stamp > held.stamp {
                    *held = registration;
                }
            }
        }
        let has_more = end.is_some() || merged.len() > count_max;
        let sessions = merged.into_iter().take(count_max).map(|((client, user), registration)| {
            let identity = SessionIdentity { tenant: tenant.clone(), user, client };
            (identity, Owner::of(&registration))
        });
        Listing { sessions: sessions.collect(), has_more, is_whole }
    }

    async fn page(
        &self,
        server: Host,
        tenant: &TenantId,
        after: Option<&SessionIdentity>,
        count_max: usize,
    ) -> Result<(Vec<Location>, bool), Error> {
        if server == self.me {
            let page = self.list_at_server(tenant, after, count_max);
            return page.ok_or_else(|| Error::NoServer { service: server.to_string() });
        }
        let page = wire::Page {
            tenant: tenant.as_str().to_owned(),
            after: after.map(convert::identity),
            count_max: u32::try_from(count_max).unwrap_or(u32::MAX),
        };
        let target = Target::Server(server_id(server));
        let listed = self.directories.list(call(), &target, page).await?;
        let read = |location: &wire::Location| {
            let identity = location.identity.as_ref().map(convert::read_identity)?.ok()?;
            let registration = location.registration.as_ref()?;
            let wall = self.clock.wall();
            let registration = convert::read_registration(registration, wall).ok()?;
            (identity.tenant == *tenant).then_some(Location { identity, registration })
        };
        let locations = listed.locations.iter().map(read).collect::<Option<Vec<_>>>();
        let locations = locations
            .ok_or_else(|| Error::Refused { why: "a listing means nothing".to_owned() })?;
        Ok((locations, listed.has_more))
    }

    /// Has sessions of this node ended; how many.
    pub(super) async fn kill_here(&self, victims: &Victims) -> u64 {
        if let Victims::Session(identity) = victims {
            let state = self.state.lock();
            let held = state.roster.find(identity);
            held.into_iter().for_each(|session| self.holders.end(session, EndCause::Kicked));
            return u64::from(held.is_some());
        }
        let tenant = victims.tenant();
        let (mut at, mut count) = (first_of(tenant), 0);
        let mut seen = BTreeSet::new();
        loop {
            {
                let state = self.state.lock();
                let from = std::ops::Bound::Included(&at);
                let some: Vec<_> = state
                    .roster
                    .sessions(from)
                    .take(LOOKS)
                    .take_while(|(identity, _)| identity.tenant == *tenant)
                    .map(|(identity, session)| (Arc::clone(identity), session))
                    .collect();
                for (identity, session) in &some {
                    let is_meant = match victims {
                        Victims::User(_, user) => identity.user.as_ref() == Some(user),
                        Victims::Session(_) | Victims::Tenant(_) => true,
                    };
                    // The first is the last of those before.
                    if is_meant && seen.insert(*session) {
                        self.holders.end(*session, EndCause::Kicked);
                        count += 1;
                    }
                }
                let last = some.last().map(|(identity, _)| (**identity).clone());
                match last {
                    Some(last) if some.len() == LOOKS => at = last,
                    _ => return count,
                }
                seen.clear();
                seen.extend(some.last().map(|(_, session)| *session));
            }
            // Others have their turn.
            tokio::task::yield_now().await;
        }
    }
}

#[derive(Copy, Clone, Debug)]
enum Asked {
    Server,
    Node,
}

/// Parts that go in one message each.
fn parts(identities: &[SessionIdentity]) -> Vec<&[SessionIdentity]> {
    let (mut parts, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (index, identity) in identities.iter().enumerate() {
        let more = convert::identity_bytes(identity);
        if index > begin && (bytes + more > MESSAGE_BYTES_MAX || index - begin == IDENTITIES_MAX) {
            parts.push(&identities[begin..index]);
            (begin, bytes) = (index, 0);
        }
        bytes += more;
    }
    parts.push(&identities[begin..]);
    parts
}

/// Keeps the newest of each place.
fn merge(
    places: &mut [Option<Registration>],
    indexes: &[usize],
    found: Option<Vec<Option<Registration>>>,
) {
    for (index, place) in indexes.iter().zip(found.into_iter().flatten()) {
        let order = |place: &Option<Registration>| place.map(|place| (place.stamp, place.host));
        if order(&place) > order(&places[*index]) {
            places[*index] = place;
        }
    }
}

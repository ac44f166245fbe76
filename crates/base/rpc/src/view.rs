//! A landscape as this node calls it: the router, and the way to each of its servers.
//!
//! Made anew with each change of the landscape; links to hosts that are in both are the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::balance::{Pool, Router, ServerIndex, Target};
use crate::draw::Draws;
use crate::error::Error;
use crate::identity::{HostId, ServerId, Tenant, Version};
use crate::landscape::{Landscape, ServerRecord};
use crate::node::{Hosted, Shared};
use crate::transport::Link;

/// What is known of the servers of a service, and how they are reached.
#[derive(Debug)]
pub(crate) struct View {
    router: Router,
    /// In the order of the router's servers.
    seats: Box<[Arc<Seat>]>,
    /// In the order of the router's pools.
    turns: Box<[AtomicU64]>,
    has_local: bool,
    own_version: Version,
}

/// A server and the way to it.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Its name.
    pub(crate) id: ServerId,
    /// Its process.
    pub(crate) host: HostId,
    /// How it is reached.
    pub(crate) way: Way,
}

#[derive(Debug)]
pub(crate) enum Way {
    /// It is in this process.
    Here(Arc<Hosted>),
    /// By connections, one after the other.
    There(Box<[Arc<Link>]>, AtomicUsize),
    /// Its process does not listen.
    Nowhere,
}

impl Seat {
    fn new(shared: &Shared, record: &ServerRecord) -> Self {
        let way = if record.host == shared.config.identity.host {
            let hosted = shared.hosted(record.service.as_str(), record.id.as_str());
            hosted.map_or(Way::Nowhere, Way::Here)
        } else {
            let links = record.address.map(|address| shared.links.to(address, record.host));
            links.map_or(Way::Nowhere, |links| Way::There(links, AtomicUsize::new(0)))
        };
        Self { id: record.id.clone(), host: record.host, way }
    }

    /// Whether it is the same life of the same server.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && self.host == other.host
    }

    /// Whether a call has a chance.
    pub(crate) fn is_usable(&self) -> bool {
        match &self.way {
            Way::Here(_) => true,
            Way::There(links, _) => links.iter().any(|link| !link.is_down()),
            Way::Nowhere => false,
        }
    }

    const fn is_here(&self) -> bool {
        matches!(self.way, Way::Here(_))
    }
}

/// One of several links in turn, one that is up if there is one.
pub(crate) fn link<'a>(links: &'a [Arc<Link>], turn: &AtomicUsize) -> Option<&'a Arc<Link>> {
    let turn = turn.fetch_add(1, Ordering::Relaxed) % links.len().max(1);
    let (before, behind) = links.split_at_checked(turn)?;
    behind.iter().chain(before).find(|link| !link.is_down()).or(behind.first())
}

impl View {
    pub(crate) fn new(shared: &Shared, landscape: &Landscape) -> Self {
        let own_version = shared.config.identity.version;
        let router = Router::new(landscape, own_version);
        let seat = |record| Arc::new(Seat::new(shared, record));
        let seats: Box<[Arc<Seat>]> = router.servers().iter().map(seat).collect();
        let turns = (0..router.pool_count()).map(|_| AtomicU64::new(0)).collect();
        let has_local = seats.iter().any(|seat| seat.is_here());
        Self { router, seats, turns, has_local, own_version }
    }

    /// The server for a call.
    pub(crate) fn pick(
        &self,
        tenant: &Tenant,
        target: &Target,
        draws: &Draws,
    ) -> Result<&Arc<Seat>, NoSeat> {
        let index = self.router.pool_of(tenant);
        let pool = self.router.pool(index);
        let is_usable = |server: ServerIndex| self.seats[server.0].is_usable();
        let server = match target {
            Target::Server(id) => self.router.server(id.as_str()),
            Target::Hashed(key) => pool.hashed(key),
            Target::Rendezvous(key) => pool.rendezvous(key),
            Target::Random | Target::RoundRobin if self.has_local && self.local(pool).is_some() => {
                self.local(pool)
            }
            Target::Random => pool.random(draws.next(), is_usable),
            Target::RoundRobin => {
                let turn = self.turns[index.0].fetch_add(1, Ordering::Relaxed);
                pool.round_robin(turn, is_usable)
            }
        };
        let barred = self.router.barred();
        server.map(|server| &self.seats[server.0]).ok_or(NoSeat { ours: self.own_version, barred })
    }

    /// Whether what speaks with `seat` is to stay there: the choice would fall on it again, or
    /// could, and nothing is wrong with it.
    pub(crate) fn keeps(
        &self,
        seat: &Seat,
        tenant: &Tenant,
        target: &Target,
        draws: &Draws,
    ) -> bool {
        match target {
            Target::Random | Target::RoundRobin => {
                let pool = self.router.pool(self.router.pool_of(tenant));
                let index = self.router.server(seat.id.as_str());
                index.is_some_and(|index| pool.has(index) && self.seats[index.0].is_same(seat))
            }
            Target::Server(_) | Target::Hashed(_) | Target::Rendezvous(_) => {
                self.pick(tenant, target, draws).is_ok_and(|picked| picked.is_same(seat))
            }
        }
    }

    fn local(&self, pool: &Pool) -> Option<ServerIndex> {
        pool.servers().find(|server| self.seats[server.0].is_here())
    }
}

/// Nobody works for the call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoSeat {
    ours: Version,
    barred: Option<Version>,
}

impl NoSeat {
    /// What it means for a call: a version out of reach if there are only such servers.
    pub(crate) fn error(self, service: &str) -> Error {
        match self.barred {
            Some(theirs) => Error::Version { ours: self.ours, theirs },
            None => Error::NoServer { service: service.to_owned() },
        }
    }
}

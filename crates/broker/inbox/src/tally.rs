//! What happened to the messages of each tenant in one partition.
//!
//! A session knows the place of its tenant's tally, so that counting looks nothing up. Tallies stay
//! when the last session is gone, for counters do not go back: a tenant has at most one a
//! partition.

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use ratatosk_contract::TenantId;

use crate::InboxStats;

/// The tallies of a partition.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    places: HashMap<TenantId, TallyPlace, RandomState>,
    tallies: Vec<InboxStats>,
}

/// Where the tally of a tenant is.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TallyPlace(u32);

impl Tallies {
    /// The place of a tenant's tally, which is made if there is none.
    pub(crate) fn place(&mut self, tenant: &TenantId) -> TallyPlace {
        if let Some(place) = self.places.get(tenant) {
            return *place;
        }
        let place = TallyPlace(u32::try_from(self.tallies.len()).unwrap_or(u32::MAX));
        self.tallies.push(InboxStats::default());
        self.places.insert(tenant.clone(), place);
        place
    }

    /// The place of a tenant's tally, if it has one.
    pub(crate) fn find(&self, tenant: &TenantId) -> Option<TallyPlace> {
        self.places.get(tenant).copied()
    }

    /// The tally at a place that was given.
    pub(crate) fn at(&mut self, place: TallyPlace) -> &mut InboxStats {
        &mut self.tallies[place.0 as usize]
    }

    /// The tally of a tenant, where no session of it is at hand.
    pub(crate) fn of(&mut self, tenant: &TenantId) -> &mut InboxStats {
        let place = self.place(tenant);
        self.at(place)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &InboxStats> {
        self.tallies.iter()
    }
}

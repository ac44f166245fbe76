//! Routes of persistent sessions, which follow from the records of these.
//!
//! Oracles: the routes in memory are those of the sessions at any moment; those in the store are
//! when nothing is on its way, whatever crashes parted the one from the other. The faults that
//! `planted` knows of them are put in between the service and its log.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use ratatosk_client::{Busy, Done, Keyspace, Read};
use ratatosk_contract::dist::Dist;
use ratatosk_dist::DistService;
use ratatosk_engine::Error;

use crate::ledger::{FILTERS, Ledger};
use crate::simulation::{Checked, Simulation};

/// By session and filter, with the QoS.
pub(crate) type Routes = BTreeSet<(u64, String, u8)>;

/// The routes of persistent sessions that a service has.
pub(crate) fn of(dist: &DistService) -> Routes {
    let mut found = Vec::new();
    for tenant in dist.tenants() {
        let (routes, mut next) = (dist.tenant(&tenant), Some(0));
        while let Some(from) = next {
            next = routes.stored(from, &mut found);
        }
    }
    let route = |held: ratatosk_contract::dist::StoredRoute| {
        (held.route.inbox.0, held.filter.into_string(), held.route.options.qos as u8)
    };
    found.into_iter().map(route).collect()
}

impl Ledger {
    /// The routes that follow from the sessions.
    pub(crate) fn routes(&self) -> Routes {
        let of = |session: &std::rc::Rc<crate::ledger::Session>| {
            let inbox = session.inbox;
            let subscriptions = session.subscriptions.clone().into_iter();
            subscriptions.map(move |(filter, qos)| (inbox, FILTERS[filter].to_owned(), qos))
        };
        self.sessions.values().flat_map(of).collect()
    }
}

impl Simulation {
    /// Whether the routes are those of the sessions: in memory, and if all is at rest in the store.
    pub(crate) fn check_routes(&self) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        let expected = self.ledgers.now().routes();
        let held = of(&node.dist);
        if held != expected {
            return Err(format!("the routes are {held:?}, the sessions have {expected:?}"));
        }
        if !node.store.is_idle() {
            return Ok(());
        }
        let stored = node.stored_routes().map_err(|stopped| stopped.0)?;
        match stored == expected {
            true => Ok(()),
            false => Err(format!("stored routes are {stored:?}, the sessions have {expected:?}")),
        }
    }
}

/// The planted fault: a keyspace into which no removal comes.
pub(crate) struct Forgetful(pub(crate) Arc<dyn Keyspace>);

impl Keyspace for Forgetful {
    fn check(&self) -> Result<(), Busy> {
        self.0.check()
    }

    fn submit(&self, key: &[u8], command: Bytes, done: Done) {
        // Version, tenant of one letter, effect.
        let is_removal = command.get(3) == Some(&2);
        if !is_removal {
            self.0.submit(key, command, done);
        }
    }

    fn read(&self, read: &mut Read<'_>) -> Result<(), Error> {
        self.0.read(read)
    }
}

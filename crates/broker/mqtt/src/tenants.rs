//! The tenants that this node has seen, by number.
//!
//! A number stands for a tenant in what shards say to each other, so that no name is compared or
//! counted on the packet path. Numbers are never reused while the process lives; a tenant that
//! was seen once costs a few hundred bytes from then on.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use ratatosk_contract::TenantId;

/// Stands for a tenant within this process.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TenantNumber(pub(crate) u32);

/// The tenants by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tenants(Arc<RwLock<Numbers>>);

#[derive(Debug, Default)]
struct Numbers {
    by_name: HashMap<TenantId, TenantNumber>,
    names: Vec<TenantId>,
}

impl Tenants {
    /// The tenant's number, given when it is first asked for.
    pub(crate) fn number(&self, tenant: &TenantId) -> TenantNumber {
        if let Some(number) = self.0.read().by_name.get(tenant) {
            return *number;
        }
        let mut numbers = self.0.write();
        if let Some(number) = numbers.by_name.get(tenant) {
            return *number;
        }
        let count = u32::try_from(numbers.names.len()).expect("fewer than four billion tenants");
        let number = TenantNumber(count);
        numbers.names.push(tenant.clone());
        numbers.by_name.insert(tenant.clone(), number);
        number
    }

    /// The tenant's number, if it has one.
    pub(crate) fn find(&self, tenant: &TenantId) -> Option<TenantNumber> {
        self.0.read().by_name.get(tenant).copied()
    }

    /// The one copy of a tenant's name, for all its sessions to share.
    pub(crate) fn share(&self, tenant: &TenantId) -> TenantId {
        self.name(self.number(tenant))
    }

    /// The name behind a number.
    pub(crate) fn name(&self, number: TenantNumber) -> TenantId {
        self.0.read().names[number.0 as usize].clone()
    }
}

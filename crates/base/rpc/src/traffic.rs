//! Traffic rules: which groups of servers work for a tenant, and in which shares.
//!
//! A rule for a tenant by name comes before one for a prefix, and the longest prefix before
//! shorter ones. Exactly one rule holds for a tenant, or none: then the default group works for
//! it. A rule whose groups have no server leaves its tenants without one; it does not fall back,
//! because an operator who keeps tenants apart would not want that.

use std::collections::BTreeMap;

use crate::identity::{Group, Tenant};

/// A share of the traffic, 0 to 10. A group of weight 0 gets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u8);

impl Weight {
    /// The greatest share.
    pub const MAX: Self = Self(10);
    /// What servers of the default group have.
    pub const ONE: Self = Self(1);

    /// The weight `value`, or none when it is beyond [`Weight::MAX`].
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        if value > Self::MAX.0 { None } else { Some(Self(value)) }
    }

    /// The number, 0 to 10.
    #[must_use]
    pub const fn value(self) -> u8 {
        self.0
    }
}

/// Whom a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The tenant of this name and no other.
    Tenant(Tenant),
    /// Every tenant whose name begins so; the empty prefix is every tenant.
    Prefix(Tenant),
}

/// The shares of the groups under one rule. A group that is not listed gets nothing.
pub type Shares = BTreeMap<Group, Weight>;

/// The traffic rules of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    rules: BTreeMap<Scope, Shares>,
}

impl Rules {
    /// Puts a rule in place of what was there for its scope.
    pub fn set(&mut self, scope: Scope, shares: Shares) {
        self.rules.insert(scope, shares);
    }

    /// Takes the rule of a scope away; whether there was one.
    pub fn remove(&mut self, scope: &Scope) -> bool {
        self.rules.remove(scope).is_some()
    }

    /// All rules, by scope.
    pub fn iter(&self) -> impl Iterator<Item = (&Scope, &Shares)> {
        self.rules.iter()
    }
}

/// The shares that pin a tenant to one group.
#[must_use]
pub fn pinned_to(group: Group) -> Shares {
    Shares::from([(group, Weight::MAX)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_zero_to_ten() {
        assert_eq!(Weight::new(0).map(Weight::value), Some(0));
        assert_eq!(Weight::new(10), Some(Weight::MAX));
        assert_eq!(Weight::new(11), None);
    }
}

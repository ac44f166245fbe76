//! Whose client an authenticated user is.
//!
//! Only a name that was proven, by password or certificate, is ever split: a client that claims
//! another tenant in its name would have to know the password of that name.

use crate::auth::Grant;

/// How the tenant follows from the proven user name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenancy {
    /// All users are of one tenant.
    Single(String),
    /// `tenant/user` names both; a name without `/` is of the default tenant.
    FromUser {
        /// The tenant of names without one.
        default: String,
    },
}

impl Tenancy {
    /// The grant of a user whose name is proven.
    pub fn grant(&self, name: &str) -> Grant {
        let (tenant, user) = match self {
            Self::Single(tenant) => (tenant.as_str(), name),
            Self::FromUser { default } => match name.split_once('/') {
                Some((tenant, user)) if !tenant.is_empty() => (tenant, user),
                _ => (default.as_str(), name),
            },
        };
        Grant { tenant: tenant.to_owned(), user: user.to_owned(), ..Grant::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tenancy: &Tenancy, name: &str, expected: (&str, &str)) {
        let grant = tenancy.grant(name);
        assert_eq!((grant.tenant.as_str(), grant.user.as_str()), expected, "{name}");
    }

    /// TEN-027: the tenant follows from the proven name by the operator's rule.
    #[test]
    fn the_tenant_is_the_operators_choice() {
        let single = Tenancy::Single("main".to_owned());
        check(&single, "acme/alice", ("main", "acme/alice"));
        let split = Tenancy::FromUser { default: "main".to_owned() };
        check(&split, "acme/alice", ("acme", "alice"));
        check(&split, "acme/alice/phone", ("acme", "alice/phone"));
        check(&split, "alice", ("main", "alice"));
        check(&split, "/alice", ("main", "/alice"));
    }
}

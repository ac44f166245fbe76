//! Who is who: hosts, clusters, servers, groups, tenants, and which versions speak with each other.
//!
//! Names are parsed once: a value of these types keeps within its bounds, so whatever is written
//! to the wire fits its field. Cheap to clone.

use std::fmt;
use std::sync::Arc;

/// Longest name of a service, server, group, tenant or environment, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// A name that cannot be one. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("a name of {bytes} bytes is longer than {NAME_BYTES_MAX}")]
    Long {
        /// Its length.
        bytes: usize,
    },
    /// Empty where something must be named.
    #[error("the name is empty")]
    Empty,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $may_be_empty:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name in `text`.
            ///
            /// # Errors
            /// When the text is too long, or is empty and may not be.
            pub fn new(text: &str) -> Result<Self, NameError> {
                if text.is_empty() && !$may_be_empty {
                    return Err(NameError::Empty);
                }
                if text.len() > NAME_BYTES_MAX {
                    return Err(NameError::Long { bytes: text.len() });
                }
                Ok(Self(Arc::from(text)))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "{:?}", &*self.0)
            }
        }
    };
}

name! {
    /// What is called: the full name of a service in its `.proto`, such as `ratatosk.kv.Ranges`.
    ServiceName, false
}
name! {
    /// One server of a service, unique within the service and the cluster.
    ServerId, false
}
name! {
    /// A group of servers that traffic rules speak of. The empty name is the default group.
    Group, true
}
name! {
    /// Whose call it is. Empty for what the cluster does on its own behalf.
    Tenant, true
}
name! {
    /// What keeps clusters apart whose operators want them apart, such as `production`.
    Environment, true
}

impl Group {
    /// The group of the servers that name none, and of the tenants that no rule speaks of.
    #[must_use]
    pub fn default_group() -> Self {
        Self(Arc::from(""))
    }
}

impl Tenant {
    /// The cluster itself.
    #[must_use]
    pub fn none() -> Self {
        Self(Arc::from(""))
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "{:032x}", self.0)
            }
        }
    };
}

number! {
    /// One life of one process: random at each start, so that an address that another process
    /// took over is not mistaken for its predecessor.
    HostId
}
number! {
    /// Which cluster: random when it is made, the same in all its nodes, never that of another.
    ClusterId
}

/// Version of what nodes say to each other.
///
/// Versions of one major number whose minor numbers are at most one apart serve side by side, so
/// that a cluster can be upgraded node by node; others refuse each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Changes when old and new cannot understand each other.
    pub major: u16,
    /// Grows with each release that adds something.
    pub minor: u16,
}

impl Version {
    /// What this code speaks.
    pub const CURRENT: Self = Self { major: 1, minor: 0 };

    /// Whether nodes of the two versions serve side by side.
    #[must_use]
    pub const fn speaks_with(self, other: Self) -> bool {
        self.major == other.major && self.minor.abs_diff(other.minor) <= 1
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

/// What a node is to its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// The environment that it belongs to.
    pub environment: Environment,
    /// This life of this process.
    pub host: HostId,
    /// What it speaks.
    pub version: Version,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_one_minor_apart_speak_with_each_other_and_no_others() {
        let version = |major, minor| Version { major, minor };
        let cases = [
            (version(1, 3), version(1, 3), true),
            (version(1, 3), version(1, 4), true),
            (version(1, 3), version(1, 5), false),
            (version(1, 0), version(2, 0), false),
            (version(1, 9), version(2, 0), false),
            (version(1, 0), version(1, u16::MAX), false),
        ];
        for (one, other, expected) in cases {
            assert_eq!(one.speaks_with(other), expected, "{one} with {other}");
            assert_eq!(other.speaks_with(one), expected, "{other} with {one}");
        }
    }

    #[test]
    fn names_keep_within_their_bounds() {
        assert_eq!(ServiceName::new(""), Err(NameError::Empty));
        assert!(Group::new("").is_ok());
        assert!(Tenant::new(&"t".repeat(NAME_BYTES_MAX)).is_ok());
        let bytes = NAME_BYTES_MAX + 1;
        assert_eq!(Tenant::new(&"t".repeat(bytes)), Err(NameError::Long { bytes }));
    }
}

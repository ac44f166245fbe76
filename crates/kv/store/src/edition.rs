//! The version of a keyspace's commands.
//!
//! An *edition* says which commands a range takes and what they do; a [`Version`](crate::range::Version)
//! is another matter. Every range has one edition that is active, the same for all its replicas. A build
//! supports some for each keyspace, so that stores of two builds can keep a range together: it stays in
//! the older one until all of them support the newer one. It never falls.

use std::collections::BTreeMap;
use std::fmt;

use crate::range::Descriptor;

/// Which commands a range takes, and what they do.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edition(pub u64);

/// The editions that a build supports of a keyspace.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Editions {
    oldest: Edition,
    newest: Edition,
}

/// What a store supports, by keyspace.
pub type Supported = BTreeMap<String, Editions>;

impl Edition {
    /// That of the first release.
    pub const FIRST: Self = Self(1);
}

impl Editions {
    /// From one to another.
    ///
    /// # Panics
    /// If the newest is older than the oldest.
    #[must_use]
    pub const fn new(oldest: Edition, newest: Edition) -> Self {
        assert!(oldest.0 <= newest.0, "the newest is the oldest, or newer");
        Self { oldest, newest }
    }

    /// One.
    #[must_use]
    pub const fn only(edition: Edition) -> Self {
        Self { oldest: edition, newest: edition }
    }

    /// The first.
    #[must_use]
    pub const fn oldest(self) -> Edition {
        self.oldest
    }

    /// The last.
    #[must_use]
    pub const fn newest(self) -> Edition {
        self.newest
    }

    /// Whether an edition is among them.
    #[must_use]
    pub fn contains(self, edition: Edition) -> bool {
        (self.oldest..=self.newest).contains(&edition)
    }
}

/// Whether stores that tell this support an edition of a keyspace.
#[must_use]
pub fn supports(told: &Supported, keyspace: &str, edition: Edition) -> bool {
    told.get(keyspace).is_some_and(|editions| editions.contains(edition))
}

/// Why a build cannot keep a range, and what to do.
pub(crate) fn refusal(range: &Descriptor, supported: Option<Editions>) -> String {
    let Descriptor { group, keyspace, edition, .. } = range;
    let supported = supported.map_or("none".to_owned(), |editions| editions.to_string());
    format!(
        "range {} of {keyspace} has commands of edition {edition}, and this version of the program \
         supports {supported}: start a version that supports edition {edition} of {keyspace}, as all \
         stores of the range did when it was raised",
        group.0
    )
}

impl fmt::Display for Edition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Display for Editions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => self.oldest.fmt(formatter),
            false => write!(formatter, "{} to {}", self.oldest, self.newest),
        }
    }
}

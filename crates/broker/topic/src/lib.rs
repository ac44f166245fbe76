//! Topic names and filters: validation, matching, the filter index and the topic scan.
//!
//! Everything here is pure: text in, answers out. A [`TopicName`] or [`TopicFilter`] that exists is
//! valid within the limits it was parsed with. [`FilterIndex`] answers "which filters match this
//! topic", [`FilterScan`] the reverse over an ordered map of topics, [`rendezvous()`] picks the
//! member of an ordered shared group. Tenants, receivers and share groups are the matter of the services.

mod error;
mod filter;
mod index;
mod limits;
mod name;
mod rendezvous;
mod scan;
mod wildcard;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use error::TopicError;
pub use filter::{ORDERED_SHARE_PREFIX, SHARE_PREFIX, Share, TopicFilter};
pub use index::{FilterId, FilterIndex};
pub use limits::TopicLimits;
pub use name::TopicName;
pub use rendezvous::rendezvous;
pub use scan::{FilterScan, KeyError, Scan, TopicKey};
pub use wildcard::matches;

//! What the services of the broker say to each other.
//!
//! A service never depends on a service: mqtt, dist, inbox, retain and session-dict meet in the
//! traits and plain types of this crate, and only the binary joins them. Everything here is
//! synchronous: an answer is there at once ([`Call::Ready`]) or comes later under a
//! [`Ticket`], so that the packet path never waits for a future.
//!
//! This crate obeys the rules of a pure crate: no I/O, no async, no clock, no randomness.

pub mod call;
pub mod dist;
pub mod group;
pub mod identity;
pub mod inbox;
pub mod message;
pub mod record;
pub mod relay;
pub mod retain;
pub mod serving;
pub mod session_dict;
pub mod sessions;
pub mod settings;

pub use call::{Call, ReplyTo, Ticket};
pub use identity::{
    ClientId, HostNumber, PublisherId, SessionIdentity, SessionRef, ShardId, TenantId,
};
pub use message::{Message, StoredMessage};
pub use settings::TenantSettings;

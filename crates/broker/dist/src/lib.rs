//! Subscriptions and routing: which receivers a topic has.
//!
//! [`DistService`] keeps a table of routes per tenant, in memory. A change is effective when its
//! call returns: every later resolution shows it, and every kept one is outdated by the epoch.
//! Readers share a lock that they do not contend for; writers of a tenant wait for each other.
//!
//! Not here: what is done with the receivers (mqtt, inbox), and the sessions that a route stands
//! for on a shard (mqtt).

mod entry;
mod service;
mod stats;
mod table;
mod tenant;

#[cfg(test)]
mod tenant_test;

pub use service::DistService;
pub use stats::DistStats;

//! Subscriptions and routing: which receivers a topic has.
//!
//! [`DistService`] keeps a table of routes per tenant, in memory. A change is effective when its
//! call returns: every later resolution shows it, and every kept one is outdated by the epoch.
//! Readers share a lock that they do not contend for; writers of a tenant wait for each other.
//!
//! The routes of persistent sessions are kept in a keyspace, if there is one: [`DistCoprocessor`] has
//! them in the data of its ranges. Their sessions are the truth: after a crash the routes are
//! compared with them (decision 0011). Routes of transient sessions are in memory only. Where several nodes
//! match, each has replicas of these ranges, and its tables follow what they apply (decision 0024).
//!
//! Routes of other hosts are in the same tables, for as long as their hosts tell of them.
//!
//! Not here: what is done with the receivers (mqtt, inbox), and the sessions that a route stands
//! for on a shard (mqtt).

mod coprocessor;
mod division;
mod effect;
mod entry;
mod hosts;
mod journal;
mod replicas;
mod replicated;
mod schema;
mod service;
mod stats;
mod table;
mod tenant;

#[cfg(test)]
mod durable_fixture;
#[cfg(test)]
mod durable_random_test;
#[cfg(test)]
mod durable_test;
#[cfg(test)]
mod effect_test;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
#[cfg(test)]
mod replicated_random_test;
#[cfg(test)]
mod replicated_test;
#[cfg(test)]
mod tenant_test;

pub use coprocessor::DistCoprocessor;
pub use division::RouteDivision;
pub use ratatosk_client::{Loan, Replica, Replicas, StoreReplicas};
pub use service::DistService;
pub use stats::DistStats;

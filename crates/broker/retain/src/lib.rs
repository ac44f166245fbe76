//! The retained message of each topic.
//!
//! [`RetainService`] keeps the messages of each tenant in memory, ordered by the levels of their
//! topics, and answers a filter by skipping from one possible match to the next. A reader holds
//! nothing between two pages: a topic that stays is told once, one that comes or goes meanwhile
//! once or not at all.
//!
//! If it is kept in a keyspace, every change is written there as well, and messages survive a crash:
//! [`RetainCoprocessor`] has them in the data of its ranges. Where several nodes have them, each has replicas
//! of these ranges, and its memory follows what they apply (decision 0027).
//!
//! Not here: delivery (mqtt), and what is behind the keyspace.

mod coprocessor;
mod division;
mod effect;
mod journal;
mod over;
mod pending;
mod replicated;
mod replication;
mod restoration;
mod schema;
mod service;
mod stats;
mod store;
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
mod replicated_fixture;
#[cfg(test)]
mod replicated_random_test;
#[cfg(test)]
mod replicated_test;
#[cfg(test)]
mod service_test;

pub use coprocessor::RetainCoprocessor;
pub use division::RetainDivision;
pub use service::RetainService;
pub use stats::RetainStats;

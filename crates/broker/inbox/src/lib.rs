//! Persistent sessions: what a session owns beyond its connection.
//!
//! [`InboxService`] keeps sessions in partitions, each behind a lock. A message that goes to many
//! sessions is stored once and shared. Attaching raises the version of a session, and whoever shows
//! an older one is refused, so two owners never act.
//!
//! The service decides in memory. Where it has a keyspace it submits the effects of what it decided
//! to the log, whose [`InboxCoprocessor`] makes keys of them, and it reads them back after a
//! restart: see decision 0007. What is durable and what is not is in `docs/durability.md`, the bytes
//! are in `docs/formats/inbox.md`. Not here: packets and send windows (mqtt), and which messages a
//! session is to have (dist).

mod append;
mod coprocessor;
mod effect;
mod exchanges;
mod handover;
mod inactive;
mod joint;
mod journal;
mod notes;
mod owners;
mod ownership;
mod partition;
mod partitions;
mod queue;
mod repair;
mod restore;
mod routing;
mod schema;
mod seating;
mod seats;
mod service;
mod session;
mod stats;
mod stranded;
mod subscribing;
mod takeover;
mod tally;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

#[cfg(test)]
mod coprocessor_test;
#[cfg(test)]
mod durable_content_test;
#[cfg(test)]
mod durable_fixture;
#[cfg(test)]
mod durable_test;
#[cfg(test)]
mod durable_will_test;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod format_test;
#[cfg(test)]
mod handover_test;
#[cfg(test)]
mod inactive_test;
#[cfg(test)]
mod once_model_test;
#[cfg(test)]
mod once_stores_test;
#[cfg(test)]
mod once_test;
#[cfg(test)]
mod queue_test;
#[cfg(test)]
mod reign_fixture;
#[cfg(test)]
mod reign_model_test;
#[cfg(test)]
mod reign_stores_test;
#[cfg(test)]
mod reign_test;
#[cfg(test)]
mod repair_test;
#[cfg(test)]
mod restore_test;
#[cfg(test)]
mod routing_test;
#[cfg(test)]
mod service_test;
#[cfg(test)]
mod stores_fixture;
#[cfg(test)]
mod takeover_model_test;
#[cfg(test)]
mod takeover_test;

pub use coprocessor::InboxCoprocessor;
pub use owners::ResumeError;
pub use repair::Repaired;
pub use schema::partition_keys;
pub use seating::{Seating, Step};
pub use seats::SeatWatch;
pub use service::InboxService;
pub use stats::{Dropped, InboxStats};

//! Persistent sessions: what a session owns beyond its connection.
//!
//! [`InboxService`] keeps sessions in partitions, each behind a lock that is held for one call on
//! one session. A message that goes to many sessions is stored once and shared. Attaching raises
//! the version of a session, and whoever shows an older one is refused, so two owners never act.
//!
//! What is here is in memory: durability comes with an engine behind the same contract. Not here:
//! packets and send windows (mqtt), and which messages a session is to have (dist).

mod handover;
mod partition;
mod queue;
mod service;
mod session;
mod stats;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod handover_test;
#[cfg(test)]
mod queue_test;
#[cfg(test)]
mod service_test;

pub use service::InboxService;
pub use stats::{Dropped, InboxStats};

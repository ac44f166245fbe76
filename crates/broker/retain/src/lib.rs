//! The retained message of each topic.
//!
//! [`RetainService`] keeps the messages of each tenant in memory, ordered by the levels of their
//! topics, and answers a filter by skipping from one possible match to the next. A reader holds
//! nothing between two pages: a topic that stays is told once, one that comes or goes meanwhile
//! once or not at all.
//!
//! Not here: durability, which comes with an engine behind the same contract, and delivery (mqtt).

mod service;
mod stats;
mod store;
mod tenant;

#[cfg(test)]
mod service_test;

pub use service::RetainService;
pub use stats::RetainStats;

//! Who keeps the ranges, who leads them, where they are parted and joined.
//!
//! [`plan_all`] is a function of what a store can see of all others, its [`Landscape`], of the
//! [`RuleBook`] and of the time. Every store asks it, and does what it says for the ranges that it
//! leads; nobody coordinates them. How plans that are made apart never contradict each other is
//! said in `docs/decisions/0014-every-store-plans-for-what-it-leads.md`.
//!
//! All of that is pure: no clock, no randomness, no I/O, and no order but that of keys and numbers. The
//! [`keeper`] alone is none of it: it gathers the landscape and carries plans out.

pub mod keeper;
pub mod landscape;
pub mod plan;
pub mod rules;

mod balancers;
mod lineage;
mod merging;
mod placement;
mod scene;

pub mod drain;
pub mod overview;
pub mod recover;

pub use landscape::{Landscape, StoreId};
pub use plan::{Action, Alarm, Balancer, Plan, Round, Shortage, plan_all};
pub use rules::{RuleBook, Rules, Settings};

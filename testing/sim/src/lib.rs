//! A node under a seed: the real services, pipes, coprocessors, host and machine, on a disk, a clock
//! and threads that are made up.
//!
//! `simulation` is the run: what happens is drawn from the seed (`concern`, `schedule`), clients use
//! the services (`clients`, `messages`, `shelf`), the store works turn by turn (`store`, `node`), and
//! the disk forgets what was not synced (`disk`, `file`, `log`, `engine`, `folder`). After every crash `probe`
//! looks at what the disk would bring back, and `history` says whether some decision explains it: none
//! before the last that was acknowledged, with all before it and nothing after. `ledger` is what was
//! decided, kept naively; `routes` compares the routes with the sessions; `replay` holds what is applied against the log from its first entry on.
//!
//! Not here: connections (the services are called as shards call them) and shared groups. A node has
//! no network; several stores have, in `cluster`, which runs what is below the services. `planted` are
//! faults that the oracles must find.

mod clients;
pub mod cluster;
mod concern;
mod disk;
mod engine;
mod file;
mod folder;
mod history;
mod ledger;
mod log;
mod messages;
mod node;
mod planted;
mod probe;
mod replay;
mod routes;
mod schedule;
mod shelf;
mod simulation;
mod store;
mod trace;

pub use planted::Planted;
pub use simulation::{Outcome, Plan, Violation, run};

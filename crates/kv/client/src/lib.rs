//! A service's way to its ranges.
//!
//! A service has one [`Keyspace`]. It submits commands, which its coprocessor applies in the order
//! in which they were submitted, and it reads what was applied. Which range has a key, on which
//! node, and how many commands share one fsync is decided behind it.

mod coverage;
mod divide;
#[cfg(test)]
mod doubt_random_test;
#[cfg(test)]
mod doubt_test;
#[cfg(feature = "testing")]
pub mod held;
mod keyspace;
mod lane;
mod pipe;
#[cfg(test)]
mod pipe_fixture;
#[cfg(test)]
mod pipe_test;
mod question;
mod ranges;
mod reign;
#[cfg(test)]
mod reign_test;
mod reigns;
mod replicas;
mod router;

pub use coverage::{Change, Coverage};
pub use divide::{Divide, Divided};
pub use keyspace::{Busy, Done, Fate, Keyspace, Read};
pub use pipe::Pipe;
pub use question::Told;
pub use ranges::{Answer, Leader, Outcome, Ranges, Route};
pub use reign::ReignPipe;
pub use reigns::{Owner, Realm, ReignHook, Reigns};
pub use replicas::{Loan, Replica, Replicas, Serving, StoreReplicas};
pub use router::{Poller, Router, Store};

//! A few rounds with the real binary; the program of this package does more, with any seed.
//!
//! `kills` and `power` need a broker that keeps what it acknowledged. `cuts` is for every broker: it shows that
//! the clients and the oracles are right.
#![allow(missing_docs, reason = "the names of the tests are sentences")]

mod cuts;
mod kills;
mod power;

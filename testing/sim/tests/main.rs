//! A few hundred seeds, and the faults that must be found; the program of this package runs more.
#![allow(missing_docs, reason = "the names of the tests are sentences")]

mod cluster;
mod faults;
mod seeds;

//! Stores of several nodes, over the sockets of this machine.
//!
//! Every wait is for an event, for as long as a busy machine may take.

mod bootstrap;
mod cluster;
mod peers;
mod support;
mod words;

//! Hosts of one process, over the sockets of this machine.
//!
//! Every wait is for an event, for as long as a busy machine may take.

mod cluster;
mod delivery;
mod peers;
mod routes;
mod support;

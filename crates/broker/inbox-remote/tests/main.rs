//! Hosts of one process, over the sockets of this machine, with a made-up inbox each.
//!
//! Every wait is for an event, for as long as a busy machine may take.

mod groups;
mod lagging;
mod messages;
mod model;
mod moves;
mod once;
mod sessions;
mod support;

//! The behaviours of calls between nodes, over real sockets on loopback.

mod calls;
mod cluster;
mod local;
mod peers;
mod pipelines;
mod streams;
mod support;
mod topology;

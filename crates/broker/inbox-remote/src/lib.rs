//! Between hosts: persistent sessions whose inbox is on another one.
//!
//! A data plane asks the inbox of its process and is answered at once. In a cluster the partition of a
//! session is served by one host, often another one. [`ClusterInbox`] stands between: it is the inbox that
//! the data plane asks, hands each call to the inbox of this host or to that of the host that serves the
//! session, and serves the sessions of other hosts. The inbox itself knows nothing of hosts: the sessions of
//! others are proxies to it, which [`Switch`] keeps apart from those of this host.
//!
//! It guarantees that the calls of one session are carried out in their order; that whoever waits is answered
//! once, within a bound; that what waits for a host is bounded, so that one that does not read keeps nobody
//! else waiting; that a session whose partition is served by another host than before goes on there without
//! its client's noticing; and that a host's sessions are left when it is over, and not because a stream broke.
//!
//! Not here: who serves which partition ([`Seats`]), and what an inbox does when it begins or ceases to
//! ([`Serving`](ratatosk_contract::serving::Serving)). The bytes are in `docs/formats/inbox-calls.md`; decision 0026 says why it is as it is.

mod append;
mod ask;
mod beginning;
mod calls;
mod choices;
mod cluster_inbox;
mod desk;
mod hear;
mod jobs;
mod kept;
mod lane;
mod link;
mod message;
mod metrics;
mod outbox;
mod partition;
mod parts;
mod peer;
mod placing;
mod proxies;
mod seats;
mod serve;
mod spread;
mod switch;
mod taking;
mod tell;
mod turn;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

/// What is made of `proto/inbox.proto`.
mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/ratatosk.broker.rs"));

    use ratatosk_rpc::frames::Part;

    impl From<Part> for Frame {
        fn from(Part { data, goes_on }: Part) -> Self {
            Self { data, goes_on }
        }
    }

    impl From<Frame> for Part {
        fn from(Frame { data, goes_on }: Frame) -> Self {
            Self { data, goes_on }
        }
    }
}

pub use cluster_inbox::{ClusterInbox, Config, Parts, Serves, service_name};
pub use seats::{PARTITION_COUNT, Seat, Seats};
pub use switch::Switch;

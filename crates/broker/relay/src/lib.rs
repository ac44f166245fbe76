//! Between hosts: the transient routes of each, and messages on their way to them.
//!
//! A [`HostRelay`] tells the other hosts what the transient sessions of this one want, and has what they
//! want in dist; what a publisher here sends to sessions there goes through it. Who there is it learns from
//! `base/rpc`, which learns it from the cluster.
//!
//! It guarantees that a route of another host comes by that host's own word only and goes with it; that a
//! message is delivered at most once to each host, in the order in which one caller sent; that whoever
//! waits for an answer gets one within a bound; and that what waits for a host is bounded, so that one that
//! does not read keeps nobody else waiting. Nothing of it is durable: messages may be lost, and are counted.
//!
//! Not here: who chooses among hosts and members (mqtt, dist), who has the sessions (mqtt), and anything of
//! persistent sessions. The bytes are in `docs/formats/relay.md`; decision 0022 says why it is as it is.

mod host_relay;
mod image;
mod lane;
mod letter;
mod metrics;
mod pause;
mod peer;
mod record;
mod serve;
mod table;
mod visible;

#[cfg(test)]
mod follow_test;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

/// What is made of `proto/relay.proto`.
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

pub use host_relay::{Config, HostRelay, Serving, service_name};

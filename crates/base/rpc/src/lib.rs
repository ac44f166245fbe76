//! Calls between the services of a cluster.
//!
//! A [`Node`] serves, listens and calls. What it serves is announced in a [`Discovery`]; a
//! [`Client`] watches the servers of one service there and chooses one for each call by a
//! [`Target`], within the traffic rules of the call's tenant. Three kinds of methods: single
//! calls, ordered pipelines, streams with credit. A server in the same process is called by its
//! handler, with nothing encoded.
//!
//! Guarantees: what may have arrived is never sent again, and every error says whether it may
//! have; questions of a pipeline never overtake each other; every queue is bounded, and who meets
//! the bound is told at once; input of a peer never panics. Deliberately absent: retries of what
//! may have been carried out, priorities, compression.
//!
//! Services and messages are generated from a `.proto` by `ratatosk-rpc-build`. The bytes are in
//! `docs/formats/rpc.md`.

mod backoff;
mod balance;
mod call;
mod channel;
mod client;
mod config;
mod discovery;
mod draw;
mod error;
mod exposure;
pub mod frames;
pub mod hosts;
mod identity;
mod landscape;
mod method;
mod metrics;
mod node;
mod protocol;
mod scope;
mod serve;
mod server;
mod service;
mod traffic;
mod transport;
mod view;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use balance::{Pool, PoolIndex, Router, ServerIndex, Target};
pub use call::{Call, Trace};
pub use channel::{Closed, Receiver, Sender};
pub use client::{Answer, Client, Event, Pipeline, PipelineLimits, Stream};
pub use config::Config;
pub use discovery::{AnnounceError, ClusterDiscovery, Discovery, MemoryDiscovery};
pub use error::{Delivery, Error};
pub use exposure::{Exposed, Permission, Protection, check as check_exposure};
pub use identity::{
    ClusterId, Environment, Group, HostId, Identity, NAME_BYTES_MAX, NameError, ServerId,
    ServiceName, Tenant, Version,
};
pub use landscape::{Landscape, ServerRecord};
pub use method::{Message, Method, MethodKind};
pub use node::{Hosting, ListenError, Node, Registration};
pub use scope::TaskScope;
pub use server::Listener;
pub use service::Service;
pub use traffic::{Rules, Scope, Shares, Weight, pinned_to};
pub use transport::{Tls, TlsError, TlsMaterial};

//! What operators see and order of a cluster: hosts, stores and ranges; emptying a store, leaving, giving up
//! a dead store, bringing back a range that lost its quorum.
//!
//! Who carries it out is behind [`Operations`]; this is its shape over HTTP. Orders are `POST`s of JSON. They
//! must say so in their content type: a page of another site cannot send that to an address of this machine
//! without being allowed to.

pub(crate) mod http;
mod view;

use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use crate::sources::Check;

pub use view::{
    Bounds, Cluster, Following, Host, HostState, Keepers, Leader, Loss, Node, Range, RangeState,
    Reach, Recovered, Standing, Store, Stuck, UnderReplicated, Version,
};

/// An answer that comes later.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a node of a cluster can be asked and ordered. What is not [`Later`] is answered from what is known and
/// must not block.
pub trait Operations: Send + Sync {
    /// The hosts and stores that there are.
    fn cluster(&self) -> Cluster;

    /// The ranges, by keyspace and keys.
    fn ranges(&self) -> Vec<Range>;

    /// Whether this node takes part: for `/readyz`.
    fn checks(&self) -> Later<Vec<Check>>;

    /// Has a store emptied, or lets it have something again. What is left to do comes with it.
    ///
    /// # Errors
    /// See [`Refused`]; nothing was changed.
    fn drain(&self, order: &Drain) -> Result<Store, Refused>;

    /// Has this node's store emptied, and its process ended once that is done.
    ///
    /// # Errors
    /// See [`Refused`]; nothing was changed.
    fn leave(&self) -> Result<Store, Refused>;

    /// Gives up a store that is away: others take its place at once.
    ///
    /// # Errors
    /// See [`Refused`]; nothing was changed.
    fn replace(&self, order: &Replace) -> Result<Store, Refused>;

    /// What would be gone on with, and what would be lost, if ranges were brought back that have no quorum;
    /// all of them if none is named.
    ///
    /// # Errors
    /// See [`Refused`].
    fn losses(&self, ranges: &[String]) -> Result<Vec<Loss>, Refused>;

    /// Brings ranges back that have no quorum. KV-027
    ///
    /// # Errors
    /// See [`Refused`]; nothing was changed. What became of each range is in the answer.
    fn recover(&self, order: Recover) -> Later<Result<Vec<Recovered>, Refused>>;
}

/// An order to empty a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// Its number, 16 digits; of this node if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// It is to have something again: takes back what was said of it, also that it was given up.
    pub cancel: bool,
}

/// An order to give up a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replace {
    /// Its number, 16 digits.
    pub store: String,
}

/// An order to bring ranges back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recover {
    /// Their numbers, 16 digits each; all without a quorum if there is none.
    #[serde(default)]
    pub ranges: Vec<String>,
    /// The stores whose data is given up: exactly those that [`Loss::lost`] names.
    pub accept_loss_of: Vec<String>,
}

/// An order to leave. There is nothing to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leave {}

/// Nothing was done. Each has what was wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The order makes no sense.
    #[error("{0}")]
    Senseless(String),
    /// Nobody knows what it is about.
    #[error("{0}")]
    Unknown(String),
    /// As things are, it must not be done.
    #[error("{0}")]
    Conflict(String),
    /// It cannot be done now; later it may.
    #[error("{0}")]
    Unavailable(String),
}

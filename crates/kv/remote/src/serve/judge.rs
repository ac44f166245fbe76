//! Who may speak to a store.

use ratatosk_rpc::{Error, HostId};
use tokio::time::timeout;

use crate::network::{Home, Shared};
use crate::proto::Hello;
use crate::talk::Purpose;

/// Why a stream or an order is not taken. Nothing of it was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejection {
    /// Two clusters never merge. KV-017
    #[error("this is a store of cluster {ours:016x}, and it is of cluster {theirs:016x}")]
    Cluster { ours: u64, theirs: u64 },
    /// It means another store, which was here once, or it is mistaken.
    #[error("this is store {ours:016x}, and it means store {meant:016x}")]
    Store { ours: u64, meant: u64 },
    /// Another process has the number that it speaks for.
    #[error("it speaks for store {store:016x}, which is at host {at}")]
    Stolen { store: u64, at: HostId },
    /// Nobody has heard of the store that it speaks for.
    #[error("it speaks for store {store:016x}, of which nobody has heard")]
    Unknown { store: u64 },
}

impl Rejection {
    /// For metrics.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Cluster { .. } => "cluster",
            Self::Store { .. } => "store",
            Self::Stolen { .. } => "stolen",
            Self::Unknown { .. } => "unknown",
        }
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        Self::Refused { why: rejection.to_string() }
    }
}

/// What a stream is for, if this version knows it.
pub(super) fn purpose(hello: &Hello) -> Option<Purpose> {
    use Purpose::{Data, Proposals, Status, Word, Words};
    let known = [Words, Data, Proposals, Status, Word];
    known.into_iter().find(|purpose| *purpose as u32 == hello.purpose)
}

/// Whether it may speak, and for whom it says. Whoever brings packets has to be where its store is.
pub(super) async fn judge(
    shared: &Shared,
    home: &Home,
    caller: HostId,
    hello: &Hello,
    purpose: Purpose,
) -> Result<(), Rejection> {
    judge_address(shared, home, hello.cluster, hello.to)?;
    if !matches!(purpose, Purpose::Words | Purpose::Data) {
        return Ok(());
    }
    let store = hello.from;
    let mut rolls = shared.roll.subscribe();
    // What is known of it may be about to come.
    let known =
        rolls.wait_for(|roll| roll.seats.get(&store).is_some_and(|seat| seat.host == caller));
    let is_known = timeout(shared.config.unknown_max, known).await.is_ok_and(|known| known.is_ok());
    if is_known {
        return Ok(());
    }
    Err(match shared.roll.borrow().seats.get(&store) {
        Some(seat) => Rejection::Stolen { store, at: seat.host },
        None => Rejection::Unknown { store },
    })
}

/// Whether this store is meant.
pub(super) fn judge_address(
    shared: &Shared,
    home: &Home,
    cluster: u64,
    to: u64,
) -> Result<(), Rejection> {
    let ours = shared.config.cluster;
    if cluster != ours {
        return Err(Rejection::Cluster { ours, theirs: cluster });
    }
    if to != home.store {
        return Err(Rejection::Store { ours: home.store, meant: to });
    }
    Ok(())
}

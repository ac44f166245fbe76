//! What operators order of a store that is elsewhere: single calls, each for a range that it leads.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use ratatosk_engine::wire::{self, Malformed, Parser};
use ratatosk_rpc::{Call, Error, Target, Tenant};
use ratatosk_store::edition::Edition;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::membership::{NoStep, Target as Members};
use ratatosk_store::range::{Descriptor, Version};

use crate::directory::server_id;
use crate::network::Shared;
use crate::proto::{Answer, Command};

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Change { group: GroupId, version: Version, target: Members },
    Merge { group: GroupId, version: Version },
    Transfer { group: GroupId, to: u64 },
    Read { group: GroupId, version: Version },
    Recover { group: GroupId, above: Version },
}

/// An order that was not carried out, or not for sure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The store refuses. Nothing was done.
    #[error("the store refuses: {0:?}")]
    Refused(Refusal),
    /// What became of it is not known, if [`Error::is_in_doubt`] says so; otherwise nothing was done.
    #[error(transparent)]
    Call(#[from] Error),
    /// The store stopped before it knew what became of it.
    #[error("the store stopped before it knew what became of the order")]
    InDoubt,
}

/// Gives orders to stores. Cheap to clone.
#[derive(Clone)]
pub struct Orders {
    shared: Arc<Shared>,
}

impl Orders {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared) }
    }

    /// Has a store that leads a range of this version take the next step towards these members. KV-008
    ///
    /// # Errors
    /// See [`OrderError`].
    pub async fn change(
        &self,
        store: u64,
        group: GroupId,
        version: Version,
        target: Members,
    ) -> Result<(), OrderError> {
        self.give(store, &Order::Change { group, version, target }).await
    }

    /// Has a range of this version, which the store leads, taken in by its left neighbour. KV-015
    ///
    /// # Errors
    /// See [`OrderError`].
    pub async fn merge(
        &self,
        store: u64,
        group: GroupId,
        version: Version,
    ) -> Result<(), OrderError> {
        self.give(store, &Order::Merge { group, version }).await
    }

    /// Has a store let another one lead a group that it leads, if it can.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub async fn transfer(&self, store: u64, group: GroupId, to: u64) -> Result<(), OrderError> {
        self.give(store, &Order::Transfer { group, to }).await
    }

    /// Waits until what a store shows of a range of this version, which it leads, has all that was
    /// acknowledged before. KV-009
    ///
    /// # Errors
    /// See [`OrderError`].
    pub async fn read(
        &self,
        store: u64,
        group: GroupId,
        version: Version,
    ) -> Result<(), OrderError> {
        self.give(store, &Order::Read { group, version }).await
    }

    /// Has a range that has lost its quorum go on with one store alone, in a version above this one. What
    /// only the lost replicas had is lost. KV-027
    ///
    /// # Errors
    /// See [`OrderError`].
    pub async fn recover(
        &self,
        store: u64,
        group: GroupId,
        above: Version,
    ) -> Result<(), OrderError> {
        self.give(store, &Order::Recover { group, above }).await
    }

    async fn give(&self, store: u64, order: &Order) -> Result<(), OrderError> {
        let cluster = self.shared.config.cluster;
        let command = Command { cluster, to: store, data: order.encode().into() };
        let target = Target::Server(server_id(store));
        let answer = self.shared.client.order(Call::new(Tenant::none()), &target, command).await?;
        let nonsense = |Malformed| Error::Internal { why: "its answer makes no sense".to_owned() };
        match take_answer(&answer.data).map_err(nonsense)? {
            Some(Ok(())) => Ok(()),
            Some(Err(refusal)) => Err(OrderError::Refused(refusal)),
            None => Err(OrderError::InDoubt),
        }
    }
}

impl Order {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut into = Vec::new();
        let put = |into: &mut Vec<u8>, kind: u8, group: &GroupId, version: &Version| {
            into.push(kind);
            [group.0, version.boundary, version.config]
                .iter()
                .for_each(|number| wire::put_u64(into, *number));
        };
        match self {
            Self::Change { group, version, target } => {
                put(&mut into, 1, group, version);
                for stores in [&target.voters, &target.learners] {
                    wire::put_u64(&mut into, stores.len() as u64);
                    stores.iter().for_each(|store| wire::put_u64(&mut into, *store));
                }
            }
            Self::Merge { group, version } => put(&mut into, 2, group, version),
            Self::Transfer { group, to } => {
                into.push(3);
                wire::put_u64(&mut into, group.0);
                wire::put_u64(&mut into, *to);
            }
            Self::Read { group, version } => put(&mut into, 4, group, version),
            Self::Recover { group, above } => put(&mut into, 5, group, above),
        }
        into
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut body = Parser::new(data);
        let kind = body.take_u8()?;
        let group = GroupId(body.take_u64()?);
        if kind == 3 {
            return Ok(Self::Transfer { group, to: body.take_u64()? });
        }
        let version = Version { boundary: body.take_u64()?, config: body.take_u64()? };
        match kind {
            1 => {
                let (voters, learners) = (take_stores(&mut body)?, take_stores(&mut body)?);
                Ok(Self::Change { group, version, target: Members { voters, learners } })
            }
            2 => Ok(Self::Merge { group, version }),
            4 => Ok(Self::Read { group, version }),
            5 => Ok(Self::Recover { group, above: version }),
            _ => Err(Malformed),
        }
    }
}

fn take_stores(body: &mut Parser<'_>) -> Result<BTreeSet<u64>, Malformed> {
    let mut stores = BTreeSet::new();
    for _ in 0..body.take_u64()? {
        stores.insert(body.take_u64()?);
    }
    Ok(stores)
}

/// The bytes of what became of an order; `None` if that will not be known.
pub(crate) fn put_answer(answer: Option<Result<(), Refusal>>) -> Answer {
    let mut data = Vec::new();
    match answer {
        Some(Ok(())) => data.push(0),
        Some(Err(refusal)) => {
            data.push(1);
            put_refusal(&mut data, &refusal);
        }
        None => data.push(2),
    }
    Answer { data: data.into() }
}

fn take_answer(data: &[u8]) -> Result<Option<Result<(), Refusal>>, Malformed> {
    let mut body = Parser::new(data);
    Ok(match body.take_u8()? {
        0 => Some(Ok(())),
        1 => Some(Err(take_refusal(&mut body)?)),
        2 => None,
        _ => return Err(Malformed),
    })
}

pub(crate) fn put_refusal(into: &mut Vec<u8>, refusal: &Refusal) {
    match refusal {
        Refusal::NotLeader => into.push(0),
        Refusal::Lost => into.push(1),
        Refusal::Version(descriptor) => {
            into.push(2);
            wire::put_u64(into, descriptor.group.0);
            wire::put_bytes(into, &descriptor.encode());
        }
        Refusal::Split => into.push(3),
        Refusal::Merging => into.push(4),
        Refusal::Step(step) => {
            into.push(5);
            put_no_step(into, *step);
        }
        Refusal::Led => into.push(6),
        Refusal::Edition { written, active } => {
            into.push(7);
            wire::put_u64(into, written.0);
            wire::put_u64(into, active.0);
        }
    }
}

pub(crate) fn take_refusal(body: &mut Parser<'_>) -> Result<Refusal, Malformed> {
    Ok(match body.take_u8()? {
        0 => Refusal::NotLeader,
        1 => Refusal::Lost,
        2 => {
            let group = GroupId(body.take_u64()?);
            Refusal::Version(Box::new(Descriptor::decode(group, body.take_bytes()?)?))
        }
        3 => Refusal::Split,
        4 => Refusal::Merging,
        5 => Refusal::Step(take_no_step(body)?),
        6 => Refusal::Led,
        7 => {
            let (written, active) = (Edition(body.take_u64()?), Edition(body.take_u64()?));
            Refusal::Edition { written, active }
        }
        _ => return Err(Malformed),
    })
}

fn put_no_step(into: &mut Vec<u8>, step: NoStep) {
    match step {
        NoStep::Reached => into.push(0),
        NoStep::Underway => into.push(1),
        NoStep::Senseless => into.push(2),
        NoStep::Unsupported { store, edition } => {
            into.push(3);
            wire::put_u64(into, store);
            wire::put_u64(into, edition.0);
        }
        NoStep::Unheard { store } => {
            into.push(4);
            wire::put_u64(into, store);
        }
    }
}

fn take_no_step(body: &mut Parser<'_>) -> Result<NoStep, Malformed> {
    Ok(match body.take_u8()? {
        0 => NoStep::Reached,
        1 => NoStep::Underway,
        2 => NoStep::Senseless,
        3 => {
            let (store, edition) = (body.take_u64()?, Edition(body.take_u64()?));
            NoStep::Unsupported { store, edition }
        }
        4 => NoStep::Unheard { store: body.take_u64()? },
        _ => return Err(Malformed),
    })
}

impl fmt::Debug for Orders {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Orders").finish_non_exhaustive()
    }
}

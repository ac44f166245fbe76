//! Subscriptions that are made and ended on behalf of clients, from any node. DICT-002
//!
//! The node that has the session does it; what it says is passed on. Nothing is asked twice: what may
//! have been done is in doubt.

use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::SessionIdentity;
use ratatosk_contract::inbox::Subscription;
use ratatosk_contract::session_dict::{Change, ChangeAnswer, Changed};
use ratatosk_rpc::Target;
use tokio::sync::oneshot;

use super::convert::{self, PART_BYTES_MAX, Read, check, need};
use super::lookup::{PATIENCE, call};
use super::{ClusterDict, Inner, server_id, wire};
use crate::protocol::Host;

impl ClusterDict {
    /// Has a subscription of a session made or ended on behalf of its client, on whichever node it is
    /// connected; answered once it is effective, and durable if the session is. DICT-002
    ///
    /// A session is looked for once: one that is being taken over meanwhile may be said not to be
    /// connected, and so may one on a node that does not answer.
    pub async fn change(&self, identity: &SessionIdentity, change: Change) -> Changed {
        let owner = self.locate(std::slice::from_ref(identity)).await.pop().flatten();
        let Some(owner) = owner else { return Changed::NotConnected };
        let host = Host(owner.host.0);
        if host == self.inner.me {
            return heard(self.inner.begin_change(identity, change)).await;
        }
        let (target, message) = (Target::Server(server_id(host)), write(identity, &change));
        match self.inner.peers.change(call(), &target, message).await {
            Ok(changed) => read_changed(&changed).unwrap_or(Changed::InDoubt),
            Err(error) if error.is_in_doubt() => Changed::InDoubt,
            Err(_) => Changed::Busy,
        }
    }
}

impl Inner {
    /// Has a session of this node changed; who is told of it.
    pub(super) fn begin_change(
        &self,
        identity: &SessionIdentity,
        change: Change,
    ) -> oneshot::Receiver<Changed> {
        let (asker, answer) = oneshot::channel();
        let asker = ChangeAnswer::new(move |changed| {
            // Who gave up is not told.
            let _ = asker.send(changed);
        });
        let state = self.state.lock();
        match state.roster.find(identity) {
            Some(session) => self.holders.change(session, change, asker),
            None => asker.tell(Changed::NotConnected),
        }
        answer
    }
}

/// What became of it, as far as that is known in time.
pub(super) async fn heard(answer: oneshot::Receiver<Changed>) -> Changed {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(changed)) => changed,
        Ok(Err(_)) | Err(_) => Changed::InDoubt,
    }
}

pub(super) fn write(identity: &SessionIdentity, change: &Change) -> wire::Change {
    let (filter, subscribe) = match change {
        Change::Subscribe(Subscription { filter, options, subscription_id }) => {
            let options = options.to_byte().into();
            (filter, Some(wire::Subscribe { options, subscription_id: *subscription_id }))
        }
        Change::Unsubscribe(filter) => (filter, None),
    };
    let identity = Some(convert::identity(identity));
    wire::Change { identity, filter: filter.to_string(), subscribe }
}

pub(super) fn read(change: &wire::Change) -> Read<(SessionIdentity, Change)> {
    let identity = convert::read_identity(need(change.identity.as_ref(), "no identity")?)?;
    check(change.filter.len() <= PART_BYTES_MAX, "a filter is too long")?;
    let filter: Box<str> = change.filter.as_str().into();
    let Some(wire::Subscribe { options, subscription_id }) = change.subscribe else {
        return Ok((identity, Change::Unsubscribe(filter)));
    };
    let options = u8::try_from(options).ok().and_then(|byte| byte.try_into().ok());
    let options: SubscriptionOptions = need(options, "no such options")?;
    Ok((identity, Change::Subscribe(Subscription { filter, options, subscription_id })))
}

pub(super) fn write_changed(changed: Changed) -> wire::Changed {
    let (what, qos) = match changed {
        Changed::InDoubt => (0, 0),
        Changed::Granted(qos) => (1, qos.value().into()),
        Changed::Removed => (2, 0),
        Changed::NotFound => (3, 0),
        Changed::NotConnected => (4, 0),
        Changed::Invalid => (5, 0),
        Changed::NotSupported => (6, 0),
        Changed::NotPermitted => (7, 0),
        Changed::QuotaExceeded => (8, 0),
        Changed::Busy => (9, 0),
    };
    wire::Changed { what, qos }
}

pub(super) fn read_changed(changed: &wire::Changed) -> Read<Changed> {
    let qos = u8::try_from(changed.qos).ok().and_then(|qos| Qos::try_from(qos).ok());
    Ok(match changed.what {
        0 => Changed::InDoubt,
        1 => Changed::Granted(need(qos, "no such QoS")?),
        2 => Changed::Removed,
        3 => Changed::NotFound,
        4 => Changed::NotConnected,
        5 => Changed::Invalid,
        6 => Changed::NotSupported,
        7 => Changed::NotPermitted,
        8 => Changed::QuotaExceeded,
        9 => Changed::Busy,
        _ => return Err(convert::Malformed("no such outcome")),
    })
}

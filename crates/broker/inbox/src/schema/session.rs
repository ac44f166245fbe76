//! A session's record, and those of its subscriptions.

use ratatosk_clock::Timestamp;
use ratatosk_codec::SubscriptionOptions;
use ratatosk_contract::{
    SessionIdentity,
    inbox::{QueueLimits, Subscription},
};
use ratatosk_engine::wire::{Malformed, Parser, put_u64};

use super::{end, flag, flags, put_identity, take_identity};

const FLAG_USER: u8 = 0x01;
const FLAG_EXPIRY: u8 = 0x02;
const FLAG_DETACHED: u8 = 0x04;
const FLAG_DROP_OLDEST: u8 = 0x08;
const FLAG_WHEN_OFFLINE: u8 = 0x10;
const FLAGS: u8 = 0x1F;

/// A session without its subscriptions and its queue. Not its incarnation, which is counted by the
/// clock of a process: on disk its number is its life, for it is never given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionRecord {
    pub(crate) identity: SessionIdentity,
    pub(crate) version: u64,
    pub(crate) expiry_s: Option<u32>,
    pub(crate) limits: QueueLimits,
    /// Since when it has no connection; `None`: it has one.
    pub(crate) detached: Option<Timestamp>,
}

/// A subscription of a session.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubscriptionRecord<'a> {
    /// As the client wrote it.
    pub(crate) filter: &'a str,
    pub(crate) options: SubscriptionOptions,
    /// Never zero.
    pub(crate) subscription_id: Option<u32>,
}

impl SessionRecord {
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        let limits = &self.limits;
        into.push(
            flag(self.identity.user.is_some(), FLAG_USER)
                | flag(self.expiry_s.is_some(), FLAG_EXPIRY)
                | flag(self.detached.is_some(), FLAG_DETACHED)
                | flag(limits.qos0_drop_oldest, FLAG_DROP_OLDEST)
                | flag(limits.qos0_when_offline, FLAG_WHEN_OFFLINE),
        );
        put_identity(into, &self.identity);
        put_u64(into, self.version);
        for number in [limits.messages_max, limits.filters_max, limits.members_max] {
            put_u64(into, number.into());
        }
        if let Some(expiry_s) = self.expiry_s {
            put_u64(into, expiry_s.into());
        }
        if let Some(detached) = self.detached {
            put_u64(into, detached.as_millis());
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut parser = Parser::new(bytes);
        let flags = flags(parser.take_u8()?, FLAGS)?;
        let has = |flag| flags & flag != 0;
        let record = SessionRecord {
            identity: take_identity(&mut parser, has(FLAG_USER))?,
            version: parser.take_u64()?,
            limits: QueueLimits {
                messages_max: parser.take()?,
                filters_max: parser.take()?,
                members_max: parser.take()?,
                qos0_drop_oldest: has(FLAG_DROP_OLDEST),
                qos0_when_offline: has(FLAG_WHEN_OFFLINE),
            },
            expiry_s: if has(FLAG_EXPIRY) { Some(parser.take()?) } else { None },
            detached: match has(FLAG_DETACHED) {
                true => Some(Timestamp::from_millis(parser.take_u64()?)),
                false => None,
            },
        };
        end(&parser, record)
    }
}

impl<'a> SubscriptionRecord<'a> {
    pub(crate) fn of(subscription: &'a Subscription) -> Self {
        SubscriptionRecord {
            filter: &subscription.filter,
            options: subscription.options,
            subscription_id: subscription.subscription_id.filter(|number| *number != 0),
        }
    }

    pub(crate) fn to_subscription(self) -> Subscription {
        let (options, subscription_id) = (self.options, self.subscription_id);
        Subscription { filter: self.filter.into(), options, subscription_id }
    }

    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        into.push(self.options.to_byte());
        put_u64(into, self.subscription_id.unwrap_or(0).into());
        into.extend_from_slice(self.filter.as_bytes());
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut parser = Parser::new(bytes);
        let options = parser.take_u8()?.try_into().map_err(|_| Malformed)?;
        let subscription_id = Some(parser.take()?).filter(|number| *number != 0);
        let filter = std::str::from_utf8(parser.rest()).map_err(|_| Malformed)?;
        Ok(SubscriptionRecord { filter, options, subscription_id })
    }
}

//! Permissions that are asked for on the packet path.
//!
//! A provider that answers at once is asked each time something new is to be permitted. One that
//! answers later is asked once; its verdict is kept with the connection, which brings the packet
//! again when it is there.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ratatosk_clock::Instant;
use ratatosk_contract::SessionRef;
use ratatosk_plugin::{
    answer::Answer,
    permission::{Action, Identity, Verdict},
};
use ratatosk_session::Permit;

use super::{Shard, connection::Local, runner};

/// How many verdicts a connection keeps.
const VERDICTS_MAX: usize = 32;
/// How long a verdict counts.
const VERDICT_AGE_MAX: Duration = Duration::from_secs(60);

/// Verdicts that came later than they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    known: VecDeque<Kept>,
}

#[derive(Debug)]
struct Kept {
    action: Box<str>,
    /// `None` while it is being determined.
    permit: Option<Permit>,
    epoch: u64,
    until: Instant,
}

impl Verdicts {
    /// About how many bytes they hold.
    pub(crate) fn memory_bytes(&self) -> usize {
        let kept = self.known.iter().map(|kept| size_of::<Kept>() + kept.action.len());
        kept.sum()
    }

    fn find(&self, action: &str, epoch: u64, now: Instant) -> Option<&Kept> {
        self.known
            .iter()
            .find(|kept| &*kept.action == action && kept.epoch == epoch && kept.until > now)
    }

    fn begin(&mut self, action: &str, epoch: u64, now: Instant) {
        self.known.retain(|kept| &*kept.action != action);
        if self.known.len() == VERDICTS_MAX {
            self.known.pop_front();
        }
        self.known.push_back(Kept {
            action: action.into(),
            permit: None,
            epoch,
            until: now + VERDICT_AGE_MAX,
        });
    }

    fn settle(&mut self, action: &str, permit: Permit) {
        if let Some(kept) = self.known.iter_mut().find(|kept| &*kept.action == action) {
            kept.permit = Some(permit);
        }
    }
}

impl Shard {
    /// Whether an action is permitted, as far as that is known at once.
    pub(super) fn permit(
        &mut self,
        local: &mut Local,
        session: SessionRef,
        identity: &Arc<Identity>,
        action: Action<'_>,
        bypass: bool,
    ) -> Permit {
        let epoch = self.node.plugins.permission_epoch();
        let name = format!("{action:?}");
        if let Some(rare) = &local.rare
            && let Some(kept) = rare.verdicts.find(&name, epoch, self.now)
        {
            return kept.permit.unwrap_or(Permit::Later);
        }
        match self.node.plugins.check(identity, action) {
            Answer::Now(verdict) => permit_of(&verdict, bypass),
            Answer::Later(verdict) => {
                local.rare().verdicts.begin(&name, epoch, self.now);
                runner::spawn(async move {
                    let permit = permit_of(&verdict.await, bypass);
                    runner::with(|shard| shard.permitted(session, &name, permit));
                });
                Permit::Later
            }
        }
    }

    /// A verdict came: the packet that waits for it is brought again.
    fn permitted(&mut self, session: SessionRef, action: &str, permit: Permit) {
        self.now = self.node.clock.now();
        let Some(connection) = self.connection(session) else { return };
        connection.local.rare().verdicts.settle(action, permit);
        self.retry(session);
    }
}

fn permit_of(verdict: &Verdict, bypass: bool) -> Permit {
    match verdict {
        Verdict::Allowed => Permit::Allowed,
        Verdict::Denied { .. } => Permit::Denied,
        Verdict::Error { .. } if bypass => Permit::Allowed,
        Verdict::Error { .. } => Permit::Error,
    }
}

//! What other nodes ask of this one.

use std::sync::{Arc, Weak};

use futures_util::future::join_all;
use ratatosk_rpc::{Call, Error};
use tokio::sync::oneshot;

use super::lookup::{self, Victims};
use super::{Inner, change, convert, wire};
use crate::cluster::calls::refused;
use crate::protocol::{Host, Verdict};

/// Sessions in one answer to a listing.
pub(super) const PAGE_MAX: usize = 10_000;

/// Answers for a node, as long as there is one.
pub(super) struct Server(pub(super) Weak<Inner>);

impl Server {
    fn inner(&self) -> Result<Arc<Inner>, Error> {
        self.0.upgrade().ok_or_else(|| Error::NoServer { service: "ratatosk.dict".to_owned() })
    }
}

fn caller(call: &Call) -> Result<Host, Error> {
    let host = call.caller().ok_or_else(|| Error::Refused { why: "nobody calls".to_owned() })?;
    Ok(Host(host.0))
}

impl wire::Directory for Server {
    /// Carried out before the first wait, so in the order in which they came.
    async fn ask(&self, call: Call, questions: wire::Questions) -> Result<wire::Replies, Error> {
        let (inner, from) = (self.inner()?, caller(&call)?);
        let questions = convert::questions(&questions, inner.clock.wall()).map_err(refused)?;
        let directory = inner.directory.as_ref().ok_or_else(no_server)?;
        let time = inner.time();
        let mut directory = directory.lock();
        let replies = questions.iter().map(|question| directory.step(time, from, question));
        Ok(wire::Replies { replies: replies.map(|reply| convert::reply(&reply)).collect() })
    }

    async fn find(&self, _: Call, identities: wire::Identities) -> Result<wire::Found, Error> {
        let inner = self.inner()?;
        let identities = convert::read_identities(&identities).map_err(refused)?;
        let (places, is_complete) = inner.find_at_server(&identities).ok_or_else(no_server)?;
        Ok(lookup::found(&places, is_complete))
    }

    async fn list(&self, _: Call, page: wire::Page) -> Result<wire::Listed, Error> {
        let inner = self.inner()?;
        let after = page.after.as_ref().map(convert::read_identity).transpose().map_err(refused)?;
        let count_max = usize::try_from(page.count_max).unwrap_or(usize::MAX).min(PAGE_MAX);
        let tenant = ratatosk_contract::TenantId::new(&page.tenant);
        let listed = inner.list_at_server(&tenant, after.as_ref(), count_max);
        let (locations, has_more) = listed.ok_or_else(no_server)?;
        let locations = locations.iter().map(|location| wire::Location {
            identity: Some(convert::identity(&location.identity)),
            registration: Some(convert::registration(&location.registration)),
        });
        Ok(wire::Listed { locations: locations.collect(), has_more })
    }
}

fn no_server() -> Error {
    Error::NoServer { service: wire::DirectoryClient::SERVICE.to_owned() }
}

impl wire::Holders for Server {
    async fn meet(&self, call: Call, meetings: wire::Meetings) -> Result<wire::Verdicts, Error> {
        let (inner, from) = (self.inner()?, caller(&call)?);
        let meetings = convert::meetings(&meetings, inner.clock.wall()).map_err(refused)?;
        let answers: Vec<oneshot::Receiver<Verdict>> = {
            let mut state = inner.state.lock();
            let mut answers = Vec::with_capacity(meetings.len());
            for meeting in &meetings {
                let (asker, answer) = oneshot::channel();
                state.ticket += 1;
                let ticket = state.ticket;
                state.tickets.insert(ticket, asker);
                let mut effects = std::collections::VecDeque::new();
                state.roster.asked(inner.time(), from, ticket, meeting, &mut effects);
                inner.perform(&mut state, effects, None);
                answers.push(answer);
            }
            answers
        };
        drop(inner);
        // Each is answered within the roster's interim time, at least that it goes on.
        let verdicts = join_all(answers).await.into_iter();
        let verdicts = verdicts.map(|verdict| convert::verdict(verdict.unwrap_or(Verdict::Again)));
        Ok(wire::Verdicts { verdicts: verdicts.collect() })
    }

    async fn find(&self, _: Call, identities: wire::Identities) -> Result<wire::Found, Error> {
        let inner = self.inner()?;
        let identities = convert::read_identities(&identities).map_err(refused)?;
        Ok(lookup::found(&inner.find_here(&identities), true))
    }

    async fn kill(&self, _: Call, victims: wire::Victims) -> Result<wire::Killed, Error> {
        let inner = self.inner()?;
        let victims = Victims::read(&victims).map_err(refused)?;
        Ok(wire::Killed { count: inner.kill_here(&victims).await })
    }

    async fn change(&self, _: Call, change: wire::Change) -> Result<wire::Changed, Error> {
        let inner = self.inner()?;
        let (identity, wanted) = change::read(&change).map_err(refused)?;
        let answer = inner.begin_change(&identity, wanted);
        drop(inner);
        Ok(change::write_changed(change::heard(answer).await))
    }
}

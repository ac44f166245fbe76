//! Takes proposals and questions of a client of another process, in the order in which they come.

use ratatosk_engine::wire::Malformed;
use ratatosk_rpc::{Error, Receiver, Sender};
use ratatosk_store::node::Reply;
use tokio::sync::mpsc;

use super::Greeted;
use super::gate::Gate;
use crate::frames::{join, refused};
use crate::line::{Outcome, Request, WINDOW, Wish, put_outcome};
use crate::network::{Home, Shared};
use crate::proto::Frame;
use crate::talk::{Purpose, send};
use ratatosk_rpc::frames::Joiner;

/// Outcomes that are told together.
const BATCH: usize = 256;

pub(super) async fn propose(
    shared: &Shared,
    home: &Home,
    gate: &Gate,
    greeted: &Greeted,
    mut questions: Receiver<Frame>,
    answers: Sender<Frame>,
) -> Result<(), Error> {
    let Greeted { caller, hello, purpose } = greeted;
    if *purpose != Purpose::Proposals {
        return Err(refused("that is nothing to propose by"));
    }
    let overtaken = || refused("a later stream has taken its place");
    let pass = gate.enter(*caller, hello.client, hello.turn).ok_or_else(overtaken)?;
    let mut joiner = Joiner::new(shared.config.whole_bytes_max);
    // There is room for all that may be under way: who answers never waits.
    let (told, mut outcomes) = mpsc::channel(WINDOW);
    let (mut under_way, mut batch) = (0, Vec::with_capacity(BATCH));
    loop {
        // Both are cancel-safe.
        let frame = tokio::select! {
            biased;
            count = outcomes.recv_many(&mut batch, BATCH) => {
                under_way -= count;
                let mut told = Vec::new();
                batch.drain(..).for_each(|(id, outcome)| put_outcome(&mut told, id, &outcome));
                if !send(&answers, told.into()).await {
                    return Ok(());
                }
                continue;
            }
            frame = questions.next() => frame,
        };
        let Some(frame) = frame else { return Ok(()) };
        let joined = join(&mut joiner, frame).inspect_err(|_| shared.metrics.refuse("frames"))?;
        let Some(data) = joined else { continue };
        let requests = Request::take_all(&data).map_err(|Malformed| {
            shared.metrics.refuse("malformed");
            refused("requests that make no sense")
        })?;
        under_way += requests.len();
        if under_way > WINDOW {
            shared.metrics.refuse("window");
            return Err(refused("more requests than may be under way"));
        }
        let handle = &home.handle;
        let proposed = pass.with(|| {
            for Request { id, wish } in requests {
                let reply = reply(id, &told);
                match wish {
                    Wish::Entry { term, group, data } => {
                        handle.propose_in(term, group, data, reply);
                    }
                    Wish::Answer { group, version, question } => {
                        handle.query(group, version, question, reply);
                    }
                }
            }
        });
        proposed.ok_or_else(overtaken)?;
    }
}

/// Tells what becomes of a request; dropped, that it will not be known.
fn reply(id: u64, told: &mpsc::Sender<(u64, Outcome)>) -> Reply {
    let ticket = Ticket { id, told: Some(told.clone()) };
    Box::new(move |answers| ticket.tell(Some(answers)))
}

struct Ticket {
    id: u64,
    told: Option<mpsc::Sender<(u64, Outcome)>>,
}

impl Ticket {
    fn tell(mut self, outcome: Outcome) {
        self.put(outcome);
    }

    fn put(&mut self, outcome: Outcome) {
        if let Some(told) = self.told.take() {
            // Whoever is gone has given it up.
            let _ = told.try_send((self.id, outcome));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.put(None);
    }
}

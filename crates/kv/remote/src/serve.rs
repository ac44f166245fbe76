//! What a store takes from others and from clients of other processes.

mod carry;
mod follow;
mod gate;
mod judge;
mod orders;
mod propose;

use std::sync::{Arc, Weak};
use std::time::Duration;

use ratatosk_rpc::{Call, Error, HostId, Receiver, Sender};
use tokio::time::timeout;

use crate::frames::refused;
use crate::network::{Home, Shared};
use crate::proto::{Answer, Command, Frame, Hello, Stores};
use crate::talk::Purpose;
use gate::Gate;

/// How long whoever opens a stream may take to say who it is.
const HELLO_MAX: Duration = Duration::from_secs(5);

/// The service. It keeps neither the network nor the store: what calls it may live longer.
pub(crate) struct Server {
    shared: Weak<Shared>,
    gate: Gate,
    statuses: follow::Statuses,
}

impl Server {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        let (shared, statuses) = (Arc::downgrade(shared), follow::Statuses::default());
        Self { shared, gate: Gate::default(), statuses }
    }

    /// The network and its store, if they are there still.
    fn at_work(&self) -> Result<(Arc<Shared>, Home), Error> {
        let shared = self.shared.upgrade();
        let home = shared.as_ref().and_then(|shared| shared.home.borrow().clone());
        let gone = || Error::Internal { why: "the store stops".to_owned() };
        shared.zip(home).ok_or_else(gone)
    }

    /// Hears who opens a stream, and greets it if it may.
    async fn greet(
        &self,
        shared: &Shared,
        home: &Home,
        call: &Call,
        questions: &mut Receiver<Frame>,
        answers: &Sender<Frame>,
    ) -> Result<Greeted, Error> {
        let first = timeout(HELLO_MAX, questions.next()).await;
        let first = first.map_err(|_| refused("it does not say who it is"))?;
        let hello = first.and_then(|frame| frame.hello);
        let hello = hello.ok_or_else(|| refused("it begins without a hello"))?;
        let purpose =
            judge::purpose(&hello).ok_or_else(|| refused("nobody knows what it is for"))?;
        let caller = call.caller().ok_or_else(|| refused("nobody knows whose it is"))?;
        let judged = judge::judge(shared, home, caller, &hello, purpose).await;
        judged.inspect_err(|rejection| {
            shared.metrics.refuse(rejection.word());
            tracing::warn!(%caller, %rejection, "a stream is refused");
        })?;
        let welcome = Hello {
            cluster: shared.config.cluster,
            from: home.store,
            to: hello.from,
            ..Hello::default()
        };
        let welcome = Frame { hello: Some(welcome), ..Frame::default() };
        answers.send(welcome).await.map_err(|_| refused("it is gone"))?;
        Ok(Greeted { caller, hello, purpose })
    }
}

/// Who opened a stream.
struct Greeted {
    caller: HostId,
    hello: Hello,
    purpose: Purpose,
}

impl Stores for Server {
    async fn carry(
        &self,
        call: Call,
        mut questions: Receiver<Frame>,
        answers: Sender<Frame>,
    ) -> Result<(), Error> {
        let (shared, home) = self.at_work()?;
        let greeted = self.greet(&shared, &home, &call, &mut questions, &answers).await?;
        let carried = carry::carry(&shared, &home, &greeted, questions).await;
        // Kept so long, as who lets go of it has ended.
        drop(answers);
        carried
    }

    async fn propose(
        &self,
        call: Call,
        mut questions: Receiver<Frame>,
        answers: Sender<Frame>,
    ) -> Result<(), Error> {
        let (shared, home) = self.at_work()?;
        let greeted = self.greet(&shared, &home, &call, &mut questions, &answers).await?;
        propose::propose(&shared, &home, &self.gate, &greeted, questions, answers).await
    }

    async fn follow(
        &self,
        call: Call,
        mut questions: Receiver<Frame>,
        answers: Sender<Frame>,
    ) -> Result<(), Error> {
        let (shared, home) = self.at_work()?;
        let greeted = self.greet(&shared, &home, &call, &mut questions, &answers).await?;
        match greeted.purpose {
            Purpose::Status => {
                follow::status(&shared, &home, &self.statuses, questions, answers).await
            }
            Purpose::Word => follow::word(&shared, questions, answers).await,
            _ => Err(refused("that is nothing to follow")),
        }
    }

    async fn order(&self, call: Call, question: Command) -> Result<Answer, Error> {
        let (shared, home) = self.at_work()?;
        orders::order(&shared, &home, &call, question).await
    }
}

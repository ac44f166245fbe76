//! A stream to a store that is kept open: opened anew whenever it broke, with a hello each time.
//!
//! Nothing is said before the store has answered the hello: what is refused was not sent.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_engine::wire::Malformed;
use ratatosk_rpc::{Call, Error, Event, Sender, Stream, Target, Tenant};
use tokio::time::sleep;

use crate::directory::server_id;
use crate::network::Shared;
use crate::proto::{Frame, Hello};
use ratatosk_rpc::frames::Joiner;

/// Time before a stream is opened again that was ended by what was said in it.
const PAUSE: Duration = Duration::from_secs(1);

/// What a stream is for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// What stores say to each other.
    Words = 1,
    /// Data of ranges.
    Data = 2,
    /// Proposals.
    Proposals = 3,
    /// What is known of the groups, when asked.
    Status = 4,
    /// The word of the store, whenever it has one.
    Word = 5,
}

pub(crate) type Speech<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// One side of what is said on a stream.
pub(crate) trait Talk: Send + Sync {
    /// The stream is open: says what there is to say, until it is dropped or the other side is gone.
    fn speak(&self, questions: Sender<Frame>) -> Speech<'_>;

    /// The store has said something.
    ///
    /// # Errors
    /// It makes no sense: the stream is given up.
    fn hear(&self, data: &Bytes) -> Result<(), Malformed>;

    /// The stream is not open any more, or could not be opened.
    fn lose(&self, why: &Error);

    /// What is to be done whether it is open or not; never ends.
    fn tend(&self) -> Speech<'_> {
        Box::pin(std::future::pending())
    }
}

/// Sends bytes; false if the other side is gone.
pub(crate) async fn send(questions: &Sender<Frame>, data: Bytes) -> bool {
    for frame in crate::frames::cut(data) {
        if questions.send(frame).await.is_err() {
            return false;
        }
    }
    true
}

/// Keeps a stream to a store open, for ever.
pub(crate) async fn keep(shared: Arc<Shared>, store: u64, purpose: Purpose, talk: &dyn Talk) {
    let tending = talk.tend();
    let keeping = async {
        loop {
            let (call, target) = (Call::new(Tenant::none()), Target::Server(server_id(store)));
            let stream = match purpose {
                Purpose::Words | Purpose::Data => shared.client.carry(call, target),
                Purpose::Proposals => shared.client.propose(call, target),
                Purpose::Status | Purpose::Word => shared.client.follow(call, target),
            };
            hold(&shared, store, purpose, talk, stream).await;
            sleep(PAUSE).await;
        }
    };
    // Neither ends; they are dropped together.
    tokio::select! {
        () = tending => {}
        () = keeping => {}
    }
}

/// Holds a stream until its store ends it, or says what makes no sense.
async fn hold(
    shared: &Shared,
    store: u64,
    purpose: Purpose,
    talk: &dyn Talk,
    mut stream: Stream<Frame, Frame>,
) {
    let mut speech: Option<Speech<'_>> = None;
    let mut greeted: Option<Sender<Frame>> = None;
    let mut is_held = false;
    let mut joiner = Joiner::new(shared.config.whole_bytes_max);
    loop {
        let speaking = async {
            match &mut speech {
                Some(speech) => speech.await,
                None => std::future::pending().await,
            }
        };
        // Both are cancel-safe: a speech goes on where it was.
        let event = tokio::select! {
            biased;
            event = stream.next() => event,
            () = speaking => {
                speech = None;
                continue;
            }
        };
        let told = match event {
            Some(Event::Opened { questions, .. }) => {
                // It may have moved without being lost: of what was said before nothing follows.
                if std::mem::take(&mut is_held) {
                    talk.lose(&Error::Internal { why: "the store is elsewhere".to_owned() });
                }
                joiner = Joiner::new(shared.config.whole_bytes_max);
                let hello = shared.hello(store, purpose);
                speech = Some(Box::pin(open(questions.clone(), hello)));
                greeted = Some(questions);
                Ok(())
            }
            Some(Event::Message(frame)) => match greeted.take() {
                Some(questions) => {
                    let welcome = frame.hello.as_ref();
                    let is_it = welcome.is_some_and(|hello| is_of(hello, shared, store));
                    (speech, is_held) = (is_it.then(|| talk.speak(questions)), is_it);
                    if is_it { Ok(()) } else { Err("it greets as somebody else") }
                }
                None => hear(&mut joiner, frame, talk),
            },
            Some(Event::Lost(error)) => {
                (speech, greeted, is_held) = (None, None, false);
                tracing::debug!(store = %format_args!("{store:016x}"), ?purpose, %error, "no stream");
                talk.lose(&error);
                Ok(())
            }
            None => Err("it ended"),
        };
        if let Err(why) = told {
            tracing::debug!(store = %format_args!("{store:016x}"), ?purpose, why, "a stream is left");
            drop(speech);
            talk.lose(&Error::Internal { why: why.to_owned() });
            return;
        }
    }
}

/// Says who speaks, once the store has room to hear it.
async fn open(questions: Sender<Frame>, hello: Hello) {
    // Who is gone is told of by the stream.
    let _ = questions.send(Frame { hello: Some(hello), ..Frame::default() }).await;
}

fn hear(joiner: &mut Joiner, frame: Frame, talk: &dyn Talk) -> Result<(), &'static str> {
    match crate::frames::join(joiner, frame) {
        Ok(Some(data)) => talk.hear(&data).map_err(|Malformed| "it says what makes no sense"),
        Ok(None) => Ok(()),
        Err(_) => Err("it says more than it may"),
    }
}

fn is_of(hello: &Hello, shared: &Shared, store: u64) -> bool {
    hello.cluster == shared.config.cluster && hello.from == store
}

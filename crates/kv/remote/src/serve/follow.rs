//! Tells others what this store has: what is known of its groups when they ask, its word when there is a
//! new one.

use std::time::Duration;

use ratatosk_clock::Instant;
use ratatosk_engine::wire::{Malformed, Parser};
use ratatosk_rpc::{Error, Receiver, Sender};
use tokio::sync::{Mutex, oneshot};

use crate::frames::{join, refused};
use crate::mirror::Source;
use crate::network::{Home, Shared};
use crate::proto::Frame;
use crate::record::{Room, encode_status};
use crate::talk::send;
use ratatosk_rpc::frames::Joiner;

/// What was asked so lately need not be asked again.
const FRESH: Duration = Duration::from_millis(20);
/// A question is a number.
const QUESTION_MAX: usize = 64;

/// What is known of the groups, for all who ask.
#[derive(Default)]
pub(super) struct Statuses {
    source: Source,
    asked: Mutex<Option<Instant>>,
}

impl Statuses {
    /// Asks the store, unless it was just asked.
    async fn refresh(&self, shared: &Shared, home: &Home) -> Result<(), Error> {
        let mut asked = self.asked.lock().await;
        let now = shared.clock.now();
        if asked.is_some_and(|asked| now.since(asked) < FRESH) {
            return Ok(());
        }
        let handle = &home.handle;
        let (told, tells) = oneshot::channel();
        // Whoever asked may have gone.
        handle.ask_status(Box::new(move |groups| drop(told.send(groups))));
        let stopped = |_| Error::Internal { why: "the store has stopped".to_owned() };
        let groups = tells.await.map_err(stopped)?;
        let head = Room { is_short: handle.is_short() }.encode();
        let entries = groups.iter().map(|status| (status.group, encode_status(status))).collect();
        self.source.tell(head, entries);
        *asked = Some(now);
        Ok(())
    }
}

/// Answers questions for what is known of the groups, with what has changed since the last one.
pub(super) async fn status(
    shared: &Shared,
    home: &Home,
    statuses: &Statuses,
    mut questions: Receiver<Frame>,
    answers: Sender<Frame>,
) -> Result<(), Error> {
    let mut joiner = Joiner::new(QUESTION_MAX);
    let mut seen = 0;
    while let Some(frame) = questions.next().await {
        let Some(question) = join(&mut joiner, frame)? else { continue };
        let number = Parser::new(&question).take_u64();
        let number = number.map_err(|Malformed| refused("a question that makes no sense"))?;
        statuses.refresh(shared, home).await?;
        let (now, mut note) = statuses.source.since(seen);
        (seen, note.answers) = (now, number);
        if !send(&answers, note.encode()).await {
            return Ok(());
        }
    }
    Ok(())
}

/// Tells the word of the store, now and whenever it is another.
pub(super) async fn word(
    shared: &Shared,
    mut questions: Receiver<Frame>,
    answers: Sender<Frame>,
) -> Result<(), Error> {
    let mut numbers = shared.word.numbers();
    let mut seen = 0;
    loop {
        if *numbers.borrow_and_update() > seen {
            let (now, note) = shared.word.since(seen);
            seen = now;
            if !send(&answers, note.encode()).await {
                return Ok(());
            }
        }
        // Both are cancel-safe.
        tokio::select! {
            changed = numbers.changed() => if changed.is_err() {
                return Ok(());
            },
            question = questions.next() => match question {
                Some(_) => return Err(refused("there is nothing to ask")),
                None => return Ok(()),
            },
        }
    }
}

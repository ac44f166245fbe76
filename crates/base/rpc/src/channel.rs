//! The two ends of a stream: who sends, within the credit that the other side gave, and who
//! receives, and gives credit as it takes.
//!
//! Within a process the credit is the room of a channel. Over the network [`converse`] carries
//! messages and credit; a peer that sends more than its credit has broken the protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Notify, Semaphore, mpsc};

use crate::config::Config;
use crate::error::Error;
use crate::method::Message;
use crate::protocol::{Frame, Kind, decode_error, put_credit, put_end, put_message};
use crate::transport::{FrameReader, FrameWriter};

/// Messages that wait to be encoded; the rest of what the credit allows is with the sender.
const ENCODE_QUEUE: usize = 64;

/// The other end takes no more messages. This one was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other end of the stream is gone")]
pub struct Closed;

/// Sends messages of a stream. Clones share the credit. When all are dropped, the other side
/// sees the end.
#[derive(Debug)]
pub struct Sender<T> {
    queue: mpsc::Sender<T>,
    /// Over the network: what the other side has given.
    credit: Option<Arc<Semaphore>>,
}

/// Receives messages of a stream.
#[derive(Debug)]
pub struct Receiver<T> {
    queue: mpsc::Receiver<T>,
    /// Over the network: what was taken and is to be given again.
    taken: Option<Arc<Taken>>,
}

/// Messages that were taken since the last credit was given.
#[derive(Debug)]
struct Taken {
    count: AtomicU32,
    threshold: u32,
    enough: Notify,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), credit: self.credit.clone() }
    }
}

impl<T> Sender<T> {
    /// Sends a message, once there is credit for it. Cancel-safe: dropped while it waits, it has
    /// sent nothing.
    ///
    /// # Errors
    /// When the other end is gone.
    pub async fn send(&self, message: T) -> Result<(), Closed> {
        let permit = match &self.credit {
            Some(credit) => Some(credit.acquire().await.map_err(|_| Closed)?),
            None => None,
        };
        self.queue.reserve().await.map_err(|_| Closed)?.send(message);
        if let Some(permit) = permit {
            permit.forget();
        }
        Ok(())
    }

    /// Sends a message, now.
    ///
    /// # Errors
    /// [`Error::Busy`] without credit, with nothing sent: RPC-012. [`Error::Lost`] when the other
    /// end is gone.
    pub fn try_send(&self, message: T) -> Result<(), Error> {
        let permit = match &self.credit {
            Some(credit) if credit.is_closed() => return Err(Error::not_sent(Closed)),
            Some(credit) => Some(credit.try_acquire().map_err(|_| Error::Busy)?),
            None => None,
        };
        match self.queue.try_send(message) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(Error::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(Error::not_sent(Closed)),
        }
        if let Some(permit) = permit {
            permit.forget();
        }
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// The next message; none when the other side has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<T> {
        let message = self.queue.recv().await?;
        if let Some(taken) = &self.taken {
            let count = taken.count.fetch_add(1, Ordering::Relaxed) + 1;
            if count >= taken.threshold {
                taken.enough.notify_one();
            }
        }
        Some(message)
    }
}

/// Both ends of one direction within the process, with room for `window` messages.
pub(crate) fn local<T>(window: u32) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel(capacity(window));
    (Sender { queue: sender, credit: None }, Receiver { queue: receiver, taken: None })
}

/// What [`converse`] needs of the near ends of a stream over the network.
pub(crate) struct Far<I, O> {
    inbound: mpsc::Sender<I>,
    outbound: mpsc::Receiver<O>,
    credit: Arc<Semaphore>,
    taken: Arc<Taken>,
    window: u32,
}

/// The near ends of a stream over the network, and the far ones for [`converse`].
pub(crate) fn over_network<I, O>(window: u32) -> (Receiver<I>, Sender<O>, Far<I, O>) {
    let window = window.max(1);
    let (inbound, questions) = mpsc::channel(capacity(window));
    let (answers, outbound) = mpsc::channel(ENCODE_QUEUE);
    let credit = Arc::new(Semaphore::new(0));
    let threshold = window.div_ceil(2);
    let taken = Taken { count: AtomicU32::new(0), threshold, enough: Notify::new() };
    let taken = Arc::new(taken);
    let receiver = Receiver { queue: questions, taken: Some(Arc::clone(&taken)) };
    let sender = Sender { queue: answers, credit: Some(Arc::clone(&credit)) };
    (receiver, sender, Far { inbound, outbound, credit, taken, window })
}

fn capacity(window: u32) -> usize {
    usize::try_from(window).unwrap_or(Semaphore::MAX_PERMITS).max(1)
}

/// Which side a conversation is carried for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Ends when the server does, or when nobody takes its messages any more.
    Client,
    /// Ends when its handler has: it neither sends nor takes any more.
    Server,
}

/// Carries messages and credit until the end. All that was sent is written then, but for what the
/// stream's window has no room for, which stays in `writer`.
pub(crate) async fn converse<I: Message, O: Message>(
    end: End,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    far: Far<I, O>,
    config: &Config,
) -> Result<(), Error> {
    let Far { inbound, mut outbound, credit, taken, window } = far;
    // Whoever waits for credit must learn of the end, however it comes.
    let credit = CloseOnDrop(credit);
    let mut inlet = Inlet { end, queue: Some(inbound), outstanding: window };
    let (mut is_sending, mut is_reading) = (true, true);
    put_credit(writer.buffer(), window);
    loop {
        let is_receiving = inlet.queue.is_some();
        if !is_receiving && (end == End::Client || !is_sending) {
            return Ok(());
        }
        // All are cancel-safe.
        tokio::select! {
            biased;
            frame = reader.next(), if is_reading => {
                match frame.map_err(|broken| broken.error())? {
                    Some(frame) => inlet.take(frame, &credit.0)?,
                    None => (inlet.queue, is_reading) = (None, false),
                }
            }
            message = outbound.recv(), if is_sending && writer.has_room() => match message {
                Some(message) => put_message(writer.buffer(), &message, config.message_bytes_max)
                    .map_err(Error::refused)?,
                None => {
                    is_sending = false;
                    // The stream's own end would take the way of the credit that is still to
                    // be given. A server ends with what became of the conversation.
                    if end == End::Client {
                        put_end(writer.buffer());
                    }
                }
            },
            () = taken.enough.notified(), if is_receiving => {
                let count = taken.count.swap(0, Ordering::Relaxed);
                inlet.outstanding += count;
                if count > 0 {
                    put_credit(writer.buffer(), count);
                }
            }
            progress = writer.progress() => progress.map_err(|broken| broken.error())?,
            // Last, because waiting for it is what costs most.
            () = inlet.gone(), if is_receiving => inlet.queue = None,
        }
        tokio::task::coop::consume_budget().await;
    }
}

/// Where messages of the peer go.
struct Inlet<I> {
    end: End,
    /// None when no more come, or nobody receives any more.
    queue: Option<mpsc::Sender<I>>,
    /// What the peer may still send.
    outstanding: u32,
}

impl<I: Message> Inlet<I> {
    fn take(&mut self, frame: Frame, credit: &Semaphore) -> Result<(), Error> {
        match frame.kind {
            Kind::Message => {
                let left = self.outstanding.checked_sub(1);
                self.outstanding =
                    left.ok_or_else(|| self.breach("a message beyond its credit"))?;
                let message = frame.message().map_err(|malformed| self.breach(malformed))?;
                // The queue has room for all of the credit, so where it fails nobody receives any
                // more, and the message is dropped as those behind it will be.
                if let Some(queue) = &self.queue {
                    let _ = queue.try_send(message);
                }
            }
            Kind::End => self.queue = None,
            Kind::Credit => {
                let count = frame.credit().map_err(|malformed| self.breach(malformed))?;
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                // Far beyond any window, and it keeps the semaphore from overflowing.
                if count > CREDIT_MAX || credit.available_permits() > CREDIT_MAX {
                    return Err(self.breach("more credit than there can be"));
                }
                credit.add_permits(count);
            }
            Kind::Error => {
                let error = decode_error(&frame.body);
                return Err(error.unwrap_or_else(|malformed| self.breach(malformed)));
            }
            Kind::Open | Kind::Item => return Err(self.breach("a frame out of its place")),
        }
        Ok(())
    }

    /// What it means that the peer broke the protocol: a client's call is refused, and what a
    /// server did before is not known.
    fn breach(&self, what: impl std::fmt::Display) -> Error {
        match self.end {
            End::Client => Error::in_doubt(what),
            End::Server => Error::refused(what),
        }
    }

    /// Until nobody receives any more.
    async fn gone(&self) {
        if let Some(queue) = &self.queue {
            queue.closed().await;
        }
    }
}

/// Messages that a peer can allow at a time.
const CREDIT_MAX: usize = 1 << 24;

const _: () = assert!(2 * CREDIT_MAX < Semaphore::MAX_PERMITS, "credit never overflows");

struct CloseOnDrop(Arc<Semaphore>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

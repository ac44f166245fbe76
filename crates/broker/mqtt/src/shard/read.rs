//! From a readable socket to the session.
//!
//! All connections of a shard read into one buffer. What a session did not take is kept with the
//! connection, and a packet that is larger than the buffer is read into one of its own, so that its
//! payload can be shared. One read per connection and turn: nobody starves the others.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes};
use ratatosk_contract::SessionRef;
use ratatosk_session::{Farewell, Next};
use ratatosk_telemetry::memory::{Pressure, Share};
use tokio::io::{AsyncRead, ReadBuf};

use super::{
    READ_BYTES, Shard,
    connection::{Connection, Flow},
};

/// A buffer for a large packet is at most this many times as large as what came of it.
const GROWTH: usize = 4;

/// Whether the connection's task has more to do at once.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The socket has nothing, or is not to be read now.
    Done,
    /// It may have more: come again behind the others.
    Again,
    /// The connection is gone.
    Gone,
}

impl Shard {
    /// One turn of a connection's task.
    pub(super) fn turn(&mut self, session: SessionRef, context: &mut Context<'_>) -> Turn {
        let Some(mut connection) = self.take(session) else { return Turn::Gone };
        self.now = self.node.clock.now();
        let known = connection.waker.as_ref();
        if !known.is_some_and(|waker| waker.will_wake(context.waker())) {
            connection.waker = Some(context.waker().clone());
        }
        if connection.is_write_blocked && connection.stream.poll_write_ready(context).is_ready() {
            connection.is_write_blocked = false;
            self.mark_dirty(session, &mut connection);
        }
        let turn = match connection.state {
            Flow::Reading if self.is_heavy(&connection) => {
                self.read_heavy(session, &mut connection, context)
            }
            Flow::Reading => self.read(session, &mut connection, context, false),
            Flow::Lingering => linger(&mut connection, &mut self.read_buffer, context),
            _ => Turn::Done,
        };
        if turn == Turn::Gone {
            self.put(session, connection);
            self.forget(session);
        } else {
            self.put(session, connection);
        }
        self.wake_flusher();
        turn
    }

    /// As [`Shard::read`], when those who bring little had their turn.
    fn read_heavy(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        context: &mut Context<'_>,
    ) -> Turn {
        if self.defers(session, connection) {
            return Turn::Done;
        }
        let since = self.now;
        let turn = self.read(session, connection, context, false);
        self.spend(since);
        turn
    }

    fn read(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        context: &mut Context<'_>,
        is_second: bool,
    ) -> Turn {
        // What was left by a session that waited comes first.
        if connection.has_leftover {
            connection.has_leftover = false;
            let bytes = std::mem::take(&mut connection.partial);
            self.feed(session, connection, bytes);
            return Turn::Again;
        }
        // The end of the layers, too, comes behind what came before it.
        if connection.pipeline.as_ref().is_some_and(|layers| layers.pipeline.is_over()) {
            self.end_in_hands(session, connection, Farewell::PeerClosed);
            return Turn::Done;
        }
        if self.is_back_pressured(session, connection) || self.is_starved(session, connection) {
            return Turn::Done;
        }
        let Some(allowed) = self.allowed_to_read(session, connection) else { return Turn::Done };
        let allowed = allowed.min(self.read_max());
        match self.read_once(session, connection, context, allowed) {
            Poll::Pending => Turn::Done,
            Poll::Ready(Ok(0)) => {
                self.end_in_hands(session, connection, Farewell::PeerClosed);
                Turn::Done
            }
            // A short read empties the socket. The runtime knows that too, and only files the
            // waker when it is asked once more, without another system call.
            Poll::Ready(Ok(count)) if count < allowed.min(READ_BYTES / 2) && !is_second => {
                match connection.state {
                    Flow::Reading => self.read(session, connection, context, true),
                    _ => Turn::Done,
                }
            }
            Poll::Ready(Ok(_)) => Turn::Again,
            Poll::Ready(Err(error)) => {
                let farewell = Farewell::NetworkError(error.to_string());
                self.end_in_hands(session, connection, farewell);
                Turn::Done
            }
        }
    }

    /// Reads once, and hands the bytes to the session.
    fn read_once(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        context: &mut Context<'_>,
        allowed: usize,
    ) -> Poll<std::io::Result<usize>> {
        // What layers hold back is not what the socket continues: they read into an empty buffer.
        let is_layered = connection.pipeline.is_some();
        if connection.wanted > READ_BYTES / 2 && !is_layered {
            return self.read_large(session, connection, context, allowed);
        }
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let held = if is_layered { 0 } else { connection.partial.len() };
        buffer[..held].copy_from_slice(&connection.partial[..held]);
        let end = READ_BYTES.min(held.saturating_add(allowed));
        let mut into = ReadBuf::new(&mut buffer[held..end]);
        let polled = Pin::new(&mut connection.stream).poll_read(context, &mut into);
        let count = into.filled().len();
        let result = match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                self.has_read(connection, count);
                if count > 0 {
                    connection.partial.drain(..held);
                    self.hand(session, connection, &buffer[..held + count]);
                }
                Poll::Ready(Ok(count))
            }
        };
        self.read_buffer = buffer;
        result
    }

    /// Reads the rest of a packet that has a buffer of its own.
    fn read_large(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        context: &mut Context<'_>,
        allowed: usize,
    ) -> Poll<std::io::Result<usize>> {
        let missing = connection.wanted - connection.partial.len();
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let take = missing.min(buffer.len()).min(allowed);
        let mut into = ReadBuf::new(&mut buffer[..take]);
        let polled = Pin::new(&mut connection.stream).poll_read(context, &mut into);
        let count = into.filled().len();
        if count > 0 {
            // The buffer grows with what comes: promises are not paid for.
            let needed = connection.partial.len() + count;
            if connection.partial.capacity() < needed {
                let is_short = self.node.memory.pressure() > Pressure::None;
                let factor = if is_short { 2 } else { GROWTH };
                let capacity = (needed * factor).min(connection.wanted);
                connection.partial.reserve_exact(capacity - connection.partial.len());
            }
            connection.partial.put_slice(&buffer[..count]);
        }
        self.read_buffer = buffer;
        if let Poll::Ready(Err(error)) = polled {
            return Poll::Ready(Err(error));
        }
        if polled.is_pending() {
            return Poll::Pending;
        }
        self.has_read(connection, count);
        Shard::recharge(connection);
        if connection.partial.len() >= connection.wanted {
            let packet = std::mem::take(&mut connection.partial);
            connection.wanted = 0;
            let packet = share(connection, packet);
            self.take_in(session, connection, &packet, Some(&packet));
        }
        Poll::Ready(Ok(count))
    }

    /// Bytes from the socket: through the layers, if there are any, to the session.
    fn hand(&mut self, session: SessionRef, connection: &mut Box<Connection>, bytes: &[u8]) {
        let Some(layers) = &mut connection.pipeline else {
            self.take_in(session, connection, bytes, None);
            return;
        };
        let mut mqtt = std::mem::take(&mut connection.partial);
        let received = layers.pipeline.receive(bytes, &mut mqtt, &mut layers.wire);
        connection.peer = layers.pipeline.peer().address;
        self.mark_dirty(session, connection);
        if let Err(error) = received {
            let farewell = Farewell::NetworkError(error.to_string());
            self.end_in_hands(session, connection, farewell);
            return;
        }
        if mqtt.len() >= connection.wanted.max(1) {
            self.feed(session, connection, mqtt);
        } else {
            connection.partial = mqtt;
        }
    }

    /// MQTT bytes that are owned: of a layered connection, or left over. Large ones are shared.
    fn feed(&mut self, session: SessionRef, connection: &mut Box<Connection>, bytes: Vec<u8>) {
        if bytes.len() < READ_BYTES / 2 {
            self.take_in(session, connection, &bytes, None);
            return;
        }
        let whole = share(connection, bytes);
        self.take_in(session, connection, &whole, Some(&whole));
    }

    /// MQTT bytes: to the session.
    pub(super) fn take_in(
        &mut self,
        session: SessionRef,
        connection: &mut Box<Connection>,
        bytes: &[u8],
        whole: Option<&Bytes>,
    ) {
        self.begin_batch();
        let received = self.lend(session, connection, |machine, now, link| {
            machine.receive(now, bytes, whole, link)
        });
        let rest = &bytes[received.consumed..];
        if rest.is_empty() {
            // An idle connection holds no buffer.
            connection.partial = Vec::new();
        } else {
            connection.partial.clear();
            connection.partial.extend_from_slice(rest);
        }
        connection.wanted = 0;
        if !matches!(received.next, Next::Retry | Next::RetryBy(_))
            && let Some(rare) = &mut connection.local.rare
        {
            rare.verdicts.release();
            rare.asked.release();
        }
        match received.next {
            Next::Bytes { packet_length } => {
                connection.wanted = packet_length.unwrap_or(0);
            }
            Next::Answer => connection.state = Flow::Waiting,
            Next::Retry => {
                connection.state = Flow::Retrying;
                connection.has_leftover = true;
                self.file_look(session, connection);
            }
            Next::RetryBy(by) => {
                connection.state = Flow::Retrying;
                connection.has_leftover = true;
                connection.deadline = Some(by);
                self.file_in_hands(session, connection, by);
            }
            Next::RetryAt(at) => {
                connection.state = Flow::Throttled;
                connection.has_leftover = true;
                connection.deadline = Some(at);
                self.file_in_hands(session, connection, at);
            }
            Next::End => {}
        }
        if received.next == Next::Answer {
            connection.has_leftover = !connection.partial.is_empty();
            self.start_request(session, connection);
        }
        self.after_session(session, connection);
    }

    /// Whether another shard does not keep up: then publishers wait.
    fn is_back_pressured(&mut self, session: SessionRef, connection: &mut Connection) -> bool {
        let from = self.id.index();
        let node = &self.node;
        let lane_max = self.lane_max();
        let is_full = |(shard, mailbox): (usize, &crate::shard::mailbox::Mailbox)| {
            shard != from && mailbox.is_full(from, lane_max)
        };
        if !node.mailboxes.iter().enumerate().any(is_full) {
            return false;
        }
        connection.state = Flow::BackPressured;
        self.back_pressured.push(session);
        true
    }

    /// How many bytes may be read now; `None` if the tenant's bandwidth is used up, and then the
    /// connection is read again when there is some. MQTT-014
    fn allowed_to_read(
        &mut self,
        session: SessionRef,
        connection: &mut Connection,
    ) -> Option<usize> {
        let shapers = connection.shapers.as_ref();
        let Some(shaper) = shapers.and_then(|shapers| shapers.inbound.as_ref()) else {
            return Some(usize::MAX);
        };
        match shaper.allowance(self.now) {
            Ok(bytes) => Some(bytes),
            Err(at) => {
                connection.state = Flow::Throttled;
                connection.deadline = Some(at);
                self.file_in_hands(session, connection, at);
                None
            }
        }
    }

    #[inline]
    fn has_read(&mut self, connection: &mut Connection, count: usize) {
        self.stats.read_bytes += count as u64;
        connection.intake.note(self.now, count);
        if let Some(shapers) = &mut connection.shapers
            && let Some(shaper) = &mut shapers.inbound
        {
            shaper.passed(self.now, count);
        }
    }
}

/// Bytes that many may come to share: their charge goes from the connection to whoever has them.
fn share(connection: &mut Connection, bytes: Vec<u8>) -> Bytes {
    Shard::recharge(connection);
    let held = bytes.capacity();
    connection.hold.account().keep(Share::Queues, bytes, held)
}

/// Reads and forgets what a peer still sends that was said farewell to.
fn linger(connection: &mut Connection, buffer: &mut [u8], context: &mut Context<'_>) -> Turn {
    let mut into = ReadBuf::new(buffer);
    match Pin::new(&mut connection.stream).poll_read(context, &mut into) {
        Poll::Pending => Turn::Done,
        Poll::Ready(Ok(())) if !into.filled().is_empty() => Turn::Again,
        // It may have ended its half only: the flusher calls again when all is said.
        Poll::Ready(Ok(())) if !connection.is_flushed() => Turn::Done,
        Poll::Ready(_) => Turn::Gone,
    }
}

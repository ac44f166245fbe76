//! One thread's sockets: batched reads into one buffer, one write per connection and turn.
//!
//! A turn waits for readiness, reads what came and hands it to the [`Handler`]; answers are appended to
//! buffers and leave with [`Net::flush`]. Edge-triggered: a short read means the socket is empty. A
//! socket that fills the buffer several times gives way and is read again in the next turn.
//! The generator and the ideal forwarder both run on this.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::clock::SECOND_NS;
use crate::machine::scan::{self, Malformed};

/// Bytes of the read buffer unless packets are larger.
pub(crate) const BUFFER_SIZE: usize = 256 * 1024;
/// Events that one turn takes.
const EVENTS_MAX: usize = 1024;
/// Reads of one socket in one turn.
const READS_MAX: usize = 4;
/// Buffers that grew beyond this are given back when they are empty.
const KEPT_SIZE_MAX: usize = 1024 * 1024;

const LISTENER: Token = Token(usize::MAX - 1);
const TIMER: Token = Token(usize::MAX - 2);

/// Number of a connection.
pub(crate) type LinkIndex = usize;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Closed {
    /// It never came up.
    #[error("connecting failed: {0}")]
    Refused(io::Error),
    /// The peer closed it.
    #[error("closed by the peer")]
    Peer,
    /// The socket failed.
    #[error("{0}")]
    Failed(io::Error),
    /// The peer does not speak MQTT.
    #[error("malformed packet: {0}")]
    Malformed(#[from] Malformed),
}

/// The user pressed Ctrl-C, or the process was asked to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Who reacts to what comes.
pub(crate) trait Handler {
    /// The connection stands.
    fn opened(&mut self, links: &mut Links, link: LinkIndex);
    /// Bytes came; returns how many were consumed, which is a whole number of packets.
    fn chunk(
        &mut self,
        links: &mut Links,
        link: LinkIndex,
        bytes: &[u8],
    ) -> Result<usize, Malformed>;
    /// The connection's buffer is empty after having been full.
    fn drained(&mut self, link: LinkIndex);
    /// The connection is gone, not by our wish.
    fn closed(&mut self, links: &mut Links, link: LinkIndex, why: Closed);
}

/// One connection.
#[derive(Debug, Default)]
struct Link {
    stream: Option<TcpStream>,
    out: Vec<u8>,
    written: usize,
    /// An incomplete packet.
    tail: Vec<u8>,
    dialing: bool,
    dirty: bool,
    blocked: bool,
    /// A write was cut short since the buffer was last empty.
    waited: bool,
    /// Dropped as soon as the buffer is written.
    closing: bool,
    /// Half-closed as soon as the buffer is written; the peer's end is awaited.
    leaving: bool,
}

/// The connections, as handlers see them.
#[derive(Debug, Default)]
pub(crate) struct Links {
    slots: Vec<Link>,
    free: Vec<LinkIndex>,
    dirty: Vec<LinkIndex>,
}

impl Links {
    /// The buffer to append to; it leaves with the next flush.
    #[inline]
    pub(crate) fn buffer(&mut self, link: LinkIndex) -> &mut Vec<u8> {
        let slot = &mut self.slots[link];
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(link);
        }
        &mut slot.out
    }

    /// Bytes that wait to be written.
    #[inline]
    pub(crate) fn pending(&self, link: LinkIndex) -> usize {
        let slot = &self.slots[link];
        slot.out.len() - slot.written
    }

    /// Whether the connection exists.
    pub(crate) fn is_open(&self, link: LinkIndex) -> bool {
        self.slots.get(link).is_some_and(|slot| slot.stream.is_some())
    }

    /// Whether the socket took less than was offered and has not said that it takes more.
    pub(crate) fn is_blocked(&self, link: LinkIndex) -> bool {
        self.slots[link].blocked
    }

    /// Closes the connection once its buffer is written.
    pub(crate) fn close(&mut self, link: LinkIndex) {
        self.buffer(link);
        self.slots[link].closing = true;
    }

    /// Ends our half once the buffer is written; that the peer then closes is no loss.
    pub(crate) fn leave(&mut self, link: LinkIndex) {
        self.buffer(link);
        self.slots[link].leaving = true;
    }

    fn insert(&mut self, stream: TcpStream, dialing: bool) -> LinkIndex {
        let slot = Link { stream: Some(stream), dialing, ..Link::default() };
        if let Some(link) = self.free.pop() {
            self.slots[link] = slot;
            return link;
        }
        self.slots.push(slot);
        self.slots.len() - 1
    }

    /// Drops the socket. The number is used again only if `reuse`: the generator keeps its numbers.
    fn remove(&mut self, link: LinkIndex, reuse: bool) {
        // A dirty mark must not outlive the slot's list entry.
        let dirty = self.slots[link].dirty;
        self.slots[link] = Link { dirty, ..Link::default() };
        if reuse {
            self.free.push(link);
        }
    }
}

/// What an event says.
#[derive(Debug, Clone, Copy)]
struct Ready {
    token: Token,
    readable: bool,
    writable: bool,
}

/// The event loop.
#[derive(Debug)]
pub(crate) struct Net {
    poll: Poll,
    events: Events,
    ready: Vec<Ready>,
    again: Vec<LinkIndex>,
    buffer: Vec<u8>,
    /// The connections.
    pub(crate) links: Links,
    listener: Option<TcpListener>,
    timer: Option<OwnedFd>,
    stop: Arc<AtomicBool>,
}

impl Net {
    /// An event loop whose packets are at most `packet_max` bytes; it ends when `stop` is set.
    pub(crate) fn new(packet_max: usize, stop: Arc<AtomicBool>) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_MAX),
            ready: Vec::with_capacity(EVENTS_MAX),
            again: Vec::new(),
            buffer: vec![0; BUFFER_SIZE.max(packet_max.saturating_mul(2))],
            links: Links::default(),
            listener: None,
            timer: None,
            stop,
        })
    }

    /// Takes connections from `listener`.
    pub(crate) fn listen(&mut self, listener: std::net::TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        self.poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Starts a connection to `address`.
    pub(crate) fn dial(&mut self, address: SocketAddr) -> io::Result<LinkIndex> {
        let stream = TcpStream::connect(address)?;
        self.adopt(stream, true)
    }

    fn adopt(&mut self, stream: TcpStream, dialing: bool) -> io::Result<LinkIndex> {
        let link = self.links.insert(stream, dialing);
        if let Some(stream) = &mut self.links.slots[link].stream {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(stream, Token(link), interest)?;
        }
        Ok(link)
    }

    /// Wakes the loop `delay_ns` from now. A timer of its own, because a poll's timeout is rounded to
    /// milliseconds and an open loop needs microseconds.
    pub(crate) fn wake_after(&mut self, delay_ns: u64) -> io::Result<()> {
        if self.timer.is_none() {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            let raw = timer.as_raw_fd();
            self.poll.registry().register(&mut SourceFd(&raw), TIMER, Interest::READABLE)?;
            self.timer = Some(timer);
        }
        let Some(timer) = &self.timer else { return Ok(()) };
        // Zero would disarm it.
        let delay_ns = delay_ns.max(1);
        let part = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let value =
            Timespec { tv_sec: part(delay_ns / SECOND_NS), tv_nsec: part(delay_ns % SECOND_NS) };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = Itimerspec { it_interval: zero, it_value: value };
        // Setting it anew also clears an expiry that was not read, so it is never read.
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &setting)?;
        Ok(())
    }

    /// Waits at most `timeout`, then takes what has come.
    pub(crate) fn turn<H: Handler>(
        &mut self,
        handler: &mut H,
        timeout: Duration,
    ) -> anyhow::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        let timeout = if self.again.is_empty() { timeout } else { Duration::ZERO };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.ready.clear();
        self.ready.extend(self.events.iter().map(|event| Ready {
            token: event.token(),
            readable: event.is_readable() || event.is_read_closed() || event.is_error(),
            writable: event.is_writable() || event.is_error(),
        }));
        let mut again = std::mem::take(&mut self.again);
        for link in again.drain(..) {
            self.receive(handler, link);
        }
        for index in 0..self.ready.len() {
            let ready = self.ready[index];
            match ready.token {
                LISTENER => self.accept(handler)?,
                TIMER => {}
                Token(link) => self.react(handler, link, ready),
            }
        }
        Ok(())
    }

    /// Writes what was appended: one write per connection.
    pub(crate) fn flush<H: Handler>(&mut self, handler: &mut H) {
        let mut dirty = std::mem::take(&mut self.links.dirty);
        for link in dirty.drain(..) {
            self.links.slots[link].dirty = false;
            if let Err(why) = self.write(handler, link) {
                self.drop_link(handler, link, why);
            }
        }
        // What handlers appended while buffers drained or links closed is for the next turn; the
        // allocation of this turn's list is kept.
        if self.links.dirty.is_empty() {
            self.links.dirty = dirty;
        }
    }

    /// Whether appended bytes wait for [`Net::flush`].
    pub(crate) fn has_unflushed(&self) -> bool {
        !self.links.dirty.is_empty()
    }

    fn react<H: Handler>(&mut self, handler: &mut H, link: LinkIndex, ready: Ready) {
        let Some(slot) = self.links.slots.get_mut(link) else { return };
        let Some(stream) = &slot.stream else { return };
        if slot.dialing {
            if !ready.writable {
                return;
            }
            let outcome = match stream.take_error() {
                Ok(None) => stream.peer_addr().map(|_| ()),
                Ok(Some(error)) | Err(error) => Err(error),
            };
            match outcome.and_then(|()| stream.set_nodelay(true)) {
                Ok(()) => {
                    slot.dialing = false;
                    handler.opened(&mut self.links, link);
                }
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
                Err(error) => return self.drop_link(handler, link, Closed::Refused(error)),
            }
        } else if ready.writable && slot.blocked {
            slot.blocked = false;
            self.links.buffer(link);
        }
        if ready.readable {
            self.receive(handler, link);
        }
    }

    fn accept<H: Handler>(&mut self, handler: &mut H) -> io::Result<()> {
        loop {
            let Some(listener) = &self.listener else { return Ok(()) };
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nodelay(true)?;
                    let link = self.adopt(stream, false)?;
                    handler.opened(&mut self.links, link);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn receive<H: Handler>(&mut self, handler: &mut H, link: LinkIndex) {
        for _ in 0..READS_MAX {
            match self.read(handler, link) {
                Ok(true) => {}
                Ok(false) => return,
                Err(why) => return self.drop_link(handler, link, why),
            }
        }
        self.again.push(link);
    }

    /// Reads once; true if there may be more.
    fn read<H: Handler>(&mut self, handler: &mut H, link: LinkIndex) -> Result<bool, Closed> {
        let slot = &mut self.links.slots[link];
        let Some(stream) = &mut slot.stream else { return Ok(false) };
        let held = slot.tail.len();
        self.buffer[..held].copy_from_slice(&slot.tail);
        let space = self.buffer.len() - held;
        let count = match stream.read(&mut self.buffer[held..]) {
            Ok(0) => return Err(Closed::Peer),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(Closed::Failed(error)),
        };
        let bytes = &self.buffer[..held + count];
        let consumed = handler.chunk(&mut self.links, link, bytes)?;
        let rest = &bytes[consumed..];
        if let Some(size) = scan::announced_size(rest)?
            && size > self.buffer.len()
        {
            return Err(Malformed::Oversized { size, limit: self.buffer.len() }.into());
        }
        let tail = &mut self.links.slots[link].tail;
        tail.clear();
        tail.extend_from_slice(rest);
        Ok(count == space)
    }

    fn write<H: Handler>(&mut self, handler: &mut H, link: LinkIndex) -> Result<(), Closed> {
        let slot = &mut self.links.slots[link];
        let Some(stream) = &mut slot.stream else { return Ok(()) };
        if slot.blocked || slot.dialing {
            return Ok(());
        }
        while slot.written < slot.out.len() {
            match stream.write(&slot.out[slot.written..]) {
                Ok(0) => return Err(Closed::Peer),
                Ok(count) => slot.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    slot.blocked = true;
                    slot.waited = true;
                    // What was written goes when it is the larger part, so moving stays cheap.
                    if slot.written > slot.out.len() / 2 {
                        slot.out.drain(..slot.written);
                        slot.written = 0;
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Closed::Failed(error)),
            }
        }
        slot.out.clear();
        slot.written = 0;
        let waited = std::mem::take(&mut slot.waited);
        if slot.out.capacity() > KEPT_SIZE_MAX {
            slot.out = Vec::new();
        }
        if slot.closing {
            self.links.remove(link, self.listener.is_some());
        } else if slot.leaving {
            // Fails only if the peer was faster, and then reading tells.
            let _ = slot.stream.as_ref().map(|stream| stream.shutdown(Shutdown::Write));
        } else if waited {
            handler.drained(link);
        }
        Ok(())
    }

    fn drop_link<H: Handler>(&mut self, handler: &mut H, link: LinkIndex, why: Closed) {
        let slot = &self.links.slots[link];
        let wished = slot.closing || slot.leaving;
        self.links.remove(link, self.listener.is_some());
        if !wished {
            handler.closed(&mut self.links, link, why);
        }
    }
}

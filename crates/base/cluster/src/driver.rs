//! The thread that owns the sockets: UDP, TCP, the clock.
//!
//! A turn reads what has arrived, then looks at the clock, then sends what came of both. In this order a
//! process that was kept from running reads answers before it takes their senders for dead.
//!
//! Bounds: [`CONNECTIONS_MAX`] connections each way, each with a deadline; 256 datagrams a turn.

mod complaint;
mod connection;
pub(crate) mod seeds;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream, UdpSocket};
use mio::{Events, Interest, Poll, Token};
use ratatosk_clock::Instant;
use socket2::{Domain, Protocol, Socket, Type};

use crate::cluster::{Incoming, Shared, State};
use crate::config::{Config, StartError};
use crate::protocol::envelope::PACKET_MAX;
use crate::protocol::machine::{Effects, Event, Input, Side};
use crate::protocol::refusal::{Count, Refusal};
use crate::protocol::stream::{Credentials, Stream};
use crate::protocol::wire::{canonical, is_reachable};
use complaint::Complaints;
use connection::{Connection, Verdict};

/// Connections that others opened, and those that this host opened.
pub const CONNECTIONS_MAX: usize = 64;
const DATAGRAMS_A_TURN: usize = 256;
/// Errors of the socket that are passed over in a turn.
const ERRORS_MAX: usize = 16;
/// What may wait in the system until it is read.
const RECEIVE_BUFFER: usize = 1024 * 1024;
/// How often members are shown, if nothing else happens.
const MEMBERS_INTERVAL: Duration = Duration::from_millis(500);
/// Tries to find a port that is free for UDP and TCP.
const PORT_TRIES: usize = 32;

const UDP: Token = Token(0);
const LISTENER: Token = Token(1);
const WAKE: Token = Token(2);
const FIRST: usize = 3;

/// The sockets of a host.
pub(crate) struct Sockets {
    poll: Poll,
    udp: UdpSocket,
    listener: TcpListener,
    address: SocketAddr,
}

/// Works with them.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    sockets: Sockets,
    credentials: Credentials,
    stream_time: Duration,
    connections: BTreeMap<Token, Connection>,
    /// Those that were not worked on to their end.
    busy: Vec<Token>,
    next_token: usize,
    is_udp_ready: bool,
    /// When members were last shown.
    members_at: Instant,
    complaints: Complaints,
}

impl Sockets {
    /// Where others reach this host.
    pub(crate) fn advertised(&self, config: &Config) -> Result<SocketAddr, StartError> {
        let mut address = config.advertise.unwrap_or(self.address);
        if address.port() == 0 {
            address.set_port(self.address.port());
        }
        let address = canonical(address);
        if is_reachable(address) { Ok(address) } else { Err(StartError::Unreachable { address }) }
    }

    /// An address as the UDP socket wants it: one of IPv6 may reach IPv4 too, by another name.
    fn spelled(&self, to: SocketAddr) -> SocketAddr {
        match to.ip() {
            IpAddr::V4(ip) if self.address.is_ipv6() => {
                SocketAddr::new(ip.to_ipv6_mapped().into(), to.port())
            }
            _ => to,
        }
    }
}

impl Driver {
    /// Opens the sockets.
    pub(crate) fn bind(config: &Config) -> Result<(Sockets, mio::Waker), StartError> {
        let failed = |source| StartError::Bind { address: config.bind, source };
        let (mut udp, mut listener) = bind_both(config.bind).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let poll = Poll::new().map_err(StartError::System)?;
        let registry = poll.registry();
        let readable = Interest::READABLE;
        registry.register(&mut udp, UDP, readable).map_err(StartError::System)?;
        registry.register(&mut listener, LISTENER, readable).map_err(StartError::System)?;
        let waker = mio::Waker::new(registry, WAKE).map_err(StartError::System)?;
        Ok((Sockets { poll, udp, listener, address }, waker))
    }

    pub(crate) fn new(
        shared: Arc<Shared>,
        sockets: Sockets,
        credentials: Credentials,
        stream_time: Duration,
    ) -> Driver {
        Driver {
            members_at: shared.clock.now(),
            shared,
            sockets,
            credentials,
            stream_time,
            connections: BTreeMap::new(),
            busy: Vec::new(),
            next_token: FIRST,
            is_udp_ready: true,
            complaints: Complaints::default(),
        }
    }

    /// Works until the host stops.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        while !self.shared.is_stopped() {
            let is_busy = self.is_udp_ready || !self.busy.is_empty();
            let timeout = if is_busy { Duration::ZERO } else { self.wait() };
            match self.sockets.poll.poll(&mut events, Some(timeout)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "the cluster's sockets cannot be waited for");
                    break;
                }
            }
            for token in std::mem::take(&mut self.busy) {
                self.work(token);
            }
            for event in &events {
                match event.token() {
                    UDP => self.is_udp_ready = true,
                    LISTENER => self.accept(),
                    WAKE => {}
                    token => self.work(token),
                }
            }
            self.receive();
            self.tick();
            self.close_overdue();
            self.perform();
        }
        // Nobody waits for a farewell that will not be said.
        self.shared.depart();
    }

    fn wait(&self) -> Duration {
        let now = self.shared.clock.now();
        let due = self.shared.state.lock().machine.next_due();
        let deadlines = self.connections.values().map(|connection| connection.deadline);
        // A millisecond more: the system rounds down, and this would turn in circles until then.
        deadlines.fold(due, Instant::min).since(now) + Duration::from_millis(1)
    }

    /// Reads datagrams.
    fn receive(&mut self) {
        if !self.is_udp_ready {
            return;
        }
        // One byte more than there may be, to see that there is more.
        let mut buffer = [0; PACKET_MAX + 1];
        let mut errors = 0;
        for _ in 0..DATAGRAMS_A_TURN {
            match self.sockets.udp.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let bytes = &buffer[..length];
                    self.shared.step(Input::Datagram { from, bytes });
                }
                // What an earlier datagram met is told here, and says nothing of this socket.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock && errors < ERRORS_MAX => {
                    errors += 1;
                }
                Err(_) => {
                    self.is_udp_ready = false;
                    return;
                }
            }
        }
    }

    fn tick(&self) {
        let now = self.shared.clock.now();
        if self.shared.state.lock().machine.next_due() <= now {
            self.shared.step(Input::Tick);
        }
    }

    fn accept(&mut self) {
        loop {
            let socket = match self.sockets.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::warn!(%error, "a connection of the cluster was not accepted");
                    return;
                }
            };
            if self.count(Side::Answerer) >= CONNECTIONS_MAX {
                self.shared.counters.add(Count::StreamsRefused, 1);
                if !self.make_room() {
                    continue;
                }
            }
            let interest = Interest::READABLE | Interest::WRITABLE;
            if let Some(token) = self.add(socket, Side::Answerer, interest) {
                self.work(token);
            }
        }
    }

    fn count(&self, side: Side) -> usize {
        self.connections.values().filter(|connection| connection.side == side).count()
    }

    /// Closes the oldest connection that others opened and that has proved nothing yet: a crowd of
    /// strangers does not keep hosts out.
    fn make_room(&mut self) -> bool {
        let mut all = self.connections.iter();
        let oldest = all.find(|(_, it)| it.side == Side::Answerer && !it.is_proven);
        let oldest = oldest.map(|(token, _)| *token);
        oldest.inspect(|token| self.close(*token)).is_some()
    }

    fn add(&mut self, mut socket: TcpStream, side: Side, interest: Interest) -> Option<Token> {
        let token = Token(self.next_token);
        let mut nonce = [0; 16];
        let is_drawn = getrandom::fill(&mut nonce).is_ok();
        if !is_drawn || self.sockets.poll.registry().register(&mut socket, token, interest).is_err()
        {
            return None;
        }
        let _ = socket.set_nodelay(true);
        self.next_token += 1;
        self.credentials.cluster = self.shared.state.lock().machine.cluster();
        let stream = Stream::new(side, self.credentials.clone(), nonce);
        let deadline = self.shared.clock.now() + self.stream_time;
        self.connections.insert(token, Connection::new(socket, side, deadline, stream));
        Some(token)
    }

    /// Opens a connection and sends a frame over it.
    fn open(&mut self, to: SocketAddr, frame: Vec<u8>) {
        let is_full = self.count(Side::Asker) >= CONNECTIONS_MAX;
        let socket = if is_full { None } else { TcpStream::connect(to).ok() };
        let interest = Interest::READABLE | Interest::WRITABLE;
        match socket.and_then(|socket| self.add(socket, Side::Asker, interest)) {
            Some(token) => {
                if let Some(connection) = self.connections.get_mut(&token) {
                    connection.send(frame);
                }
            }
            None => {
                self.shared.step(Input::StreamFailed);
            }
        }
    }

    fn work(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let side = connection.side;
        let shared = &self.shared;
        let verdict = connection.work(|bytes| shared.step(Input::Frame { side, bytes }));
        match verdict {
            Verdict::Open => return,
            Verdict::Busy => {
                self.busy.push(token);
                return;
            }
            Verdict::Done | Verdict::Failed(_) => {}
        }
        self.close(token);
        if let Verdict::Failed(refusal) = verdict {
            if let Some(refusal) = refusal {
                self.shared.counters.refuse(refusal);
            }
            if side == Side::Asker {
                self.shared.step(Input::StreamFailed);
            }
        }
    }

    fn close(&mut self, token: Token) {
        if let Some(mut connection) = self.connections.remove(&token) {
            let _ = self.sockets.poll.registry().deregister(&mut connection.socket);
        }
    }

    fn close_overdue(&mut self) {
        let now = self.shared.clock.now();
        let is_overdue = |(_, connection): &(&Token, &Connection)| connection.deadline <= now;
        let overdue: Vec<(Token, Side)> = self
            .connections
            .iter()
            .filter(is_overdue)
            .map(|(token, connection)| (*token, connection.side))
            .collect();
        for (token, side) in overdue {
            self.close(token);
            if side == Side::Asker {
                self.shared.step(Input::StreamFailed);
            }
        }
    }

    /// Carries out what the machine wants.
    fn perform(&mut self) {
        let mut effects = {
            let mut state = self.shared.state.lock();
            let effects = std::mem::take(&mut state.effects);
            hand_out(&mut state, &effects, &self.shared);
            effects
        };
        for (to, bytes) in effects.datagrams.drain(..) {
            // What is not sent is as if it was lost.
            let _ = self.sockets.udp.send_to(&bytes, self.sockets.spelled(to));
        }
        for (to, frame) in std::mem::take(&mut effects.opens) {
            self.open(to, frame);
        }
        self.publish(&effects);
        if effects.events.contains(&Event::Departed) {
            self.shared.depart();
        }
    }

    /// Shows watchers what has changed. Only this thread does, so that they see it in its order; and
    /// without the lock, so that they may use their handles.
    fn publish(&mut self, effects: &Effects) {
        let now = self.shared.clock.now();
        // Suspicions come and go without a notice; nobody needs them at once.
        let is_due = now.since(self.members_at) >= MEMBERS_INTERVAL;
        if !is_due && !effects.is_landscape_changed && !effects.is_map_changed {
            return;
        }
        self.members_at = now;
        self.complaints.tell(now, &self.shared.counters);
        let mut landscapes = Vec::new();
        let mut spaces = Vec::new();
        let members = {
            let mut state = self.shared.state.lock();
            if effects.is_landscape_changed {
                state.landscapes.retain(|_, watch| !watch.is_forsaken());
                let all = state.landscapes.iter();
                landscapes.extend(
                    all.map(|(service, watch)| (watch.clone(), state.machine.landscape(service))),
                );
            }
            if effects.is_map_changed {
                state.spaces.retain(|_, watch| !watch.is_forsaken());
                let all = state.spaces.iter();
                spaces
                    .extend(all.map(|(space, watch)| (watch.clone(), state.machine.space(space))));
            }
            state.machine.members()
        };
        self.shared.members.set(members);
        landscapes.into_iter().for_each(|(watch, state)| watch.set(state));
        spaces.into_iter().for_each(|(watch, state)| watch.set(state));
    }
}

/// Gives messages to agents and events to subscribers.
fn hand_out(state: &mut State, effects: &Effects, shared: &Shared) {
    for event in &effects.events {
        if let Event::Contested { address } = event {
            tracing::error!(%address, "another host that runs claims this one's address");
        }
        let Event::Message { to, from, body } = event else {
            state.subscribers.retain(|subscriber| {
                use std::sync::mpsc::TrySendError;
                !matches!(subscriber.try_send(event.clone()), Err(TrySendError::Disconnected(_)))
            });
            continue;
        };
        let incoming = Incoming { from: from.clone(), body: body.clone() };
        let inbox = state.inboxes.get(&to.name);
        if inbox.is_none_or(|inbox| inbox.try_send(incoming).is_err()) {
            shared.counters.refuse(Refusal::Undelivered);
        }
    }
}

/// UDP and TCP at one address.
fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    let mut last = None;
    for _ in 0..tries {
        let listener = TcpListener::bind(address)?;
        let mut taken = address;
        taken.set_port(listener.local_addr()?.port());
        match bind_udp(taken) {
            Ok(udp) => return Ok((udp, listener)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // The system may give less; it says so nowhere, and less is no error.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.bind(&address.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

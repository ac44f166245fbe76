//! One TCP connection: bytes to frames and back, and when its time is over.

use std::io::{self, Read, Write};

use mio::net::TcpStream;
use ratatosk_clock::Instant;

use crate::protocol::machine::Side;
use crate::protocol::refusal::Refusal;
use crate::protocol::stream::Stream;

/// Bytes that are read at once.
const CHUNK: usize = 16 * 1024;
/// Reads in a row, so that one connection does not keep the others waiting.
const READS_MAX: usize = 64;

/// One end.
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    pub(super) side: Side,
    /// It is closed then, whatever it does.
    pub(super) deadline: Instant,
    /// It sent a frame, which it can only do with the key, if there is one.
    pub(super) is_proven: bool,
    stream: Stream,
    /// No more frames are expected: what is left is to be sent.
    is_done: bool,
}

/// What is to be done with a connection that was worked on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on when the system says that there is more.
    Open,
    /// It goes on at once: there may be more already, and the system will not say so again.
    Busy,
    /// Everything was said.
    Done,
    /// It was cut or turned away.
    Failed(Option<Refusal>),
}

impl Connection {
    pub(super) fn new(socket: TcpStream, side: Side, deadline: Instant, stream: Stream) -> Self {
        Connection { socket, side, deadline, is_proven: false, stream, is_done: false }
    }

    /// Sends a frame as soon as the other end lets it.
    pub(super) fn send(&mut self, frame: Vec<u8>) {
        self.stream.send(frame);
    }

    /// Reads and writes what can be. `take` gets each frame and gives the next one to send, or none, which
    /// ends the exchange.
    pub(super) fn work(&mut self, mut take: impl FnMut(&[u8]) -> Option<Vec<u8>>) -> Verdict {
        if let Err(verdict) = self.write() {
            return verdict;
        }
        let mut is_ended = false;
        let mut is_empty = false;
        for _ in 0..READS_MAX {
            match self.read() {
                Ok(None) => {
                    is_empty = true;
                    break;
                }
                Ok(Some(0)) => {
                    is_ended = true;
                    break;
                }
                Ok(Some(_)) => {}
                Err(_) => return Verdict::Failed(None),
            }
            loop {
                match self.stream.next_frame() {
                    Ok(None) => break,
                    Ok(Some(_)) if self.is_done => return Verdict::Failed(None),
                    Ok(Some(frame)) => {
                        self.is_proven = true;
                        match take(&frame) {
                            Some(reply) => self.stream.send(reply),
                            None => self.is_done = true,
                        }
                    }
                    Err(refusal) => return Verdict::Failed(Some(refusal)),
                }
            }
        }
        if let Err(verdict) = self.write() {
            return verdict;
        }
        let is_sent = self.stream.output.is_empty();
        match (self.is_done && is_sent, is_ended, self.side) {
            (true, ..) | (false, true, Side::Answerer) => Verdict::Done,
            (false, true, Side::Asker) => Verdict::Failed(None),
            (false, false, _) if is_empty => Verdict::Open,
            (false, false, _) => Verdict::Busy,
        }
    }

    fn read(&mut self) -> io::Result<Option<usize>> {
        let mut chunk = [0; CHUNK];
        loop {
            match self.socket.read(&mut chunk) {
                Ok(count) => {
                    self.stream.receive(&chunk[..count]);
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // A connection that is still being made has nothing to read.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn write(&mut self) -> Result<(), Verdict> {
        if let Ok(Some(_)) | Err(_) = self.socket.take_error() {
            return Err(Verdict::Failed(None));
        }
        let mut sent = 0;
        let output = &mut self.stream.output;
        while sent < output.len() {
            match self.socket.write(&output[sent..]) {
                Ok(0) => return Err(Verdict::Failed(None)),
                Ok(count) => sent += count,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
                    ) =>
                {
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Verdict::Failed(None)),
            }
        }
        output.drain(..sent);
        Ok(())
    }
}

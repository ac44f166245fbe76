//! The end of a tick: batches go to other shards, and every dirty connection is written once.
//!
//! Writing once a tick is what makes many small messages one system call. A socket that takes no
//! more is left to its task, which waits until it does. Large ticks are cut into pieces, so that a
//! fan-out to many sessions lets readers in between.

use std::{io::ErrorKind, io::IoSlice};

use ratatosk_clock::Instant;
use ratatosk_contract::SessionRef;
use ratatosk_session::{Farewell, Session};

use super::{
    Shard, close,
    connection::{Connection, Flow, Layered},
};

/// How many connections are written before others get a turn.
const WRITES_MAX: usize = 256;
/// How many pieces one gathering write takes.
const PIECES_MAX: usize = 16;
/// From how many bytes on a layered connection's output waits for its socket.
const WIRE_BYTES_MAX: usize = 256 * 1024;

impl Shard {
    /// Hands batches over and writes dirty connections; true if some are left for the next turn.
    pub(super) fn flush(&mut self) -> bool {
        self.hand_over();
        let mut dirty = std::mem::take(&mut self.dirty);
        let before = dirty.len();
        let now = before.min(WRITES_MAX);
        let rest = dirty.split_off(now);
        for slot in dirty.drain(..) {
            let session = self.reference(slot);
            self.flush_one(session);
        }
        self.given.settle(before, rest.len());
        // What became dirty meanwhile stands behind what was left.
        let new = std::mem::replace(&mut self.dirty, rest);
        self.dirty.extend(new);
        self.hand_over();
        let is_waited_for = self.call_waiting();
        is_waited_for || !self.dirty.is_empty()
    }

    fn hand_over(&mut self) {
        if !self.has_outbound {
            return;
        }
        self.has_outbound = false;
        let from = self.id.index();
        for (shard, batch) in self.outbound.iter_mut().enumerate() {
            if !batch.is_empty() {
                self.node.mailboxes[shard].hand_over(from, batch);
            }
        }
    }

    fn flush_one(&mut self, session: SessionRef) {
        let Some(connection) = self.slots[session.slot as usize].connection.as_deref_mut() else {
            return;
        };
        connection.is_dirty = false;
        if connection.is_write_blocked || connection.local.unsaved > 0 {
            Shard::recharge(connection);
            return;
        }
        match write(connection, self.now) {
            Ok(written) => {
                self.stats.written_bytes += written as u64;
                connection.note_member();
                Shard::recharge(connection);
            }
            Err(error) => {
                if connection.state == Flow::Lingering {
                    // Nobody is there to be told.
                    self.forget(session);
                } else {
                    self.end(session, Farewell::NetworkError(error.to_string()));
                }
                return;
            }
        }
        if connection.is_write_blocked {
            connection.wake();
            return;
        }
        if let Some(at) = connection.write_at() {
            self.file(session, at);
            return;
        }
        if connection.state == Flow::Lingering {
            if connection.is_flushed() {
                close::shut(connection);
            }
            return;
        }
        if connection.session.wants_pump() || connection.local.has_retained() {
            // The output is written: more may follow.
            self.drive(session, |machine, now, link| machine.pump(now, link));
        }
    }
}

/// Writes what a connection has, as far as the socket and the tenant's bandwidth take it.
pub(super) fn write(connection: &mut Connection, now: Instant) -> std::io::Result<usize> {
    let mut total = 0;
    loop {
        if let Some(layers) = &mut connection.pipeline
            && layers.wire.len() - layers.written < WIRE_BYTES_MAX
            && connection.state != Flow::Lingering
        {
            wrap(&mut connection.session, layers);
        }
        if !connection.has_output() {
            return Ok(total);
        }
        let Some(allowed) = allowed_to_write(connection, now) else { return Ok(total) };
        match write_once(connection, allowed) {
            Ok(written) => {
                total += written;
                has_written(connection, now, written);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                connection.is_write_blocked = true;
                return Ok(total);
            }
            Err(error) => return Err(error),
        }
    }
}

/// One write of at most `allowed` bytes, or of one piece more.
fn write_once(connection: &mut Connection, allowed: usize) -> std::io::Result<usize> {
    if let Some(layers) = &mut connection.pipeline {
        let bytes = &layers.wire[layers.written..];
        let written = connection.stream.try_write(&bytes[..bytes.len().min(allowed)])?;
        layers.written += written;
        if layers.written == layers.wire.len() {
            layers.wire = Vec::new();
            layers.written = 0;
        }
        return Ok(written);
    }
    let output = connection.session.output();
    let written = match output.contiguous() {
        Some(bytes) => connection.stream.try_write(&bytes[..bytes.len().min(allowed)])?,
        None => {
            let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
            let count = output.gather(&mut pieces);
            let first = pieces[0].len();
            if first >= allowed {
                connection.stream.try_write(&pieces[0][..allowed])?
            } else {
                let mut room = allowed;
                let fits = pieces[..count].iter().take_while(|piece| {
                    let is_in = room > 0;
                    room = room.saturating_sub(piece.len());
                    is_in
                });
                let fits = fits.count();
                connection.stream.try_write_vectored(&pieces[..fits])?
            }
        }
    };
    output.advance(written);
    Ok(written)
}

/// How many bytes may be written now; `None` if the bandwidth is used up. MQTT-014
fn allowed_to_write(connection: &mut Connection, now: Instant) -> Option<usize> {
    let Some(shapers) = &mut connection.shapers else { return Some(usize::MAX) };
    let Some(shaper) = &shapers.outbound else { return Some(usize::MAX) };
    match shaper.allowance(now) {
        Ok(bytes) => {
            shapers.write_at = None;
            Some(bytes)
        }
        Err(at) => {
            shapers.write_at = Some(at);
            None
        }
    }
}

fn has_written(connection: &mut Connection, now: Instant, written: usize) {
    if let Some(shapers) = &mut connection.shapers
        && let Some(shaper) = &mut shapers.outbound
    {
        shaper.passed(now, written);
    }
}

/// Wraps what the session wrote for the socket.
pub(super) fn wrap(session: &mut Session, layers: &mut Layered) {
    let output = session.output();
    while !output.is_empty() {
        let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
        let count = output.gather(&mut pieces);
        let mut taken = 0;
        for piece in &pieces[..count] {
            // Layers that are not open yet have nothing to say for a session.
            if layers.pipeline.send(piece, &mut layers.wire).is_err() {
                output.clear();
                return;
            }
            taken += piece.len();
        }
        output.advance(taken);
    }
}

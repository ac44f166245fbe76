//! What happens because time passed: keep alives, deadlines, draining, memory, counters.

use ratatosk_clock::Instant;
use ratatosk_contract::SessionRef;
use ratatosk_session::Farewell;
use ratatosk_telemetry::memory::Pressure;

use super::{Drain, Shard, TICK, connection::Flow};

/// How many slots are looked at for sessions to end in one tick of a graceful stop.
const DRAIN_LOOK_MAX: usize = 16 * 1024;

impl Shard {
    /// One tick of the timer.
    pub(super) fn tick(&mut self) {
        self.now = self.node.clock.now();
        let now = self.now;
        if let Some(mut wheel) = self.wheel.take() {
            wheel.advance(now, |session| self.due(*session));
            for (session, due) in self.filings.drain(..) {
                wheel.insert(session, due);
            }
            self.wheel = Some(wheel);
        }
        self.age_caches();
        self.relieve();
        self.recheck();
        self.give_up_orphans();
        self.retry_wills();
        self.charge_caches();
        self.go_on_draining();
        self.publish_counters();
        self.wake_flusher();
    }

    /// A key of the wheel came up: says when it is really due, or acts on it.
    fn due(&mut self, session: SessionRef) -> Option<Instant> {
        let now = self.now;
        let connection = self.connection(session)?;
        // Another entry stands for the connection: each has one that counts.
        if connection.filed.is_none_or(|filed| filed > now) {
            return None;
        }
        connection.filed = None;
        let deadline = connection.next_deadline()?;
        if deadline > now {
            return connection.next_filing(now, deadline);
        }
        // MQTT-012
        if connection.connect_by.is_some_and(|by| by <= now) {
            let farewell = Shard::late_farewell(connection);
            self.end(session, farewell);
        }
        self.pass_deadline(session)?;
        self.write_on(session);
        self.tick_session(session);
        let connection = self.connection(session)?;
        let next = connection.next_deadline()?;
        connection.next_filing(now, next.max(now + TICK))
    }

    /// A connection whose bandwidth was used up has some again.
    fn write_on(&mut self, session: SessionRef) {
        let now = self.now;
        let Some(connection) = self.connection(session) else { return };
        let Some(shapers) = &mut connection.shapers else { return };
        if shapers.write_at.is_some_and(|at| at <= now) {
            shapers.write_at = None;
            if !connection.is_dirty {
                connection.is_dirty = true;
                self.dirty.push(session.slot);
            }
        }
    }

    /// Ends the state of a connection whose time is over; `None` if it is gone.
    fn pass_deadline(&mut self, session: SessionRef) -> Option<()> {
        let now = self.now;
        let connection = self.connection(session)?;
        if connection.deadline.is_none_or(|deadline| deadline > now) {
            return Some(());
        }
        match connection.state {
            Flow::Lingering => {
                self.forget(session);
                return None;
            }
            Flow::Throttled | Flow::Retrying => connection.read_on(now),
            Flow::Starved => self.pass_starved(session),
            // Time does not end the others.
            Flow::Reading | Flow::Waiting | Flow::BackPressured => {
                connection.deadline = None;
            }
        }
        Some(())
    }

    /// A connection was left unread for as long as may be: it is read again or ended. MQTT-103
    fn pass_starved(&mut self, session: SessionRef) {
        let now = self.now;
        let is_over = self.node.memory.pressure() < Pressure::PauseReaders;
        let is_later = self.has_ended_enough();
        let Some(connection) = self.connection(session) else { return };
        if is_over {
            connection.read_on(now);
        } else if is_later {
            connection.deadline = Some(now + TICK);
        } else {
            self.stats.shed_ended_paused += 1;
            self.end(session, Farewell::MemoryPressure);
        }
    }

    fn tick_session(&mut self, session: SessionRef) {
        let is_unread = self.connection(session).is_some_and(|connection| connection.is_unread());
        self.drive(session, |machine, now, link| {
            if is_unread {
                machine.excuse(now);
            }
            machine.tick(now, link);
        });
    }

    fn age_caches(&mut self) {
        let now = self.now;
        let mut routes = 0;
        for tenant in self.tenants.iter_mut().flatten() {
            tenant.cache.age(now);
            routes += tenant.cache.routes() as u64;
        }
        self.stats.cached_routes = routes;
    }

    pub(super) fn begin_drain(&mut self, per_second: u32) {
        self.drain = Some(Drain { per_second, owed: 0.0, last: self.now, next: 0 });
    }

    /// Ends sessions at a bounded rate: a graceful stop. MQTT-015
    fn go_on_draining(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let passed = self.now.since(drain.last).as_secs_f64();
        drain.last = self.now;
        drain.owed += passed * f64::from(drain.per_second.max(1));
        let mut due = Vec::new();
        let count = self.slots.len();
        for _ in 0..count.min(DRAIN_LOOK_MAX) {
            if drain.owed < 1.0 {
                break;
            }
            let slot = drain.next % count;
            drain.next = slot + 1;
            let place = &self.slots[slot];
            let Some(connection) = &place.connection else { continue };
            if connection.state != Flow::Lingering {
                drain.owed -= 1.0;
                due.push(SessionRef {
                    shard: self.id,
                    slot: u32::try_from(slot).unwrap_or(u32::MAX),
                    generation: place.generation,
                });
            }
        }
        drain.owed = drain.owed.min(f64::from(drain.per_second.max(1)));
        for session in due {
            self.end(session, Farewell::ServerShutdown);
        }
    }
}

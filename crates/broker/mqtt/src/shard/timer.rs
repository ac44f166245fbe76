//! What happens because time passed: keep alives, deadlines, draining, memory, counters.

use ratatosk_clock::Instant;
use ratatosk_contract::SessionRef;
use ratatosk_session::Farewell;
use ratatosk_telemetry::memory::{Pressure, Share};

use super::{
    Drain, Shard, TICK,
    connection::{Connection, Flow},
    link::Link,
};

/// How many connections are looked at for memory in one tick.
const SHED_LOOK_MAX: usize = 2048;

impl Shard {
    /// One tick of the timer.
    pub(super) fn tick(&mut self) {
        self.now = self.node.clock.now();
        let now = self.now;
        let fresh = ratatosk_clock::Wheel::new(now, TICK, 2);
        let mut wheel = std::mem::replace(&mut self.wheel, fresh);
        wheel.advance(now, |session| self.due(*session));
        // Deadlines that were set meanwhile are in the small wheel.
        let mut set = std::mem::replace(&mut self.wheel, wheel);
        let far = now + std::time::Duration::from_secs(3600);
        set.advance(far, |session| {
            let due = self.connection(*session).and_then(|c| c.next_deadline());
            self.wheel.insert(*session, due.unwrap_or(now));
            None
        });
        self.age_caches();
        self.relieve();
        self.recheck();
        self.go_on_draining();
        self.stats.connections = self.connections as u64;
        self.node.stats.publish(self.id.index(), &self.stats);
        self.wake_flusher();
    }

    /// A key of the wheel came up: says when it is really due, or acts on it.
    fn due(&mut self, session: SessionRef) -> Option<Instant> {
        let now = self.now;
        let connection = self.connection(session)?;
        let deadline = connection.next_deadline()?;
        if deadline > now {
            return Some(deadline);
        }
        if connection.deadline.is_some_and(|own| own <= now) {
            self.deadline_passed(session)?;
        }
        self.tick_session(session);
        let connection = self.connection(session)?;
        let next = connection.next_deadline()?;
        Some(next.max(now + TICK))
    }

    fn deadline_passed(&mut self, session: SessionRef) -> Option<()> {
        let connection = self.connection(session)?;
        connection.deadline = None;
        match connection.state {
            Flow::Lingering => {
                self.forget(session);
                None
            }
            Flow::Throttled => {
                connection.state = Flow::Reading;
                connection.wake();
                Some(())
            }
            // MQTT-103
            Flow::Starved => {
                let is_over = self.node.memory.pressure() < Pressure::PauseReaders;
                if is_over {
                    let connection = self.connection(session)?;
                    connection.state = Flow::Reading;
                    connection.wake();
                    return Some(());
                }
                self.end(session, Farewell::MemoryPressure);
                Some(())
            }
            // MQTT-012
            _ if !connection.session.is_live() => {
                self.end(session, Farewell::ConnectTimeout);
                Some(())
            }
            _ => Some(()),
        }
    }

    fn tick_session(&mut self, session: SessionRef) {
        let Some(mut connection) = self.take(session) else { return };
        let Connection { session: machine, local, .. } = &mut *connection;
        let settings = std::sync::Arc::clone(machine.settings());
        let publisher = machine.publisher().0;
        let now = self.now;
        let mut link = Link { shard: self, local, session, settings: &settings, publisher };
        machine.tick(now, &mut link);
        if connection.session.farewell().is_some() {
            self.end_in_hands(session, &mut connection, Farewell::KeepAliveTimeout);
        } else if connection.session.output_len() > 0 {
            self.mark_dirty(session, &mut connection);
        }
        self.put(session, connection);
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

    /// Frees memory while it is short, in the order that is documented: caches, then QoS 0 by
    /// the outputs' limit, then readers, then new connections.
    fn relieve(&mut self) {
        let pressure = self.node.memory.pressure();
        if pressure == Pressure::None {
            self.wake_starved();
            return;
        }
        for tenant in self.tenants.iter_mut().flatten() {
            tenant.cache.clear();
        }
        if pressure < Pressure::PauseReaders {
            self.wake_starved();
        }
        if pressure >= Pressure::RefuseConnect {
            self.end_largest();
        }
    }

    fn wake_starved(&mut self) {
        for place in &mut self.slots {
            let Some(connection) = place.connection.as_deref_mut() else { continue };
            if connection.state == Flow::Starved {
                connection.state = Flow::Reading;
                connection.deadline = None;
                connection.wake();
            }
        }
    }

    /// Ends the connections that hold most, a few a tick, when nothing else helped.
    fn end_largest(&mut self) {
        const ENDED_MAX: usize = 8;
        let mut largest: Vec<(usize, u32)> = Vec::new();
        let slots = self.slots.iter().enumerate().rev().take(SHED_LOOK_MAX * 8);
        for (slot, place) in slots {
            let Some(connection) = &place.connection else { continue };
            if connection.charged < 64 * 1024 || connection.state == Flow::Lingering {
                continue;
            }
            if let Ok(slot) = u32::try_from(slot) {
                largest.push((connection.charged, slot));
            }
        }
        largest.sort_unstable_by(|one, other| other.cmp(one));
        for (_, slot) in largest.into_iter().take(ENDED_MAX) {
            let session = self.reference(slot);
            self.stats.dropped_resource += 1;
            self.end(session, Farewell::MemoryPressure);
            self.forget(session);
        }
    }

    /// Tells the accountant of a change.
    pub(super) fn charge(&self, connection: &Connection, before: usize, held: usize) {
        let account = &connection.account;
        match held.cmp(&before) {
            std::cmp::Ordering::Greater => account.charge(Share::Connections, held - before),
            std::cmp::Ordering::Less => account.release(Share::Connections, before - held),
            std::cmp::Ordering::Equal => {}
        }
    }

    pub(super) fn begin_drain(&mut self, per_second: u32) {
        self.drain = Some(Drain { per_second, owed: 0.0, last: self.now });
    }

    /// Ends sessions at a bounded rate: a graceful stop. MQTT-015
    fn go_on_draining(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let passed = self.now.since(drain.last).as_secs_f64();
        drain.last = self.now;
        drain.owed += passed * f64::from(drain.per_second.max(1));
        let mut due = Vec::new();
        for (slot, place) in self.slots.iter().enumerate() {
            if drain.owed < 1.0 {
                break;
            }
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

//! The keep alive, and what else is due as time passes.
//!
//! A client that is not heard for one and a half times its keep alive is gone. Only what it could
//! be heard saying counts: while it is not read for a reason of the broker's it is excused.

use std::time::Duration;

use ratatosk_clock::Instant;

use crate::{Broker, Farewell, Session};

impl Session {
    /// Time passed: keep alive and re-sends.
    pub fn tick<B: Broker>(&mut self, now: Instant, broker: &mut B) {
        if !self.is_live() || self.farewell.is_some() {
            return;
        }
        if self.is_waiting {
            // What the client sends meanwhile is not read: its silence is ours.
            self.last_heard = now;
        }
        // [MQTT-3.1.2-22]
        if self.keep_alive_deadline().is_some_and(|deadline| deadline <= now) {
            self.farewell = Some(Box::new(Farewell::KeepAliveTimeout));
            return;
        }
        self.resend_due(now, broker);
        if self.wants_pump() {
            self.pump(now, broker);
        }
        self.check_invariants();
    }

    /// The client is not read for a reason of the driver's, or was not until now: that it was not
    /// heard is no silence of its own. To be called before [`Session::tick`] while that lasts, and
    /// at its end. A client that does not take its answers has no excuse. MQTT-033, SEC-006
    pub fn excuse(&mut self, now: Instant) {
        if self.output.len() <= self.output_bytes_max() {
            self.last_heard = now;
        }
    }

    /// When [`Session::tick`] is due at the latest, as far as is known now.
    pub fn deadline(&self) -> Option<Instant> {
        let resend = self.outbound.as_ref().and_then(|out| out.resend).map(|resend| resend.at);
        match (self.keep_alive_deadline(), resend) {
            (Some(keep_alive), Some(resend)) => Some(keep_alive.min(resend)),
            (one, other) => one.or(other),
        }
    }

    fn keep_alive_deadline(&self) -> Option<Instant> {
        let keep_alive = self.keep_alive();
        if keep_alive.is_zero() || !self.is_live() {
            return None;
        }
        Some(self.last_heard + keep_alive * 3 / 2)
    }

    /// The keep alive in force; zero: none.
    pub fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.peer.keep_alive_s.into())
    }
}

//! The end of a session, and what it leaves to be done.
//!
//! Said once, whatever the reason: the peer is told where the protocol allows it, then nothing is
//! written any more.

use std::sync::Arc;

use ratatosk_contract::StoredMessage;

use crate::{Farewell, Session, TakenBack, session::Phase};

/// What is left to do for a session that ended.
#[derive(Debug)]
pub struct Ending {
    /// Why it ended.
    pub farewell: Farewell,
    /// The will to publish, now or later.
    pub will: Option<WillOrder>,
    /// How long the session lives on, in seconds; `u32::MAX`: for ever.
    pub expiry_s: u32,
    /// The session was live.
    pub was_live: bool,
}

/// A will to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WillOrder {
    /// The message.
    pub message: Arc<StoredMessage>,
    /// After how many seconds; zero: at once.
    pub delay_s: u32,
    /// For how many seconds it is of use, from its publication on.
    pub expiry_s: Option<u32>,
}

impl Session {
    /// Ends the session: tells the peer where the protocol allows it, and says what is left to
    /// do. A farewell of the session's own goes before `farewell`. [MQTT-3.14.4-1] [MQTT-3.14.4-2]
    /// [MQTT-4.13.2-1] [MQTT-4.8.0-1]
    pub fn end(&mut self, farewell: Farewell) -> Ending {
        let word = match self.phase {
            Phase::Live => Word::Disconnect,
            Phase::Fresh | Phase::Connecting => Word::Refusal,
            Phase::Over => Word::Nothing,
        };
        let farewell = self.farewell.take().map_or(farewell, |own| *own);
        self.finish(farewell, word)
    }

    /// The same for a session of whose last output nothing may be seen, since it says what may not hold: it is
    /// taken back, and the farewell alone is said. If that was to let the client in it is refused, and leaves no
    /// will. If a frame is half written nothing more is said. Only who ends the connection himself is owed
    /// what he was answered, once it holds.
    pub fn end_unsaid(&mut self, farewell: Farewell) -> Ending {
        let farewell = self.farewell.take().map_or(farewell, |own| *own);
        if farewell.is_of_peer() {
            return self.end(farewell);
        }
        let word = match self.output.take_back() {
            _ if self.phase == Phase::Over => Word::Nothing,
            TakenBack::Whole if self.phase == Phase::Live => Word::Disconnect,
            // Nothing but AUTH goes before CONNACK. [MQTT-3.2.0-1]
            TakenBack::Whole | TakenBack::Marked => Word::Refusal,
            TakenBack::Begun => Word::Nothing,
        };
        self.finish(farewell, word)
    }

    fn finish(&mut self, farewell: Farewell, word: Word) -> Ending {
        let was_live = self.phase == Phase::Live;
        match word {
            Word::Disconnect => self.write_disconnect(&farewell),
            Word::Refusal => self.write_refusal(&farewell),
            Word::Nothing => {}
        }
        self.phase = Phase::Over;
        self.request = None;
        self.connecting = None;
        // [MQTT-3.1.2-8] [MQTT-3.14.4-3] MQTT-053
        let is_suppressed = farewell.drops_will()
            || word == Word::Refusal
            || farewell == Farewell::ServerShutdown
                && self.settings.no_lwt_when_server_shutting_down;
        let will = self.will.take().filter(|_| was_live && !is_suppressed);
        let will = will.map(|will| will.order(self.expiry_s));
        Ending { farewell, will, expiry_s: self.expiry_s, was_live }
    }
}

/// What a peer is told at the end.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Word {
    Disconnect,
    /// CONNACK that refuses.
    Refusal,
    Nothing,
}

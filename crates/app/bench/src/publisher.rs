//! One publisher: what it may send now, and the bytes of it.
//!
//! Three things hold a publisher back: its gate (window, schedule or quota), the acknowledgements that
//! it waits for, and what its socket has not taken yet. All that these allow goes out in one write.

use crate::machine::flow::Flow;
use crate::machine::template::Template;
use crate::machine::window::Window;
use crate::net::{LinkIndex, Links};
use crate::plan::SCATTER_FILTERS;

/// Bytes that may wait in a connection's buffer.
const PENDING_MAX: usize = 256 * 1024;

/// Seconds that a full window may stand still.
const STALL_SECONDS: u32 = 3;

/// What decides how many messages are due.
#[derive(Debug)]
pub(crate) enum Gate {
    /// As many as the subscribers have got, plus the window.
    Window(Window),
    /// At their times, evenly spaced; the time in the payload is the intended one.
    Schedule {
        /// Messages due so far.
        due: u64,
        /// Time of the first.
        first_ns: u64,
        /// Between two messages of this publisher.
        step_ns: f64,
    },
    /// A fixed number, as fast as it goes.
    Quota(u64),
}

/// How the topic changes from message to message.
#[derive(Debug)]
pub(crate) enum Topic {
    /// Not at all.
    Fixed,
    /// Random filters of S8; a fixed seed makes runs alike.
    Scatter {
        /// State of the generator, never zero.
        state: u64,
    },
    /// `r/{a}/{b}` counted through; the number of this publisher's first message.
    Grid {
        /// Added to the sequence number.
        first: u64,
    },
    /// `m/{n}` in turn, one for each subscriber of this publisher.
    Dealt {
        /// Number of the first.
        first: u64,
        /// How many there are.
        share: u64,
    },
}

/// A publisher.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) link: LinkIndex,
    pub(crate) gate: Gate,
    /// Absent at QoS 0.
    pub(crate) flow: Option<Flow>,
    /// Messages sent.
    pub(crate) sent: u64,
    /// In the list of those that may have room.
    pub(crate) listed: bool,
    template: Template,
    topic: Topic,
    /// Where the window stood when it was last looked at, and how often it had not moved since.
    stalled: (u64, u32),
}

impl Publisher {
    pub(crate) fn new(
        link: LinkIndex,
        gate: Gate,
        flow: Option<Flow>,
        template: Template,
        topic: Topic,
    ) -> Self {
        Self { link, gate, flow, sent: 0, listed: false, template, topic, stalled: (0, 0) }
    }

    /// Messages that gate and acknowledgements allow now.
    pub(crate) fn room(&self) -> u64 {
        let gate = match &self.gate {
            Gate::Window(window) => window.room(),
            Gate::Schedule { due, .. } => due - self.sent,
            Gate::Quota(quota) => quota - self.sent,
        };
        self.flow.as_ref().map_or(gate, |flow| gate.min(flow.room()))
    }

    /// Appends what is allowed to the connection's buffer. True if more could be sent in the next turn;
    /// a connection that is blocked will say when it has drained.
    pub(crate) fn fill(&mut self, links: &mut Links, now_ns: u64) -> bool {
        let room = self.room();
        let pending = links.pending(self.link);
        if room == 0 || !links.is_open(self.link) {
            return false;
        }
        if pending >= PENDING_MAX {
            return !links.is_blocked(self.link);
        }
        let capacity = ((PENDING_MAX - pending) / self.template.size() + 1) as u64;
        let count = room.min(capacity);
        let out = links.buffer(self.link);
        out.reserve(usize::try_from(count).unwrap_or(0) * self.template.size());
        self.template.set_time(now_ns);
        for sequence in self.sent..self.sent + count {
            if let Gate::Schedule { first_ns, step_ns, .. } = &self.gate {
                self.template.set_time(intended_ns(*first_ns, *step_ns, sequence));
            }
            self.topic.apply(&mut self.template, sequence);
            let packet_id = self.flow.as_mut().map_or(0, Flow::publish);
            self.template.append(out, sequence, packet_id);
        }
        self.sent += count;
        if let Gate::Window(window) = &mut self.gate {
            window.advance(count);
        }
        self.room() > 0 && !links.is_blocked(self.link)
    }

    /// To be called once a second: a window that is full and has not moved for [`STALL_SECONDS`] is given
    /// up, since what it waits for is lost. True if it was.
    pub(crate) fn give_up_stalled(&mut self) -> bool {
        let Gate::Window(window) = &mut self.gate else { return false };
        let (base, seconds) = self.stalled;
        if window.room() > 0 || window.base() != base {
            self.stalled = (window.base(), 0);
            return false;
        }
        self.stalled = (base, seconds + 1);
        if seconds + 1 < STALL_SECONDS {
            return false;
        }
        window.forgive();
        self.stalled = (window.base(), 0);
        true
    }

    /// Sends nothing more.
    pub(crate) fn stop(&mut self) {
        self.gate = Gate::Quota(self.sent);
    }
}

/// When the message `sequence` of an even schedule is due.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "steps are positive and runs are far shorter than 2^53 ns"
)]
pub(crate) fn intended_ns(first_ns: u64, step_ns: f64, sequence: u64) -> u64 {
    first_ns + (sequence as f64 * step_ns) as u64
}

impl Topic {
    #[inline]
    fn apply(&mut self, template: &mut Template, sequence: u64) {
        match self {
            Self::Fixed => {}
            Self::Scatter { state } => {
                // Marsaglia's xorshift64.
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                put_digits(&mut template.topic_mut()[2..7], *state % u64::from(SCATTER_FILTERS));
            }
            Self::Grid { first } => {
                let number = *first + sequence;
                let topic = template.topic_mut();
                put_digits(&mut topic[2..8], number / 100);
                put_digits(&mut topic[9..11], number % 100);
            }
            Self::Dealt { first, share } => {
                put_digits(&mut template.topic_mut()[2..9], *first + sequence % *share);
            }
        }
    }
}

/// Writes the lowest decimal digits of `number`.
fn put_digits(out: &mut [u8], number: u64) {
    let mut rest = number;
    for digit in out.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::template::Shape;
    use crate::machine::wire::Version;

    #[test]
    fn digits_are_padded_with_zeros() {
        let mut out = *b"xxxxx";
        put_digits(&mut out, 123);
        assert_eq!(&out, b"00123");
        put_digits(&mut out[..2], 7);
        assert_eq!(&out, b"07123");
    }

    #[test]
    fn window_that_stands_still_is_given_up_once() {
        let template = Template::new(&Shape {
            version: Version::V311,
            topic: "t",
            qos: 0,
            retain: false,
            payload_size: 24,
            run: 1,
            publisher: 0,
        });
        let mut window = Window::new(2, 1);
        window.advance(2);
        let gate = Gate::Window(window);
        let mut publisher = Publisher::new(0, gate, None, template.unwrap(), Topic::Fixed);
        assert_eq!([(); 3].map(|()| publisher.give_up_stalled()), [false, false, true]);
        assert_eq!(publisher.room(), 2);
        assert_eq!([(); 4].map(|()| publisher.give_up_stalled()), [false; 4]);
    }

    #[test]
    fn schedule_does_not_drift() {
        let step = 1e9 / 3.0;
        assert_eq!(intended_ns(100, step, 0), 100);
        assert_eq!(intended_ns(100, step, 3_000_000), 100 + 1_000_000_000_000_000);
    }
}

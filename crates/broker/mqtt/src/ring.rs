//! What happened to a session, in its own words.
//!
//! A few lines each session remembers of itself, the newest last: refusals, drops, the rule that
//! decided. An operator who asks why a client behaves as it does reads them.

use std::collections::VecDeque;

use ratatosk_clock::Timestamp;

/// How many lines a session remembers.
const LINES_MAX: usize = 16;
/// How long a line may be.
const LINE_BYTES_MAX: usize = 200;

/// The last few things that happened to a session.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    lines: VecDeque<(Timestamp, Box<str>)>,
}

impl Ring {
    /// About how many bytes it holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.lines.iter().map(|(_, line)| line.len() + 32).sum()
    }

    /// Remembers a line; the oldest goes if there are too many.
    pub(crate) fn note(&mut self, at: Timestamp, line: &str) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        let end = line.floor_char_boundary(LINE_BYTES_MAX);
        self.lines.push_back((at, line[..end].into()));
    }

    /// The lines, oldest first.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (Timestamp, &str)> {
        self.lines.iter().map(|(at, line)| (*at, &**line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_keeps_the_newest_lines_and_cuts_long_ones_between_characters() {
        let mut ring = Ring::default();
        for number in 0..40 {
            ring.note(Timestamp::from_millis(number), &format!("line {number}"));
        }
        assert_eq!(ring.lines().count(), LINES_MAX);
        assert_eq!(ring.lines().last().map(|(_, line)| line), Some("line 39"));
        ring.note(Timestamp::default(), &"ä".repeat(500));
        let (_, last) = ring.lines().last().expect("just noted");
        assert!(last.len() <= LINE_BYTES_MAX && last.chars().all(|c| c == 'ä'));
    }
}

//! What happened, step by step: a hash of all of it, and the last lines in words.

use std::collections::VecDeque;

/// Lines that are kept.
const LINES_MAX: usize = 60;

/// See the module.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    lines: VecDeque<String>,
    pub(crate) step: u32,
}

impl Trace {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Trace { hash: 0xcbf2_9ce4_8422_2325, lines: VecDeque::new(), step: 0 }
    }

    /// Adds a line.
    pub(crate) fn note(&mut self, text: &str) {
        for byte in text.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>5} {text}", self.step));
    }

    /// A number that tells two histories apart.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

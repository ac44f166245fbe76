//! The adaptive send window: how many messages may be unconfirmed towards a client that is
//! slower than its own Receive Maximum suggests. MQTT-093
//!
//! One message at a time is timed from its sending to its confirmation. While that takes about as
//! long as at its best, a window that was used up grows by a fixed step; when confirmations lag,
//! it shrinks by a quarter. It stays between the tenant's floor and the client's maximum, so it
//! never breaks what the client asked for. [MQTT-4.9.0-1]
//!
//! `floor ≤ window ≤ ceiling`.

use std::time::Duration;

use ratatosk_clock::Instant;
use ratatosk_contract::inbox::Sequence;

/// A window that follows the client's speed.
#[derive(Debug)]
pub(crate) struct Pace {
    window: u16,
    floor: u16,
    ceiling: u16,
    /// The message that is timed, and when it was sent.
    probe: Option<(Sequence, Instant)>,
    /// The window was used up since the probe was sent.
    is_full: bool,
    /// The shortest confirmation, which ages a little with every sample.
    best: Option<Duration>,
}

/// The window of a client that nothing is known of.
const START: u16 = 64;

/// How much a window grows at once.
const STEP: u16 = 16;

/// A confirmation lags if it takes this many times the best one and [`SLACK`].
const LAG: u32 = 3;

/// Differences below this are the scheduler's, not the client's.
const SLACK: Duration = Duration::from_millis(20);

impl Pace {
    /// A window between `floor` and `ceiling`.
    pub(crate) fn new(floor: u16, ceiling: u16) -> Self {
        debug_assert!(ceiling > 0, "a client takes at least one message");
        let floor = floor.clamp(1, ceiling);
        let window = START.clamp(floor, ceiling);
        Pace { window, floor, ceiling, probe: None, is_full: false, best: None }
    }

    /// How many messages may be unconfirmed.
    pub(crate) fn window(&self) -> u16 {
        self.window
    }

    /// The message of `sequence` was sent; with it `open` are unconfirmed.
    pub(crate) fn sent(&mut self, now: Instant, sequence: Sequence, open: usize) {
        if self.probe.is_none() {
            self.probe = Some((sequence, now));
        }
        self.is_full |= open >= usize::from(self.window);
    }

    /// The message of `sequence` was confirmed.
    pub(crate) fn confirmed(&mut self, now: Instant, sequence: Sequence) {
        let Some((_, sent)) = self.probe.filter(|(probe, _)| sequence >= *probe) else { return };
        let took = now.since(sent);
        let best = self.best.map_or(took, |best| (best + best / 64).min(took));
        self.best = Some(best);
        if took > best * LAG + SLACK {
            self.window = (self.window - self.window / 4).max(self.floor);
        } else if self.is_full {
            self.window = self.window.saturating_add(STEP).min(self.ceiling);
        }
        self.probe = None;
        self.is_full = false;
        debug_assert!(self.floor <= self.window, "the floor holds");
        debug_assert!(self.window <= self.ceiling, "the client's maximum holds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Fills the window and confirms it all `took` later.
    fn round(pace: &mut Pace, now: &mut Instant, next: &mut u64, took: Duration) {
        let first = *next;
        let count = u64::from(pace.window());
        for open in 1..=count {
            pace.sent(*now, Sequence(*next), usize::try_from(open).expect("small"));
            *next += 1;
        }
        *now = *now + took;
        for sequence in first..*next {
            pace.confirmed(*now, Sequence(sequence));
        }
    }

    fn windows(pace: &mut Pace, rounds: &[Duration]) -> Vec<u16> {
        let (mut now, mut next) = (Instant::from_millis(1_000), 1);
        let mut seen = vec![pace.window()];
        for took in rounds {
            round(pace, &mut now, &mut next, *took);
            seen.push(pace.window());
        }
        seen
    }

    /// MQTT-093: confirmed windows add, late ones divide.
    #[test]
    fn a_prompt_client_gets_more_and_a_lagging_one_less() {
        let rounds = [MS, MS, 2 * MS, 500 * MS, 500 * MS, MS];
        let seen = windows(&mut Pace::new(8, 1000), &rounds);
        assert_eq!(seen, [64, 80, 96, 112, 84, 63, 79]);
    }

    /// MQTT-093: between the tenant's floor and the client's Receive Maximum.
    #[test]
    fn the_window_keeps_its_bounds() {
        let slow: Vec<_> = std::iter::once(MS).chain([900 * MS; 40]).collect();
        assert_eq!(windows(&mut Pace::new(8, 100), &slow).last(), Some(&8));
        assert_eq!(windows(&mut Pace::new(8, 100), &[MS; 40]).last(), Some(&100));
        assert_eq!(windows(&mut Pace::new(8, 3), &[MS; 4]), [3; 5]);
        assert_eq!(windows(&mut Pace::new(500, 1000), &[])[0], 500);
    }

    #[test]
    fn a_window_that_was_not_used_up_does_not_grow() {
        let mut pace = Pace::new(8, 1000);
        pace.sent(Instant::from_millis(0), Sequence(1), 1);
        pace.confirmed(Instant::from_millis(1), Sequence(1));
        assert_eq!(pace.window(), 64);
    }

    #[test]
    fn a_client_that_became_slow_for_good_is_learned() {
        let mut rounds = vec![MS];
        rounds.extend([100 * MS; 400]);
        let seen = windows(&mut Pace::new(8, 200), &rounds);
        assert!(seen.contains(&8), "{seen:?}");
        assert_eq!(seen.last(), Some(&200), "what used to be lag is its best now");
    }
}

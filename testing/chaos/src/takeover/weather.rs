//! When something was done to the network, and what is known of a moment therefore.

use std::cell::RefCell;
use std::time::Duration;

/// Nodes find each other again, and meet, within this.
const CLEARING: Duration = Duration::from_secs(10);

/// When there were storms.
#[derive(Debug, Default)]
pub(super) struct Weather {
    storms: RefCell<Vec<(Duration, Option<Duration>)>>,
}

impl Weather {
    pub(super) fn begin(&self, at: Duration) {
        self.storms.borrow_mut().push((at, None));
    }

    pub(super) fn end(&self, at: Duration) {
        if let Some((_, end)) = self.storms.borrow_mut().last_mut() {
            end.get_or_insert(at);
        }
    }

    /// Whether no moment of a stretch is in a storm, or right after one.
    pub(super) fn is_calm(&self, from: Duration, to: Duration) -> bool {
        let is_apart = |(begin, end): &(Duration, Option<Duration>)| {
            to < *begin || end.is_some_and(|end| from > end + CLEARING)
        };
        self.storms.borrow().iter().all(is_apart)
    }

    /// When it is calm again after a moment, if that is known.
    pub(super) fn calm_after(&self, at: Duration) -> Option<Duration> {
        let mut calm = at;
        for (begin, end) in self.storms.borrow().iter() {
            let Some(end) = end else {
                return (calm < *begin).then_some(calm);
            };
            if *begin <= calm && calm <= *end + CLEARING {
                calm = *end + CLEARING;
            }
        }
        Some(calm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn it_is_calm_again_some_time_after_a_storm() {
        let weather = Weather::default();
        assert!(weather.is_calm(s(0), s(9)));
        weather.begin(s(10));
        assert!(weather.is_calm(s(0), s(9)) && !weather.is_calm(s(0), s(11)));
        assert_eq!((weather.calm_after(s(5)), weather.calm_after(s(11))), (Some(s(5)), None));
        weather.end(s(12));
        assert!(!weather.is_calm(s(20), s(21)) && weather.is_calm(s(23), s(30)));
        assert_eq!(weather.calm_after(s(11)), Some(s(22)));
        assert_eq!(weather.calm_after(s(30)), Some(s(30)));
    }
}

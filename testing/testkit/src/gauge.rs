//! One benchmark program, two readings: time for people, instructions for the baseline.
//!
//! A program calls [`Gauge::measure`] for each of its cases. `cargo bench` prints the nanoseconds
//! that one item of a case takes, of the best of many rounds, so that a busy machine disturbs
//! least. `--list` prints the names of the cases, and `--rounds N NAME` runs nothing but N rounds
//! of one case: under callgrind the difference between two such runs is what its rounds cost,
//! without what prepared them. `cargo xtask count` does that and compares it with the baseline.

use std::time::Instant;

/// In how many pieces the rounds of a case are timed; the best one counts.
const PIECES: u32 = 20;
/// How long one of them takes at least, in nanoseconds: the clock's own cost is lost in it.
const PIECE_NS: u128 = 2_000_000;

/// What a benchmark program was asked for.
#[derive(Debug)]
pub struct Gauge {
    reading: Reading,
}

#[derive(Debug)]
enum Reading {
    /// Of the cases whose name contains it.
    Time {
        part: String,
    },
    List,
    Rounds {
        name: String,
        count: u32,
    },
}

impl Gauge {
    /// From the program's arguments. Those that cargo adds mean nothing here.
    ///
    /// # Panics
    /// If `--rounds` is not followed by a number and a name.
    #[must_use]
    pub fn from_arguments() -> Self {
        Self::parse(std::env::args().skip(1))
    }

    fn parse(arguments: impl Iterator<Item = String>) -> Self {
        let mut words = arguments.filter(|word| word != "--bench" && word != "--test");
        let reading = match words.next() {
            Some(word) if word == "--list" => Reading::List,
            Some(word) if word == "--rounds" => {
                let count = words.next().and_then(|count| count.parse().ok());
                let (Some(count), Some(name)) = (count, words.next()) else {
                    panic!("--rounds takes a number and the name of a case");
                };
                Reading::Rounds { name, count }
            }
            part => Reading::Time { part: part.unwrap_or_default() },
        };
        Self { reading }
    }

    /// Whether any of the cases that begin so will run: what they need is dear to prepare.
    #[must_use]
    pub fn wants(&self, beginning: &str) -> bool {
        match &self.reading {
            Reading::Time { part } => beginning.contains(&**part) || part.starts_with(beginning),
            Reading::List => true,
            Reading::Rounds { name, .. } => name.starts_with(beginning),
        }
    }

    /// Whether this run is for the baseline, which is kept small.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        !matches!(self.reading, Reading::Time { .. })
    }

    /// One case: a round handles so many items.
    pub fn measure(&self, name: &str, items: u32, mut round: impl FnMut()) {
        match &self.reading {
            Reading::Time { part } if name.contains(&**part) => {
                println!("{name:<48} {:>8.1} ns", best_ns(&mut round) / f64::from(items));
            }
            Reading::Rounds { name: wanted, count } if name == wanted => {
                (0..*count).for_each(|_| round());
            }
            Reading::List => println!("{items}\t{name}"),
            Reading::Time { .. } | Reading::Rounds { .. } => {}
        }
    }
}

/// The best round, in nanoseconds.
fn best_ns(round: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    round();
    let once_ns = start.elapsed().as_nanos().max(1);
    let rounds = u32::try_from(PIECE_NS / once_ns).unwrap_or(u32::MAX).max(1);
    let mut best = f64::INFINITY;
    for _ in 0..PIECES {
        let start = Instant::now();
        (0..rounds).for_each(|_| round());
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(rounds));
    }
    best
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn gauge(words: &[&str]) -> Gauge {
        Gauge::parse(words.iter().map(ToString::to_string))
    }

    fn rounds(gauge: &Gauge, name: &str) -> u32 {
        let count = Cell::new(0);
        gauge.measure(name, 1, || count.set(count.get() + 1));
        count.get()
    }

    #[test]
    fn rounds_of_one_case_are_run_and_of_no_other() {
        let gauge = gauge(&["--rounds", "3", "decode a"]);
        assert_eq!(rounds(&gauge, "decode a"), 3);
        assert_eq!(rounds(&gauge, "decode a b"), 0);
        assert!(gauge.wants("decode") && !gauge.wants("encode"));
    }

    #[test]
    fn a_list_runs_nothing() {
        assert_eq!(rounds(&gauge(&["--list"]), "decode a"), 0);
    }

    #[test]
    fn cases_are_timed_by_a_part_of_their_name() {
        let gauge = gauge(&["--bench", "code a"]);
        assert!(rounds(&gauge, "decode a") > PIECES);
        assert_eq!(rounds(&gauge, "decode b"), 0);
    }
}

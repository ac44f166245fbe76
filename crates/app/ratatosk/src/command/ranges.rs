//! `ratatosk ranges`: the ranges of the cluster that a node is in.

use std::process::ExitCode;

use clap::Args;
use ratatosk_admin::cluster::{Following, Keepers, Range, RangeState, UnderReplicated};

use crate::command::api::{ApiArgs, Format};
use crate::command::{ConfigurationArgs, table};
use crate::exit::Code;

/// More of a key would make the lines too long.
const KEY_CHARACTERS_MAX: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct RangesArgs {
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) fn run(args: &RangesArgs, before: &ConfigurationArgs) -> anyhow::Result<ExitCode> {
    let (ranges, text) = args.api.open(before)?.get::<Vec<Range>>("/ranges")?;
    match args.api.format {
        Format::Json => print!("{text}"),
        Format::Table => print!("{}", render(&ranges)),
    }
    let is_well =
        ranges.iter().all(|range| matches!(range.state, RangeState::Led | RangeState::Superseded));
    Ok(if is_well { Code::Clean } else { Code::Operator }.into())
}

fn render(ranges: &[Range]) -> String {
    let stores = ranges.iter().flat_map(|range| {
        let goal = range.goal.iter();
        [&range.keepers].into_iter().chain(goal).flat_map(Keepers::all)
    });
    let store_digits = table::digits(stores);
    let range_digits = table::digits(ranges.iter().map(|range| range.id.as_str()));
    let store = |number: &str| table::short(number, store_digits).to_owned();
    let list =
        |stores: &[String]| stores.iter().map(|number| store(number)).collect::<Vec<_>>().join(" ");
    let rows: Vec<_> = ranges
        .iter()
        .map(|range| {
            [
                table::short(&range.id, range_digits).to_owned(),
                range.keyspace.clone(),
                keys(range),
                state(range).to_owned(),
                range.leader.as_ref().map(|leader| store(&leader.store)).unwrap_or_default(),
                voters(range, &list),
                list(&range.keepers.learners),
                behind(range, &store),
                range.size_bytes.map(table::size).unwrap_or_default(),
            ]
        })
        .collect();
    let head =
        ["RANGE", "KEYSPACE", "KEYS", "STATE", "LEADER", "VOTERS", "LEARNERS", "BEHIND", "SIZE"];
    table::render(head, &rows)
}

/// Who votes, and how many of them have the role for it, if that is too few.
fn voters(range: &Range, list: &dyn Fn(&[String]) -> String) -> String {
    let voters = list(&range.keepers.voters);
    match range.under_replicated {
        None => voters,
        Some(UnderReplicated { voters: count, wanted }) => {
            format!("{voters} (under-replicated: {count} of {wanted})")
        }
    }
}

fn state(range: &Range) -> &'static str {
    match range.state {
        RangeState::Led if range.goal.is_some() => "moving",
        RangeState::Led => "led",
        RangeState::Leaderless => "no leader",
        RangeState::Superseded => "superseded",
        RangeState::InDoubt => "in doubt",
    }
}

fn keys(range: &Range) -> String {
    let end = range.keys.to.as_deref();
    match (range.keys.from.as_str(), end) {
        ("", None) => "all".to_owned(),
        (from, None) => format!("{}..", cut(from)),
        (from, Some(to)) => format!("{}..{}", cut(from), cut(to)),
    }
}

fn cut(key: &str) -> String {
    if key.chars().count() <= KEY_CHARACTERS_MAX {
        return key.to_owned();
    }
    key.chars().take(KEY_CHARACTERS_MAX).chain("…".chars()).collect()
}

/// Who has not caught up.
fn behind(range: &Range, store: &dyn Fn(&str) -> String) -> String {
    let late = range.following.iter().filter_map(|(number, following)| {
        let how = match following {
            Following::CaughtUp => return None,
            Following::Lagging => "lags",
            Following::Snapshot => "is sent all",
            Following::Silent => "is silent",
        };
        Some(format!("{} {how}", store(number)))
    });
    late.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use ratatosk_admin::cluster::{Bounds, Leader, Version};

    use super::*;

    pub(super) fn range(number: u64, state: RangeState) -> Range {
        let stores = |numbers: &[u64]| -> Vec<String> {
            numbers.iter().map(|number| format!("{number:x}").repeat(16)).collect()
        };
        Range {
            id: format!("00ab00000000000{number:x}"),
            keyspace: "inbox.session".into(),
            keys: Bounds { from: String::new(), to: Some("\\x01\\x02\\x03\\x04\\x05".into()) },
            version: Version { boundary: 1, config: 3 },
            edition: 1,
            state,
            leader: Some(Leader { store: stores(&[10]).remove(0), host: None, term: 4 }),
            keepers: Keepers { voters: stores(&[10, 11, 12]), learners: stores(&[13]) },
            goal: None,
            under_replicated: None,
            following: [
                (stores(&[11]).remove(0), Following::Lagging),
                (stores(&[12]).remove(0), Following::CaughtUp),
                (stores(&[13]).remove(0), Following::Silent),
            ]
            .into(),
            size_bytes: Some(1 << 21),
            entries_per_second: Some(3),
        }
    }

    #[test]
    fn ranges_are_a_line_each() {
        let moving = Range {
            keys: Bounds { from: String::new(), to: None },
            goal: Some(Keepers { voters: vec!["e".repeat(16)], learners: Vec::new() }),
            following: [].into(),
            ..range(1, RangeState::Led)
        };
        let short = Some(UnderReplicated { voters: 2, wanted: 3 });
        let lost = Range {
            leader: None,
            size_bytes: None,
            under_replicated: short,
            ..range(3, RangeState::Leaderless)
        };
        let text = render(&[moving, range(2, RangeState::InDoubt), lost]);
        let expected = "\
RANGE             KEYSPACE       KEYS                 STATE      LEADER  VOTERS                                     LEARNERS  BEHIND                     SIZE
00ab000000000001  inbox.session  all                  moving     aaaa    aaaa bbbb cccc                             dddd      -                          2.0 MiB
00ab000000000002  inbox.session  ..\\x01\\x02\\x03\\x04…  in doubt   aaaa    aaaa bbbb cccc                             dddd      bbbb lags, dddd is silent  2.0 MiB
00ab000000000003  inbox.session  ..\\x01\\x02\\x03\\x04…  no leader  -       aaaa bbbb cccc (under-replicated: 2 of 3)  dddd      bbbb lags, dddd is silent  -
";
        assert_eq!(text, expected, "\n{text}");
    }
}

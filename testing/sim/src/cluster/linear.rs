//! The oracle of order: for each key there is one order of all that was done to it, which agrees with
//! what every caller saw and with what came before what in time. KV-005, KV-009
//!
//! The data says what the order of the writes was; so there is nothing to search for.

use std::collections::BTreeMap;

use ratatosk_clock::Instant;

use super::register::Deed;
use crate::simulation::Checked;

/// One read or write.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) key: String,
    pub(super) deed: Deed,
    pub(super) begun: Instant,
    /// When it was answered, and with how many values before; whether one without an answer was carried
    /// out nobody knows.
    pub(super) ended: Option<(Instant, u64)>,
}

/// Holds what callers saw against the values of each key, in their order.
pub(super) fn check(history: &[Operation], lists: &BTreeMap<String, Vec<u64>>) -> Checked {
    let mut by_key: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        by_key.entry(&operation.key).or_default().push(operation);
    }
    let none = Vec::new();
    for (key, operations) in &by_key {
        check_key(key, operations, lists.get(*key).unwrap_or(&none))?;
    }
    match lists.keys().find(|key| !by_key.contains_key(key.as_str())) {
        Some(key) => Err(format!("nobody wrote {key}, and it has values")),
        None => Ok(()),
    }
}

fn check_key(key: &str, operations: &[&Operation], list: &[u64]) -> Checked {
    let mut places = BTreeMap::new();
    for (place, value) in (0_u64..).zip(list) {
        if let Some(before) = places.insert(*value, place) {
            return Err(format!("{key}: {value} was added at {before} and at {place}"));
        }
    }
    // Where each stands: behind so many writes. A write without an answer that is not there never was.
    let mut standing = Vec::new();
    for operation in operations {
        match (operation.deed, operation.ended) {
            (Deed::Add(value), ended) => match (places.remove(&value), ended) {
                (None, None) => {}
                (None, Some(_)) => {
                    return Err(format!(
                        "{key}: lost what was acknowledged: {operation:?}\n{list:?}"
                    ));
                }
                (Some(place), Some((_, told))) if told != place => {
                    return Err(format!("{key}: stands at {place}: {operation:?}"));
                }
                (Some(place), _) => standing.push((2 * place + 1, *operation)),
            },
            (Deed::Count, Some((_, told))) => standing.push((2 * told, *operation)),
            (Deed::Count, None) => {}
        }
    }
    if let Some(value) = places.keys().next() {
        return Err(format!("{key}: nobody added {value}"));
    }
    standing.sort_by_key(|(place, _)| *place);
    check_time(key, &standing)
}

/// Nothing that stands behind another had ended before that began.
fn check_time(key: &str, standing: &[(u64, &Operation)]) -> Checked {
    let mut latest: Option<&Operation> = None;
    let mut same: Option<(u64, &Operation)> = None;
    for (place, operation) in standing {
        // Reads that saw the same stand beside each other.
        if let Some((known, held)) = same.filter(|(known, _)| known != place) {
            debug_assert!(known < *place);
            latest = Some(latest.map_or(held, |before| later(before, held)));
            same = None;
        }
        if let (Some(before), Some((ended, _))) = (latest, operation.ended)
            && ended < before.begun
        {
            return Err(format!(
                "{key}: {operation:?} ended before {before:?} began, and stands behind"
            ));
        }
        same = Some((*place, same.map_or(*operation, |(_, held)| later(held, operation))));
    }
    Ok(())
}

fn later<'a>(one: &'a Operation, two: &'a Operation) -> &'a Operation {
    if one.begun < two.begun { two } else { one }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(deed: Deed, begun: u64, ended: Option<(u64, u64)>) -> Operation {
        let ended = ended.map(|(at, told)| (Instant::from_millis(at), told));
        Operation { key: "k".to_owned(), deed, begun: Instant::from_millis(begun), ended }
    }

    fn checked(history: &[Operation], list: &[u64]) -> Checked {
        check(history, &[("k".to_owned(), list.to_vec())].into())
    }

    #[test]
    fn one_order_that_explains_all_is_right() {
        let history = [
            operation(Deed::Add(7), 1, Some((5, 0))),
            operation(Deed::Add(8), 2, None),
            operation(Deed::Count, 6, Some((9, 2))),
            operation(Deed::Count, 6, Some((9, 1))),
        ];
        assert_eq!(checked(&history, &[7, 8]), Ok(()));
    }

    #[test]
    fn what_no_order_explains_is_found() {
        let added = operation(Deed::Add(7), 1, Some((5, 0)));
        let alone = std::slice::from_ref(&added);
        assert!(checked(alone, &[]).is_err(), "lost");
        assert!(checked(alone, &[7, 7]).is_err(), "twice");
        assert!(checked(alone, &[7, 9]).is_err(), "from nowhere");
        let stale = operation(Deed::Count, 6, Some((9, 0)));
        assert!(checked(&[added.clone(), stale], &[7]).is_err(), "a stale read");
        let early = operation(Deed::Add(8), 6, Some((9, 0)));
        let late = operation(Deed::Add(7), 1, Some((5, 1)));
        assert!(checked(&[early, late], &[8, 7]).is_err(), "against time");
        let ahead = [operation(Deed::Count, 1, Some((2, 1))), operation(Deed::Add(7), 4, None)];
        assert!(checked(&ahead, &[7]).is_err(), "a read of what was not begun");
    }
}

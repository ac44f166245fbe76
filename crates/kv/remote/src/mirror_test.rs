//! Images, held against what was told.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use ratatosk_store::log::GroupId;

use super::{GONE_MAX, Note, Source};

type Told = BTreeMap<u64, u8>;

fn told(told: &Told) -> BTreeMap<GroupId, Bytes> {
    told.iter().map(|(group, data)| (GroupId(*group), Bytes::copy_from_slice(&[*data]))).collect()
}

fn catch_up(source: &Source, seen: &mut u64, image: &mut BTreeMap<GroupId, Bytes>) -> Note {
    let (number, note) = source.since(*seen);
    let note = Note::decode(&note.encode()).expect("it was encoded");
    *seen = number;
    note.apply(image, |_, data| Ok(Bytes::copy_from_slice(data))).expect("it decodes");
    note
}

proptest! {
    /// KV-026: however often a reader looks, it has what was told last.
    #[test]
    fn an_image_is_what_was_told_last(
        rounds in proptest::collection::vec(
            (proptest::collection::btree_map(0..20_u64, 0..3_u8, 0..20), any::<bool>()), 1..30),
    ) {
        let source = Source::default();
        let (mut seen, mut image) = (0, BTreeMap::new());
        for (round, looks) in &rounds {
            source.tell(Bytes::new(), told(round));
            if *looks {
                catch_up(&source, &mut seen, &mut image);
                prop_assert_eq!(&image, &told(round));
            }
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written(answers: u64, is_whole: bool, count in 0..9_u64) {
        let note = Note {
            answers,
            is_whole,
            head: Bytes::from_static(b"head"),
            changed: (0..count).map(|id| (GroupId(id << 50), Bytes::from_static(b"data"))).collect(),
            gone: (0..count).map(GroupId).collect(),
        };
        let written = note.encode();
        prop_assert_eq!(Note::decode(&written), Ok(note));
        for length in 0..written.len() {
            prop_assert!(Note::decode(&written.slice(..length)).is_err());
        }
    }
}

#[test]
fn only_what_has_changed_is_told_again() {
    let source = Source::default();
    let (mut seen, mut image) = (0, BTreeMap::new());
    let mut round: Told = (0..10_000).map(|group| (group, 0)).collect();
    source.tell(Bytes::from_static(b"1"), told(&round));
    let first = catch_up(&source, &mut seen, &mut image);
    assert_eq!((first.is_whole, first.changed.len()), (true, 10_000));
    round.insert(7, 1);
    round.remove(&8);
    source.tell(Bytes::from_static(b"2"), told(&round));
    let second = catch_up(&source, &mut seen, &mut image);
    assert_eq!((second.changed.len(), second.gone), (1, vec![GroupId(8)]));
    assert_eq!((second.is_whole, &second.head[..]), (false, &b"2"[..]));
}

#[test]
fn who_missed_more_than_is_remembered_is_told_everything() {
    let source = Source::default();
    let (mut seen, mut image) = (0, BTreeMap::new());
    let many: Told = (0..GONE_MAX as u64 + 9).map(|group| (group, 0)).collect();
    source.tell(Bytes::new(), told(&many));
    catch_up(&source, &mut seen, &mut image);
    source.tell(Bytes::new(), told(&Told::from([(5, 5)])));
    source.tell(Bytes::new(), told(&Told::from([(6, 6)])));
    assert!(catch_up(&source, &mut seen, &mut image).is_whole);
    assert_eq!(image, told(&Told::from([(6, 6)])));
}

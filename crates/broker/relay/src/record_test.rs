//! Records mean the same when they are read, and no bytes are worse than refused.

use proptest::prelude::*;

use super::*;

type Words = (u8, u64, String, u64, (u8, Option<u32>, u8));

fn words() -> impl Strategy<Value = Words> {
    let rest = (any::<u8>(), prop::option::of(1..u32::MAX), 0..8_u8);
    (0..9_u8, any::<u64>(), ".{0,40}", any::<u64>(), rest)
}

fn record((kind, number, text, other, rest): &Words) -> Record<'_> {
    let (options, subscription_id, flags) = *rest;
    match kind {
        0 => Record::Begin(*number),
        1 => Record::End,
        2 => Record::After(*number),
        3 => Record::Through(*number),
        4 => Record::Tenant(text),
        5 => Record::Filter(text),
        6 => Record::FilterGone(text),
        7 => Record::Member(MemberRecord {
            filter: text,
            id: *number,
            incarnation: *other,
            options,
            subscription_id,
            flags,
        }),
        _ => Record::MemberGone { filter: text, id: *number },
    }
}

fn read_all(bytes: &[u8]) -> Result<Vec<Record<'_>>, Malformed> {
    let mut parser = Parser::new(bytes);
    let mut all = Vec::new();
    while let Some(record) = take(&mut parser)? {
        all.push(record);
    }
    Ok(all)
}

proptest! {
    #[test]
    fn records_are_read_as_they_were_written(words in prop::collection::vec(words(), 0..20)) {
        let all: Vec<Record<'_>> = words.iter().map(record).collect();
        let mut bytes = Vec::new();
        all.iter().for_each(|record| put(&mut bytes, record));
        prop_assert_eq!(read_all(&bytes), Ok(all));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(read_all(&bytes));
    }
}

#[test]
fn what_a_later_version_adds_is_passed_over() {
    let mut bytes = vec![77, 3, 1, 2, 3];
    // A sequence of 5, and something behind it.
    bytes.extend_from_slice(&[4, 3, 5, 9, 9]);
    assert_eq!(read_all(&bytes), Ok(vec![Record::Through(5)]));
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let member = MemberRecord {
        filter: "$share/g/a",
        id: 7,
        incarnation: 300,
        options: 1,
        subscription_id: Some(5),
        flags: 6,
    };
    let all = [
        Record::Begin(7),
        Record::Tenant("t"),
        Record::Filter("a/+"),
        Record::Member(member),
        Record::End,
        Record::After(7),
        Record::FilterGone("a/+"),
        Record::MemberGone { filter: "$share/g/a", id: 7 },
        Record::Through(300),
    ];
    let mut bytes = Vec::new();
    all.iter().for_each(|record| put(&mut bytes, record));
    let parts: [&[u8]; 9] = [
        b"\x01\x01\x07",
        b"\x05\x01t",
        b"\x06\x03a/+",
        b"\x08\x18\x0a$share/g/a\0\0\0\0\0\0\0\x07\xac\x02\x01\x05\x06",
        b"\x02\x00",
        b"\x03\x01\x07",
        b"\x07\x03a/+",
        b"\x09\x13\x0a$share/g/a\0\0\0\0\0\0\0\x07",
        b"\x04\x02\xac\x02",
    ];
    assert_eq!(bytes, parts.concat());
}

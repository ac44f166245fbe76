//! The bodies of the fuzz targets `store_packets` and `store_words`, so that their corpora are replayed by
//! plain tests.
//!
//! Guarded: nothing panics, and what decodes means the same when it is written again. It need not have the
//! same bytes: what a later version adds is passed over, and the protobuf library has several forms.

use std::collections::BTreeMap;

use bytes::Bytes;
use ratatosk_store::log::GroupId;

use crate::line::{Request, put_outcome, take_outcomes};
use crate::mirror::Note;
use crate::order::Order;
use crate::packet::{self, Decoded};
use crate::record::{Head, Room, decode_report, decode_status, encode_report, encode_status};

/// The group that records are read for.
const GROUP: GroupId = GroupId(5);

/// Packets of another store.
pub fn packets_any(data: &[u8]) {
    let Ok(Decoded { packets, .. }) = packet::decode(&Bytes::copy_from_slice(data)) else { return };
    let mut written = Vec::new();
    packets.iter().for_each(|packet| packet::encode(packet, &mut written));
    let weight: usize = packets.iter().map(packet::weight).sum();
    assert!(weight < 100 * data.len() + 100, "{weight} for {} bytes", data.len());
    let again = packet::decode(&written.into()).expect("it was written");
    assert_eq!(again.unknown, 0);
    assert_eq!(format!("{:?}", again.packets), format!("{packets:?}"));
}

/// What else stores and their clients say: the first byte says what the rest is.
pub fn words_any(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    let whole = Bytes::copy_from_slice(body);
    match kind % 8 {
        0 => same(decode_status(GROUP, body).ok(), encode_status, |data| {
            decode_status(GROUP, data).ok()
        }),
        1 => same(decode_report(GROUP, body).ok(), encode_report, |data| {
            decode_report(GROUP, data).ok()
        }),
        2 => same(Head::decode(body).ok(), Head::encode, |data| Head::decode(data).ok()),
        3 => same(Room::decode(body).ok(), |room| room.encode(), |data| Room::decode(data).ok()),
        4 => {
            let note = Note::decode(&whole).ok();
            if let Some(note) = &note {
                let mut image = BTreeMap::from([(GROUP, whole.clone())]);
                let applied = note.apply(&mut image, |_, data| Ok(Bytes::copy_from_slice(data)));
                applied.expect("an entry is taken as it is");
            }
            same(note, Note::encode, |data| Note::decode(data).ok());
        }
        5 => same(
            Order::decode(body).ok(),
            |order| order.encode().into(),
            |data| Order::decode(data).ok(),
        ),
        6 => same(
            take_outcomes(body).ok(),
            |outcomes| {
                let mut into = Vec::new();
                outcomes.iter().for_each(|(id, outcome)| put_outcome(&mut into, *id, outcome));
                into.into()
            },
            |data| take_outcomes(data).ok(),
        ),
        _ => same(
            Request::take_all(body).ok(),
            |all| Request::put_all(all).into(),
            |data| Request::take_all(data).ok(),
        ),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(
    decoded: Option<T>,
    encode: impl Fn(&T) -> Bytes,
    decode: impl Fn(&Bytes) -> Option<T>,
) {
    if let Some(decoded) = decoded {
        assert_eq!(decode(&encode(&decoded)).as_ref(), Some(&decoded));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(target: &str, body: fn(&[u8])) {
        let folder = format!("{}/../../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let seeds = std::fs::read_dir(folder).expect("the corpus");
        let seeds = seeds.map(|seed| std::fs::read(seed.expect("a seed").path()).expect("a seed"));
        let count = seeds.map(|seed| body(&seed)).count();
        assert!(count >= 5, "{count} seeds");
    }

    #[test]
    fn the_corpora_are_read_or_refused() {
        replay("store_packets", packets_any);
        replay("store_words", words_any);
    }
}

//! The bodies of the fuzz targets `relay_records` and `relay_messages`, so that their corpora are replayed
//! by plain tests.
//!
//! Guarded: nothing panics, and what is read means the same when it is written again. It need not have the
//! same bytes: what a later version adds is passed over.

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_contract::TenantId;
use ratatosk_contract::relay::Dispatch;
use ratatosk_engine::wire::Parser;

use crate::letter;
use crate::record::{Record, put, take};

/// What a host tells of its wishes.
pub fn records_any(data: &[u8]) {
    let Some(records) = records(data) else { return };
    let mut written = Vec::new();
    records.iter().for_each(|record| put(&mut written, record));
    assert_eq!(self::records(&written), Some(records));
}

fn records(data: &[u8]) -> Option<Vec<Record<'_>>> {
    let (mut parser, mut all) = (Parser::new(data), Vec::new());
    while let Some(record) = take(&mut parser).ok()? {
        all.push(record);
    }
    Some(all)
}

/// Messages, and receipts of them: the first byte says which.
pub fn messages_any(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    if kind % 2 == 1 {
        let count = usize::from(*kind / 2);
        let Ok(refused) = letter::take_receipt(body, count) else { return };
        assert!(refused.is_sorted_by(|a, b| a.0 < b.0));
        assert!(refused.iter().all(|(at, _)| *at < count));
        return;
    }
    let (now, whole) = (Instant::from_millis(1_000), Bytes::copy_from_slice(body));
    let Ok(letters) = letter::take_all(&whole) else { return };
    let mut written = Vec::new();
    for letter in &letters {
        let tenant = TenantId::new(letter.tenant);
        let dispatch = Dispatch { tenant: &tenant, to: letter.to, message: letter.message(now) };
        letter::put(&mut written, &dispatch, now);
    }
    let written = Bytes::from(written);
    let again = letter::take_all(&written).expect("it was written");
    assert_eq!(again.len(), letters.len());
    for (one, other) in again.iter().zip(&letters) {
        assert_eq!((one.tenant, one.to), (other.tenant, other.to));
        assert_eq!(one.message(now).to_stored(), other.message(now).to_stored());
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
        replay("relay_records", records_any);
        replay("relay_messages", messages_any);
    }
}

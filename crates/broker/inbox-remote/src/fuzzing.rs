//! The body of the fuzz target `inbox_calls`, so that its corpus is replayed by a plain test.
//!
//! Guarded: nothing panics, and what is read means the same when it is written again. It need not have the
//! same bytes: what a later version adds is passed over.

use bytes::Bytes;
use ratatosk_clock::Instant;

use crate::{ask, tell};

const NOW: Instant = Instant::from_millis(1_000);

/// Words of one side or the other: the first byte says of which.
pub fn words_any(data: &[u8]) {
    let Some((side, body)) = data.split_first() else { return };
    let body = Bytes::copy_from_slice(body);
    if side % 2 == 0 {
        let Ok(words) = ask::take_all(&body, NOW) else { return };
        let mut written = Vec::new();
        words.iter().for_each(|word| word.put(&mut written, NOW));
        let again = ask::take_all(&written.into(), NOW).expect("it was written");
        assert_eq!(format!("{again:?}"), format!("{words:?}"));
    } else {
        let Ok(words) = tell::take_all(&body, NOW) else { return };
        let mut written = Vec::new();
        words.iter().for_each(|word| word.put(&mut written, NOW));
        let again = tell::take_all(&written.into(), NOW).expect("it was written");
        assert_eq!(format!("{again:?}"), format!("{words:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_read_or_refused() {
        let folder = format!("{}/../../../fuzz/corpus/inbox_calls", env!("CARGO_MANIFEST_DIR"));
        let seeds = std::fs::read_dir(folder).expect("the corpus");
        let seeds = seeds.map(|seed| std::fs::read(seed.expect("a seed").path()).expect("a seed"));
        let count = seeds.map(|seed| words_any(&seed)).count();
        assert!(count >= 5, "{count} seeds");
    }
}

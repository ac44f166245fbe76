//! The bodies of fuzz targets.

use ratatosk_clock::Timestamp;

/// Reads any bytes as each message that comes of another node. Nothing may panic, and what is read
/// is written and read again as it was.
pub fn messages(data: &[u8]) {
    crate::cluster::read_any(data, Timestamp::from_millis(1_700_000_000_000));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn seeds() -> Vec<Vec<u8>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../fuzz/corpus/dict_messages");
        let seeds = std::fs::read_dir(folder).expect("the corpus");
        seeds.map(|seed| std::fs::read(seed.expect("a seed").path()).expect("its bytes")).collect()
    }

    #[test]
    fn the_corpus_is_read_or_refused() {
        let seeds = seeds();
        assert!(seeds.len() >= 10, "the seeds are there");
        seeds.iter().for_each(|data| super::messages(data));
    }

    proptest! {
        #[test]
        fn what_is_near_the_corpus_is_read_or_refused(
            pick: prop::sample::Index, place: prop::sample::Index, bytes: [u8; 3], count in 0..4_usize,
        ) {
            let mut data = pick.get(&seeds()).clone();
            let at = place.index(data.len());
            let end = data.len().min(at + count);
            data.splice(at..end, bytes.iter().copied().take(count));
            super::messages(&data);
            super::messages(&data[..at]);
        }

        #[test]
        fn no_bytes_panic(data in prop::collection::vec(any::<u8>(), 0..300)) {
            super::messages(&data);
        }
    }
}

//! The body of the fuzz target `snapshot_piece`, so that its corpus is replayed by plain tests.
//!
//! The input is a piece, and it is the kind and the body of one whose length and sum are right: no
//! fuzzer finds these by chance. Guarded: nothing panics, what decodes is encoded to the bytes that it
//! came from, and the pairs of a chunk rise.

use bytes::Bytes;

use crate::snapshot::stream::{Piece, framed};

/// A piece of a snapshot.
pub fn piece_any(data: &[u8]) {
    check(&Bytes::copy_from_slice(data));
    if let Some((kind, body)) = data.split_first() {
        check(&framed(*kind, body));
    }
}

fn check(data: &Bytes) {
    let again = match Piece::decode(data) {
        Err(damaged) => return assert!(damaged.at <= data.len() as u64, "{damaged}"),
        Ok(Piece::Head(head)) => head.encode(),
        Ok(Piece::End(end)) => end.encode(),
        Ok(Piece::Chunk(chunk)) => {
            let keys: Vec<Bytes> = chunk.pairs().map(|(key, _)| key).collect();
            assert!(!keys.is_empty() && keys.is_sorted_by(|one, two| one < two));
            chunk.encode()
        }
    };
    assert_eq!(again, data, "one form");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_read_or_refused() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../fuzz/corpus/snapshot_piece");
        let seeds =
            std::fs::read_dir(folder).expect("the corpus").map(|seed| seed.expect("a seed"));
        let count =
            seeds.map(|seed| piece_any(&std::fs::read(seed.path()).expect("a seed"))).count();
        assert!(count >= 5, "{count} seeds");
    }
}

//! The bodies of the fuzz targets, for `fuzz/` at the root of the repository.

use bytes::{Bytes, BytesMut};

use crate::protocol::{
    Assembler, Frame, Hello, Kind, Malformed, Open, PREAMBLE_BYTES, Verdict, body_length,
    decode_error, decode_item, put_error, put_open,
};

/// A handshake of a peer, as a server and as a client read it: what decodes is encoded and
/// decodes to the same.
///
/// # Panics
/// When it does not: a bug.
pub fn hello_any(data: &[u8]) {
    let Some((preamble, rest)) = data.split_first_chunk::<PREAMBLE_BYTES>() else { return };
    let Ok(length) = body_length(*preamble) else { return };
    let Some(body) = rest.get(..length) else { return };
    if let Ok(hello) = Hello::decode(body) {
        let again = hello.encode();
        assert_eq!(Hello::decode(&again[PREAMBLE_BYTES..]), Ok(hello));
    }
    if let Ok(verdict) = Verdict::decode(body) {
        let again = verdict.encode();
        assert_eq!(Verdict::decode(&again[PREAMBLE_BYTES..]), Ok(verdict));
    }
}

/// Longest body of a frame here.
const BODY_MAX: usize = 4_096;

/// Frames of a peer: the first two bytes say where the rest is cut. Cuts change nothing, and what
/// frames say is said again in the same bytes, where each thing has one form.
///
/// # Panics
/// When it is not so: a bug.
pub fn frames_any(data: &[u8]) {
    let Some(([first, second], bytes)) = data.split_first_chunk() else { return };
    let whole = frames(&[bytes]);
    let (first, second) = (usize::from(*first), usize::from(*second));
    let (head, rest) = bytes.split_at(first.min(bytes.len()));
    let (middle, tail) = rest.split_at(second.min(rest.len()));
    assert_eq!(frames(&[head, middle, tail]), whole);
    for frame in whole.0 {
        assert!(frame.body.len() <= BODY_MAX);
        say_again(frame);
    }
}

/// The frames of pieces, and what ended them early.
fn frames(pieces: &[&[u8]]) -> (Vec<Frame>, Option<Malformed>) {
    let mut assembler = Assembler::new(BODY_MAX);
    let mut frames = Vec::new();
    for piece in pieces {
        assembler.push(Bytes::copy_from_slice(piece));
        loop {
            match assembler.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(malformed) => return (frames, Some(malformed)),
            }
        }
    }
    (frames, None)
}

fn say_again(frame: Frame) {
    let mut bytes = BytesMut::new();
    match frame.kind {
        Kind::Open => {
            let Ok(open) = Open::decode(&frame.body) else { return };
            put_open(&mut bytes, &open.server, &open.tenant, open.head);
            let again = frames(&[&bytes]).0.remove(0);
            assert_eq!(Open::decode(&again.body), Ok(open));
        }
        Kind::Error => {
            let Ok(error) = decode_error(&frame.body) else { return };
            put_error(&mut bytes, &error);
            let again = frames(&[&bytes]).0.remove(0);
            assert_eq!(decode_error(&again.body).map(|again| again.kind()), Ok(error.kind()));
        }
        Kind::Item => drop(decode_item::<String>(frame.body)),
        Kind::Message => drop(frame.message::<String>()),
        Kind::Credit => drop(frame.credit()),
        Kind::End => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = format!("{}/../../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let seeds = std::fs::read_dir(folder).expect("the corpus");
        let bytes = |seed: std::io::Result<std::fs::DirEntry>| {
            std::fs::read(seed.expect("a seed").path()).expect("its bytes")
        };
        seeds.map(bytes).collect()
    }

    #[test]
    fn the_corpora_are_read_or_refused() {
        let (hellos, frames) = (seeds("rpc_hello"), seeds("rpc_frames"));
        assert!(hellos.len() >= 10 && frames.len() >= 15, "the seeds are there");
        hellos.iter().for_each(|data| super::hello_any(data));
        frames.iter().for_each(|data| super::frames_any(data));
    }

    proptest! {
        #[test]
        fn what_is_near_the_corpora_is_read_or_refused(
            pick: prop::sample::Index, place: prop::sample::Index, bytes: [u8; 3], count in 0..4_usize,
        ) {
            for (target, body) in [
                ("rpc_hello", super::hello_any as fn(&[u8])), ("rpc_frames", super::frames_any),
            ] {
                let seeds = seeds(target);
                let mut data = pick.get(&seeds).clone();
                let at = place.index(data.len());
                let end = data.len().min(at + count);
                data.splice(at..end, bytes.iter().copied().take(count));
                body(&data);
                body(&data[..at]);
            }
        }
    }
}

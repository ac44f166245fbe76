//! Pieces of a snapshot on its way.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_store::fuzzing::piece_any(data));

//! What else stores and their clients say.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_remote::fuzzing::words_any(data));

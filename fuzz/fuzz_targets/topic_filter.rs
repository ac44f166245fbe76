//! Names and filters: parser, index, keys and scan against brute force.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_topic::fuzzing::lines_any(data));

//! Commands of routes, and the keys and records that come of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_dist::fuzzing::command_any(data));

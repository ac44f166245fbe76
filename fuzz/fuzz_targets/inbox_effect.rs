//! Commands, keys and records of the inbox.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_inbox::fuzzing::effect_any(data));

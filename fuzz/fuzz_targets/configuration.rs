//! The text of the configuration, and the environment.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk::fuzzing::text_any(data));

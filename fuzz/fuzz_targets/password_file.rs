//! Password files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_plugin::fuzzing::passwords_any(data));

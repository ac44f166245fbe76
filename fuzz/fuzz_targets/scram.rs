//! The two messages of a SCRAM client.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_plugin::fuzzing::scram_any(data));

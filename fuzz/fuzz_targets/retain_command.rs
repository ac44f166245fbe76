//! Commands of retained messages, and the records and keys that come of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_retain::fuzzing::command_any(data));

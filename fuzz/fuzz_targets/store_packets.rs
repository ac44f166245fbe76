//! Packets of another store.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_remote::fuzzing::packets_any(data));

//! What another host tells of its wishes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_relay::fuzzing::records_any(data));

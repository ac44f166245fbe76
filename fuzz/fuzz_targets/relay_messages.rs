//! Messages of another host, and what it says to ours.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_relay::fuzzing::messages_any(data));

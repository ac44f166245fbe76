//! Arbitrary bytes where a WebSocket upgrade is expected.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_mqtt::transport::fuzzing::upgrade_any(data));

//! Arbitrary bytes where TLS is expected, at the beginning or behind a handshake.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_mqtt::transport::fuzzing::records_any(data));

//! Arbitrary bytes behind a WebSocket upgrade, against a plain reader of frames.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_mqtt::transport::fuzzing::frames_any(data));

//! Arbitrary bytes of a client against a session and a scripted broker.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_session::fuzzing::stream_any(data));

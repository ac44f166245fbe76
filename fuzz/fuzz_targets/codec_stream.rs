//! A stream of packets, cut anywhere, holds the same packets.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_codec::fuzzing::stream_any(data));

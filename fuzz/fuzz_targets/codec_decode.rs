//! Arbitrary bytes through the MQTT decoders; what decodes makes the round trip.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_codec::fuzzing::decode_any(data));

//! The header of the PROXY protocol, and its prefixes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_mqtt::transport::fuzzing::proxy_any(data));

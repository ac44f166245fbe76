//! Access rules, and what is asked of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_plugin::fuzzing::acl_any(data));

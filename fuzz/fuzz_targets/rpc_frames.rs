//! Frames of calls between nodes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_rpc::fuzzing::frames_any(data));

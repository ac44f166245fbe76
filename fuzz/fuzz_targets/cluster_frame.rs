//! Frames of the cluster, on both sides of a connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_cluster::fuzzing::frame_any(data));

//! Bytes of a connection of the cluster, whole and cut.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_cluster::fuzzing::stream_any(data));

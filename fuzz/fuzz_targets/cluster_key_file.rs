//! Key files of the cluster.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_cluster::fuzzing::key_file_any(data));

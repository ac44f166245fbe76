//! Datagrams of the cluster, as they come and behind a right front.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_cluster::fuzzing::datagram_any(data));

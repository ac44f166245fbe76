//! What hosts ask of each other's inboxes, and what they are told.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_inbox_remote::fuzzing::words_any(data));

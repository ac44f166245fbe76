//! Messages of the session directory.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratatosk_session_dict::fuzzing::messages(data));

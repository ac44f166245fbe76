//! A service with every kind of method, made of `proto/parrot.proto`: for the tests and benchmarks
//! of `ratatosk-rpc`, and as an example of how a service is written.

include!(concat!(env!("OUT_DIR"), "/ratatosk.example.rs"));

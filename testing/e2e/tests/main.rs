//! Foreign clients against the real binary, over every transport.
//!
//! The cases, and the behaviours that they prove, stand in `clients/`; a test here runs one script
//! over one transport.
#![allow(missing_docs, reason = "the names of the tests are sentences")]

mod mosquitto;
mod suites;

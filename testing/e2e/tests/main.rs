//! The real binary, over every transport: foreign clients, files, signals.
//!
//! The cases of the client libraries, and the behaviours that they prove, stand in `clients/`;
//! `suites` runs one script over one transport. The other modules say what they prove themselves.
#![allow(missing_docs, reason = "the names of the tests are sentences")]
#![allow(clippy::disallowed_methods, reason = "tests of processes read the clock")]

mod access;
mod certificates;
mod commands;
mod dev;
mod disk;
mod garbage;
mod lifecycle;
mod mosquitto;
mod operator;
mod proxy;
mod readme;
mod suites;
mod websocket;

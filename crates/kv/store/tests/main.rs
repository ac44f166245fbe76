//! The store from outside.

mod group;
mod log;
mod model;

//! Retained messages over several stores.

mod doubt;
mod replicas;
mod support;

//! Retained messages over several stores.

mod replicas;

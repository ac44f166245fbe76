//! Dist over several stores.

mod replicas;

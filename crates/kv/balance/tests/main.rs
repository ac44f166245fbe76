//! The balancers from outside.

mod cluster;
mod convergence;
mod keeper;
mod load;
mod nonsense;
mod overlap;
mod recover;
mod replicas;

//! The balancers from outside.

mod cluster;
mod convergence;
mod keeper;
mod load;
mod nonsense;
mod overlap;
mod overview;
mod recover;
mod replicas;
mod roles;

//! The cluster from outside: under a seed, and over real sockets.

mod chaos;
mod convergence;
mod healing;
mod membership;
mod simulator;

//! The cluster from outside: under a seed, and over real sockets.

mod agents;
mod chaos;
mod convergence;
mod healing;
mod hostile;
mod membership;
mod simulator;
mod sockets;

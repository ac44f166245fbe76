//! The binary as its users meet it: exit codes, messages, and a node that starts, answers and stops.

mod configuration;
mod node;
mod process;

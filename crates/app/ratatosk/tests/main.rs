//! The binary as its users meet it: exit codes, messages, and a node that starts, answers and
//! stops.

mod broker;
mod client;
mod configuration;
mod damage;
mod node;
mod process;

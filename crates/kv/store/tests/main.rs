//! The store from outside.

mod damage;
mod fixture;
mod group;
mod log;
mod machine;
mod merge;
mod model;
mod node;
mod open;
mod recover;

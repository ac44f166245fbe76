//! The store from outside.

mod damage;
mod dataless;
mod edition;
mod fixture;
mod group;
mod install;
mod leave;
mod log;
mod machine;
mod merge;
mod model;
mod node;
mod nodes;
mod open;
mod quorum;
mod recover;
mod reigns;
mod served;
mod snapshot;
mod voters;

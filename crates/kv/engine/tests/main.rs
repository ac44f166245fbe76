//! Engines and the overlay from outside.

mod contract;
mod durable;
mod model;
mod overlay;

//! The client from outside.

mod reigns;
mod router;

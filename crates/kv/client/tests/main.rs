//! The client from outside.

mod router;

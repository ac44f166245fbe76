//! Behaviour of the codec as a whole: what comes back, what is refused, what the bytes are.

mod cuts;
mod forwarding;
mod golden;
mod limits;
mod malformed;
mod parts;
mod round_trip;

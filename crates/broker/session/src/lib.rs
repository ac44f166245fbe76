//! The MQTT session as a state machine.
//!
//! [`Session`] takes the bytes of a connection, the answers to its requests and the passing of
//! time; it appends packets to its [`Output`] and asks the [`Broker`] for what lies outside of
//! it. It never reads a clock, waits, or touches a socket, so it is tested by feeding it bytes and
//! reading what it wrote.
//!
//! What it deliberately does not know: sockets and shards, routes, who else is connected, how
//! anything is stored, which provider authenticates.
//!
//! In reading order: [`Session`], what it asks ([`Broker`], [`Request`]), how it ends
//! ([`Farewell`]), and its child machines: the inbound exchange, the outbound window, aliases.

mod alias;
mod broker;
mod connect;
mod delivery;
mod ending;
mod exchange;
mod farewell;
mod ids;
mod inbound;
mod keep_alive;
mod load;
mod on_behalf;
mod outbound;
mod output;
mod pace;
mod publish;
mod rate;
mod reply;
mod session;
mod subscribe;
mod window;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use broker::{
    Admission, Answer, Broker, ClaimRequest, Claimed, Credentials, Denial, Grant, Permit,
    Published, Report, Request, Subscribed, Unsubscribed,
};
pub use delivery::{Delivered, Delivery, DropReason, Origin};
pub use ending::{Ending, WillOrder};
pub use farewell::Farewell;
pub use load::Late;
pub use on_behalf::{ON_BEHALF, OnBehalf};
pub use output::{Output, Segment, TakenBack};
pub use session::{Next, Received, Session, SessionConfig};

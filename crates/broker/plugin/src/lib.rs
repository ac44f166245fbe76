//! Extension: the traits of plugins, the host that bounds and counts their calls, the built-in
//! providers.
//!
//! A provider is a trait object. It answers at once where it can, because the packet path asks,
//! and later where it must; see [`answer`]. No runtime is assumed: the binary brings a
//! [`host::Timer`], and what takes long to compute has threads of its own.

pub mod answer;
pub mod auth;
pub mod builtin;
pub mod config;
pub mod event;
pub mod file;
pub mod host;
pub mod passwd;
mod password_file;
pub mod permission;
pub mod plugin;
pub mod registry;
pub mod scram;
pub mod secret;
pub mod settings;
mod workers;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

#[cfg(test)]
mod testing;

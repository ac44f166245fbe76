//! Extension: the traits of plugins, the host that bounds and counts their calls, the built-in
//! providers.
//!
//! A provider is a trait object. It answers at once where it can, because the packet path asks,
//! and later where it must; see [`answer`]. No runtime is assumed.

pub mod answer;
pub mod auth;
pub mod event;
pub mod permission;
pub mod plugin;
pub mod secret;
pub mod settings;

#[cfg(test)]
mod testing;

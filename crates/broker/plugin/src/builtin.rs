//! The providers that need no code: files, certificates, and the trivial ones.

pub(crate) mod acl;
mod acl_file;
mod anonymous;
mod certificate;
mod chain;
mod development;
mod event_log;
mod passwords;
mod tenancy;
mod trivial;

pub use acl_file::AclFile;
pub use anonymous::Anonymous;
pub use certificate::CertificateIdentity;
pub use chain::Chain;
pub use development::Development;
pub use event_log::EventLog;
pub use passwords::Passwords;
pub use tenancy::Tenancy;
pub use trivial::{AllowAll, StaticSettings};

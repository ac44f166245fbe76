//! Whether the cluster's port may listen where it is told to.

use std::net::SocketAddr;

/// What keeps strangers out of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// TLS in which both sides show a certificate.
    MutualTls,
    /// Nothing: whoever reaches the port and knows the cluster's id may call.
    None,
}

/// What the operator has said about a port without protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// That it may be reached from other machines.
    Exposed,
    /// Nothing.
    Silent,
}

/// The port would be open to every machine that reaches it. Nothing was bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster address {address} can be reached from other machines and nothing protects it: \
     give it a certificate, or allow it by name"
)]
pub struct Exposed {
    /// Where it was to listen.
    pub address: SocketAddr,
}

/// Refuses an address beyond loopback without protection, unless it was asked for by name.
///
/// # Errors
/// When the port would be open to other machines and nobody said that it may be.
pub fn check(
    address: SocketAddr,
    protection: Protection,
    permission: Permission,
) -> Result<(), Exposed> {
    let is_local = address.ip().to_canonical().is_loopback();
    if is_local || protection == Protection::MutualTls || permission == Permission::Exposed {
        return Ok(());
    }
    Err(Exposed { address })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RPC-010: an address beyond loopback needs certificates or a word of the operator.
    #[test]
    fn an_unprotected_address_beyond_loopback_is_refused_unless_asked_for() {
        let cases = [
            ("127.0.0.1:7883", Protection::None, Permission::Silent, true),
            ("127.8.0.1:7883", Protection::None, Permission::Silent, true),
            ("[::1]:7883", Protection::None, Permission::Silent, true),
            ("[::ffff:127.0.0.1]:7883", Protection::None, Permission::Silent, true),
            ("0.0.0.0:7883", Protection::None, Permission::Silent, false),
            ("[::]:7883", Protection::None, Permission::Silent, false),
            ("10.0.0.1:7883", Protection::None, Permission::Silent, false),
            ("0.0.0.0:7883", Protection::None, Permission::Exposed, true),
            ("0.0.0.0:7883", Protection::MutualTls, Permission::Silent, true),
        ];
        for (address, protection, permission, is_allowed) in cases {
            let address = address.parse().expect("an address");
            let answer = check(address, protection, permission);
            assert_eq!(answer.is_ok(), is_allowed, "{address} {protection:?} {permission:?}");
        }
    }
}

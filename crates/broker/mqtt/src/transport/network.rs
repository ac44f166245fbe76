//! IP networks in CIDR notation, for lists of trusted sources.
//!
//! Invariants: `prefix ≤ 32` for IPv4 and `≤ 128` for IPv6; no bit of the address beyond the
//! prefix is set; an IPv4-mapped IPv6 network is kept as IPv4, because a dual-stack socket reports
//! IPv4 peers in mapped form.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A network such as `10.0.0.0/8`, `fd00::/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpNetwork {
    address: IpAddr,
    prefix: u8,
}

impl IpNetwork {
    /// Whether the address lies in this network; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(candidate)) => {
                let mask = mask_bits(u32::MAX.into(), 32, self.prefix);
                u128::from(candidate.to_bits()) & mask == u128::from(network.to_bits())
            }
            (IpAddr::V6(network), IpAddr::V6(candidate)) => {
                candidate.to_bits() & mask_bits(u128::MAX, 128, self.prefix) == network.to_bits()
            }
            _ => false,
        }
    }
}

impl FromStr for IpNetwork {
    type Err = IpNetworkError;

    fn from_str(text: &str) -> Result<Self, IpNetworkError> {
        let malformed = || IpNetworkError::Malformed { text: text.to_owned() };
        let (address, prefix) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix)) => (address, Some(prefix)),
        };
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse::<u8>().map_err(|_| malformed())?
            }
            Some(_) => return Err(malformed()),
        };
        if prefix > width {
            return Err(malformed());
        }
        let network = unmapped(Self { address, prefix });
        if network.contains(network.address) {
            return Ok(network);
        }
        Err(IpNetworkError::HostBits { text: text.to_owned(), suggestion: truncated(network) })
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

/// Why a text is not a network: the operator must correct it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpNetworkError {
    /// Neither an address nor `address/prefix`.
    #[error("\"{text}\" is not an ip network: write it as 10.0.0.0/8, fd00::/8 or 192.0.2.7")]
    Malformed {
        /// As written.
        text: String,
    },
    /// Bits beyond the prefix are set, so what was meant is unclear.
    #[error("\"{text}\" has address bits beyond its prefix: did you mean {suggestion}?")]
    HostBits {
        /// As written.
        text: String,
        /// The network that the address lies in.
        suggestion: IpNetwork,
    },
}

/// The upper `prefix` of `width` bits.
fn mask_bits(all: u128, width: u32, prefix: u8) -> u128 {
    let host_bits = width - u32::from(prefix);
    all & u128::MAX.checked_shl(host_bits).unwrap_or(0)
}

fn unmapped(network: IpNetwork) -> IpNetwork {
    match network.address {
        IpAddr::V6(address) if network.prefix >= 96 => match address.to_ipv4_mapped() {
            Some(inner) => IpNetwork { address: inner.into(), prefix: network.prefix - 96 },
            None => network,
        },
        _ => network,
    }
}

fn truncated(network: IpNetwork) -> IpNetwork {
    let address = match network.address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(network.prefix)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & mask_bits(u128::MAX, 128, network.prefix),
        )),
    };
    IpNetwork { address, prefix: network.prefix }
}

#[cfg(test)]
mod tests {
    use super::{IpNetwork, IpNetworkError};

    fn check(network: &str, address: &str, expected: bool) {
        let network: IpNetwork = network.parse().unwrap();
        assert_eq!(network.contains(address.parse().unwrap()), expected, "{network} {address}");
    }

    #[test]
    fn addresses_are_matched_by_their_prefix() {
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("0.0.0.0/0", "203.0.113.9", true);
        check("0.0.0.0/0", "::1", false);
        check("192.0.2.7", "192.0.2.7", true);
        check("192.0.2.7", "192.0.2.8", false);
        check("::/0", "2001:db8::1", true);
        check("fd00::/8", "fdff::1", true);
        check("fd00::/8", "fe00::1", false);
        check("::1", "::1", true);
    }

    #[test]
    fn a_mapped_address_counts_as_ipv4() {
        check("10.0.0.0/8", "::ffff:10.1.2.3", true);
        check("::ffff:10.0.0.0/104", "10.1.2.3", true);
        check("::/0", "::ffff:10.1.2.3", false);
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/+8", "10.0.0.0/", "host"] {
            let parsed = text.parse::<IpNetwork>();
            assert!(matches!(parsed, Err(IpNetworkError::Malformed { .. })), "{text}");
        }
    }

    #[test]
    fn bits_beyond_the_prefix_are_refused_with_the_network_that_was_meant() {
        let message = "10.1.2.3/8".parse::<IpNetwork>().unwrap_err().to_string();
        assert!(message.ends_with("did you mean 10.0.0.0/8?"), "{message}");
        let message = "fd00::1/8".parse::<IpNetwork>().unwrap_err().to_string();
        assert!(message.ends_with("did you mean fd00::/8?"), "{message}");
    }
}

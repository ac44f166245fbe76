//! Who a host is.
//!
//! - A [`HostId`] is drawn at each start of a process and names it for its whole life.
//! - A [`Host`] is that id at an address, with a *generation*: the wall clock at the start, raised by
//!   one each time that the others had given the host up and it comes back. Of two hosts with one
//!   address the later generation wins, so a restarted process clears what was there before. CLU-008
//! - SWIM's *incarnation* is another number, below the generation: it refutes suspicions.
//! - A [`ClusterId`] is drawn when a cluster is made, and kept on disk. Two clusters never merge.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::str::FromStr;

use super::wire::{Malformed, Reader, is_reachable, put_address};

/// Names a process, from its start to its end. Random.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId([u8; 16]);

/// Names a cluster for ever. Random.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(NonZeroU64);

/// A host as SWIM knows it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host {
    /// Where it is reached, by UDP and TCP.
    pub address: SocketAddr,
    /// Orders those that were ever at this address. At most 2^48 - 1.
    pub generation: u64,
    /// Its process.
    pub id: HostId,
}

/// The largest generation: far beyond any clock, and far from the end of the numbers.
pub(crate) const GENERATION_MAX: u64 = (1 << 48) - 1;

impl HostId {
    /// An id of 16 random bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        HostId(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl ClusterId {
    /// The id of a random number; `None` for zero, which stands for *no cluster yet*.
    pub const fn from_number(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(ClusterId(number)),
            None => None,
        }
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0.get()
    }
}

impl Host {
    /// Whether this one keeps the address that both claim.
    pub(crate) fn outranks(&self, other: &Host) -> bool {
        (self.generation, self.id) > (other.generation, other.id)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_address(out, self.address);
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&self.id.0);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Host, Malformed> {
        let address = reader.address()?;
        let generation = reader.u64()?;
        let id = HostId(reader.array()?);
        let is_valid = generation <= GENERATION_MAX && is_reachable(address);
        if is_valid { Ok(Host { address, generation, id }) } else { Err(Malformed) }
    }
}

impl foca::Identity for Host {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Host> {
        let generation = self.generation + 1;
        (generation <= GENERATION_MAX).then_some(Host { generation, ..*self })
    }

    fn addr(&self) -> SocketAddr {
        self.address
    }

    fn win_addr_conflict(&self, adversary: &Host) -> bool {
        self.outranks(adversary)
    }
}

fn write_hex(bytes: &[u8], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

impl fmt::Display for HostId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, out)
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0[..4], out)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The text is not 16 hexadecimal digits, or all of them are zero.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster id is 16 hexadecimal digits, not all zero")]
pub struct NotAClusterId;

impl FromStr for ClusterId {
    type Err = NotAClusterId;

    fn from_str(text: &str) -> Result<Self, NotAClusterId> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_hex);
        number.and_then(ClusterId::from_number).ok_or(NotAClusterId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(address: &str, generation: u64) -> Host {
        Host { address: address.parse().expect("an address"), generation, id: HostId([7; 16]) }
    }

    #[test]
    fn a_host_is_read_as_it_was_written() {
        for address in ["127.0.0.1:7883", "[2001:db8::1]:1"] {
            let host = host(address, 9);
            let mut bytes = Vec::new();
            host.encode(&mut bytes);
            let mut reader = Reader::new(&bytes);
            assert_eq!(Host::decode(&mut reader), Ok(host));
            assert_eq!(reader.end(), Ok(()));
            for cut in 0..bytes.len() {
                assert_eq!(Host::decode(&mut Reader::new(&bytes[..cut])), Err(Malformed));
            }
        }
    }

    #[test]
    fn addresses_that_nobody_can_be_at_are_refused() {
        for address in ["0.0.0.0:1", "[::]:1", "224.0.0.1:1", "10.0.0.1:0", "[::ffff:10.0.0.1]:1"] {
            let mut bytes = Vec::new();
            host(address, 9).encode(&mut bytes);
            assert_eq!(Host::decode(&mut Reader::new(&bytes)), Err(Malformed), "{address}");
        }
        let mut bytes = Vec::new();
        host("10.0.0.1:1", u64::MAX).encode(&mut bytes);
        assert_eq!(Host::decode(&mut Reader::new(&bytes)), Err(Malformed));
    }

    #[test]
    fn an_id_of_a_cluster_is_16_digits_and_not_zero() {
        let text = "00112233445566ff";
        assert_eq!(text.parse::<ClusterId>().map(|id| id.to_string()).as_deref(), Ok(text));
        for wrong in
            ["", "0", &"0".repeat(16), &"g".repeat(16), &"1".repeat(17), "+112233445566778"]
        {
            assert_eq!(wrong.parse::<ClusterId>(), Err(NotAClusterId), "{wrong}");
        }
    }
}

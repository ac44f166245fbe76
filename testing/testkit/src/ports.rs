//! Ports for brokers under test.
//!
//! They lie below those that the system gives to connections, so that no client takes one before
//! its broker does, or while that is restarted. No two tests of a process get the same one before
//! all were given; processes begin at places that are apart, but may meet: whoever cannot bind
//! asks again.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;
/// How far apart two processes begin whose numbers follow each other.
const STRIDE: u32 = 64;

/// The first port that the system may give to a connection, unless it is told otherwise.
const EPHEMERAL_FIRST: u16 = 32_768;

const _: () = assert!(FIRST + COUNT <= EPHEMERAL_FIRST, "a client would take a broker's port");

/// So many ports of the loopback that nothing listens on now.
///
/// # Errors
/// If so many are not free.
pub fn free<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    ports.copy_from_slice(&free_many(N)?);
    Ok(ports)
}

/// As [`free`], for a number that is known late.
///
/// # Errors
/// If so many are not free.
pub fn free_many(count: usize) -> Result<Vec<u16>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut ports = Vec::new();
    for _ in 0..COUNT {
        if ports.len() == count {
            break;
        }
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let number = next.wrapping_add(std::process::id().wrapping_mul(STRIDE));
        let port = FIRST + u16::try_from(number % u32::from(COUNT))?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            ports.push(port);
        }
    }
    if ports.len() < count {
        bail!("fewer than {count} ports from {FIRST} on are free");
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_differ_and_lie_below_those_of_connections() {
        let mut ports = free_many(20).expect("are free");
        ports.extend(free::<5>().expect("are free"));
        assert!(ports.iter().all(|port| (12_000..32_000).contains(port)), "{ports:?}");
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 25, "{ports:?}");
    }

    #[test]
    fn a_port_in_use_is_left_out() {
        let [port] = free().expect("is free");
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1));
        assert_ne!(free().expect("is free"), [port + 1]);
    }
}

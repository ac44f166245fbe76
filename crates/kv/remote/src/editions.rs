//! The editions of commands that a store supports, as bytes.

use ratatosk_engine::wire::{self, Malformed, Parser};
use ratatosk_store::edition::{Edition, Editions, Supported};

/// Appends them: how many keyspaces; of each its name, the first edition and the last.
pub(crate) fn put(into: &mut Vec<u8>, supported: &Supported) {
    wire::put_u64(into, supported.len() as u64);
    for (keyspace, editions) in supported {
        wire::put_bytes(into, keyspace.as_bytes());
        wire::put_u64(into, editions.oldest().0);
        wire::put_u64(into, editions.newest().0);
    }
}

/// Reads them.
pub(crate) fn take(body: &mut Parser<'_>) -> Result<Supported, Malformed> {
    let mut supported = Supported::new();
    for _ in 0..body.take_u64()? {
        let keyspace = body.take_str()?.to_owned();
        let (oldest, newest) = (Edition(body.take_u64()?), Edition(body.take_u64()?));
        if oldest > newest {
            return Err(Malformed);
        }
        supported.insert(keyspace, Editions::new(oldest, newest));
    }
    Ok(supported)
}

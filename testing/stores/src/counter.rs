//! What ranges of tests do: count, keep, or nothing.

use bytes::Bytes;
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::coprocessor::{Coprocessor, Factory, Position, Reader, Writer};

/// Counts how often each key was named by a command, and answers how often. Whoever carries a command out
/// twice, or not, has another number.
#[derive(Copy, Clone, Debug, Default)]
pub struct Counter;

/// Takes commands and does nothing.
#[derive(Copy, Clone, Debug, Default)]
pub struct Nothing;

/// Keeps what it is given: a command is a key of [`KEY_BYTES`] and its value, or a key that goes.
#[derive(Copy, Clone, Debug, Default)]
pub struct Keeper;

/// Bytes of a [`Keeper`]'s keys.
pub const KEY_BYTES: usize = 8;

/// Makes those that keep.
#[must_use]
pub fn keepers() -> Factory {
    Box::new(|| Box::new(Keeper))
}

/// Makes those that count.
#[must_use]
pub fn counters() -> Factory {
    Box::new(|| Box::new(Counter))
}

/// Makes those that do nothing.
#[must_use]
pub fn nothings() -> Factory {
    Box::new(|| Box::new(Nothing))
}

/// What an answer or a value says.
///
/// # Panics
/// If it is not what a [`Counter`] gave.
#[must_use]
pub fn number(value: &[u8]) -> u64 {
    u64::from_be_bytes(value.try_into().expect("eight bytes"))
}

impl Coprocessor for Counter {
    fn reset(&mut self, _boundary: &KeyRange, _reader: &dyn Reader) -> Result<(), Error> {
        Ok(())
    }

    fn apply(
        &mut self,
        _position: Position,
        command: &Bytes,
        writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error> {
        let before = writer.get(command)?.map_or(0, |value| number(&value));
        let now = Bytes::copy_from_slice(&(before + 1).to_be_bytes());
        writer.put(command.clone(), now.to_vec());
        Ok(now)
    }

    /// How often a key was named.
    fn query(&self, question: &Bytes, reader: &dyn Reader) -> Result<Bytes, Error> {
        let nothing = || Bytes::copy_from_slice(&0_u64.to_be_bytes());
        Ok(reader.get(question)?.unwrap_or_else(nothing))
    }
}

impl Coprocessor for Keeper {
    fn reset(&mut self, _boundary: &KeyRange, _reader: &dyn Reader) -> Result<(), Error> {
        Ok(())
    }

    fn apply(
        &mut self,
        _position: Position,
        command: &Bytes,
        writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error> {
        let end = KEY_BYTES.min(command.len());
        match command.len() > KEY_BYTES {
            true => writer.put(command.slice(..end), command.slice(end..)),
            false => writer.remove(command.slice(..end)),
        }
        Ok(Bytes::new())
    }

    fn query(&self, _question: &Bytes, _reader: &dyn Reader) -> Result<Bytes, Error> {
        Ok(Bytes::new())
    }
}

impl Coprocessor for Nothing {
    fn reset(&mut self, _boundary: &KeyRange, _reader: &dyn Reader) -> Result<(), Error> {
        Ok(())
    }

    fn apply(
        &mut self,
        _position: Position,
        _command: &Bytes,
        _writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error> {
        Ok(Bytes::new())
    }

    fn query(&self, _question: &Bytes, _reader: &dyn Reader) -> Result<Bytes, Error> {
        Ok(Bytes::new())
    }
}

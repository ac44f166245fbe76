//! A number of bytes, as a type: parsed from `512MiB`, printed the same way.
//!
//! Decimal units (`kB`, `MB`, `GB`, `TB`) are powers of 1000, binary ones (`KiB` …) powers of 1024;
//! a bare number is bytes. Fractions are refused, because nobody agrees on their rounding.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(u64);

/// The text is no number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no size: write a whole number with KiB, MiB, GiB, TiB, kB, MB, GB or TB")]
pub struct ParseError {
    text: String,
}

/// Longest names first, so that `B` does not eat the end of `MiB`.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl ByteCount {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// So many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many times 1024 bytes.
    #[must_use]
    pub const fn kibibytes(count: u64) -> Self {
        Self(count.saturating_mul(1 << 10))
    }

    /// So many times 1024² bytes.
    #[must_use]
    pub const fn mebibytes(count: u64) -> Self {
        Self(count.saturating_mul(1 << 20))
    }

    /// The number.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteCount {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError { text: text.to_owned() };
        let trimmed = text.trim();
        let (digits, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| Some((trimmed.strip_suffix(unit)?.trim_end(), *factor)))
            .unwrap_or((trimmed, 1));
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        let count: u64 = digits.parse().map_err(|_| error())?;
        count.checked_mul(factor).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteCount {
    /// Prints with the largest binary unit that loses nothing, so that parsing gives the same
    /// number.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS[..4]
            .iter()
            .rev()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        match exact {
            Some((unit, factor)) => write!(formatter, "{}{unit}", self.0 / factor),
            None => write!(formatter, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ByteCount;

    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(text.parse::<ByteCount>().ok().map(ByteCount::bytes), expected, "{text}");
    }

    #[test]
    fn sizes_parse_with_and_without_units() {
        check("0", Some(0));
        check("17", Some(17));
        check("17B", Some(17));
        check("512MiB", Some(512 << 20));
        check(" 2 GiB ", Some(2 << 30));
        check("3kB", Some(3_000));
        check("1TB", Some(1_000_000_000_000));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "MiB", "-1", "1.5GiB", "12 monkeys", "5mb", "99999999999TiB", "+1"] {
            check(text, None);
        }
    }

    #[test]
    fn printing_loses_nothing() {
        for bytes in [0, 1, 1023, 1024, 1536, 3 << 20, 5 << 30, (1 << 40) + 1, u64::MAX] {
            let count = ByteCount::new(bytes);
            assert_eq!(count.to_string().parse::<ByteCount>(), Ok(count));
        }
        assert_eq!(ByteCount::mebibytes(512).to_string(), "512MiB");
        assert_eq!(ByteCount::kibibytes(64).to_string(), "64KiB");
    }
}

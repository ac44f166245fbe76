//! Numbers and byte strings as the store writes them: LEB128, and a length before the bytes.
//!
//! What is read comes from a disk or another node: nothing here panics, and no length is believed
//! before the bytes are there.

/// What was read is not what was written.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes end early or do not say what they should")]
pub struct Malformed;

/// Appends a number: seven bits a byte, the lowest first. At most ten bytes.
pub fn put_u64(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push((number & 0x7F) as u8 | 0x80);
        number >>= 7;
    }
    into.push((number & 0x7F) as u8);
}

/// Appends bytes behind their length.
pub fn put_bytes(into: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(into, bytes.len() as u64);
    into.extend_from_slice(bytes);
}

/// Reads what was put, front to back.
#[derive(Copy, Clone, Debug)]
pub struct Parser<'a> {
    rest: &'a [u8],
}

impl<'a> Parser<'a> {
    /// From the first of `bytes` on.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn take_u8(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*first)
    }

    /// A number that [`put_u64`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] if it is cut, longer than 64 bits, or not in its shortest form.
    pub fn take_u64(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take_u8()?;
            let bits = u64::from(byte & 0x7F);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return Err(Malformed);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                let is_shortest = byte != 0 || shift == 0;
                return if is_shortest { Ok(number) } else { Err(Malformed) };
            }
        }
        Err(Malformed)
    }

    /// A number that has to fit.
    ///
    /// # Errors
    /// [`Malformed`] as for [`take_u64`](Self::take_u64), or if it does not fit.
    pub fn take<T: TryFrom<u64>>(&mut self) -> Result<T, Malformed> {
        T::try_from(self.take_u64()?).map_err(|_| Malformed)
    }

    /// So many bytes.
    ///
    /// # Errors
    /// [`Malformed`] if there are fewer.
    pub fn take_exactly(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Bytes that [`put_bytes`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] if there are fewer than their length says.
    pub fn take_bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.take()?;
        self.take_exactly(count)
    }

    /// Text that [`put_bytes`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] as for [`take_bytes`](Self::take_bytes), or if it is not UTF-8.
    pub fn take_str(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.take_bytes()?).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_put_is_taken(numbers: Vec<u64>, bytes: Vec<u8>) {
            let mut written = Vec::new();
            numbers.iter().for_each(|number| put_u64(&mut written, *number));
            put_bytes(&mut written, &bytes);
            let mut parser = Parser::new(&written);
            for number in numbers {
                prop_assert_eq!(parser.take_u64(), Ok(number));
            }
            prop_assert_eq!(parser.take_bytes(), Ok(&bytes[..]));
            prop_assert!(parser.is_at_end());
        }

        #[test]
        fn what_was_cut_is_refused(number: u64, bytes in proptest::collection::vec(any::<u8>(), 1..99)) {
            let mut written = Vec::new();
            put_u64(&mut written, number);
            prop_assert_eq!(Parser::new(&written[..written.len() - 1]).take_u64(), Err(Malformed));
            written.clear();
            put_bytes(&mut written, &bytes);
            prop_assert_eq!(Parser::new(&written[..written.len() - 1]).take_bytes(), Err(Malformed));
        }

        #[test]
        fn a_number_has_one_form(written: Vec<u8>) {
            let mut parser = Parser::new(&written);
            if let Ok(number) = parser.take_u64() {
                let mut again = Vec::new();
                put_u64(&mut again, number);
                prop_assert_eq!(&written[..written.len() - parser.rest().len()], &again[..]);
            }
        }
    }
}

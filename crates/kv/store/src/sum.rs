//! Sums of small records, which find bits that have changed, and numbers that follow from others
//! and look random.

/// The 64 bits of FNV-1a.
pub(crate) fn of(bytes: &[u8]) -> u64 {
    let start = 0xCBF2_9CE4_8422_2325_u64;
    bytes.iter().fold(start, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

/// The finalizer of SplitMix64: one bit of what goes in changes half of the bits.
pub(crate) fn mix(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the reference of the algorithm.
    #[test]
    fn sums_are_those_of_fnv() {
        assert_eq!(of(b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(of(b"a"), 0xAF63_DC4C_8601_EC8C);
        assert_eq!(of(b"foobar"), 0x8594_4171_F739_67E8);
    }
}

//! The one checksum: CRC-32C (CRC-32/ISCSI), plain for what travels, seeded for what belongs to a segment.
//!
//! In:     bytes; a [`Seed`] drawn from a segment's random id.
//! Out:    32 bits.
//! Cost:   about 9 ns for 16 bytes, 14 ns for 128, 330 ns for 4 KiB, 18 GB/s from 64 KiB up (measured on
//!         one virtual x86 core with VPCLMULQDQ).
//! Fails:  never.
//! Source: RFC 3720 §12.1 (the polynomial); the seed is RULES.md rule 2.

use crate::rules;
use crc_fast::{CrcAlgorithm, Digest};

/// CRC-32C of `bytes`: the checksum an entry carries from its proposer to every log and state machine.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The number that a segment's random id adds to every checksum in it, so that bytes of another segment, or of the
/// same file in its earlier life, never pass for its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Seed(u32);

impl Seed {
    /// The seed of the segment called `id`.
    pub(crate) fn of(id: u128) -> Self {
        Self(rules::checksum_seed(id))
    }

    /// The checksum of `bytes` in this segment.
    pub(crate) fn checksum(self, bytes: &[u8]) -> u32 {
        self.checksum_parts(&[bytes])
    }

    /// The checksum of `parts`, one behind the other.
    pub(crate) fn checksum_parts(self, parts: &[&[u8]]) -> u32 {
        let mut sum = self.sum();
        for part in parts {
            sum.update(part);
        }
        sum.finish()
    }

    /// The checksum of bytes that come piece by piece.
    pub(crate) fn sum(self) -> Sum {
        Sum(Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(self.0)))
    }
}

/// A checksum in the making.
pub(crate) struct Sum(Digest);

impl Sum {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(&self) -> u32 {
        u32::try_from(self.0.finalize()).expect("a 32-bit checksum fits 32 bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bit by bit, from the polynomial: the reference.
    fn bitwise(mut state: u32, bytes: &[u8]) -> u32 {
        for byte in bytes {
            state ^= u32::from(*byte);
            for _ in 0..8 {
                let carry = 0u32.wrapping_sub(state & 1);
                state = (state >> 1) ^ (0x82f6_3b78 & carry);
            }
        }
        !state
    }

    #[test]
    fn the_check_value_is_the_standards() {
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
        assert_eq!(checksum(b""), 0);
    }

    proptest! {
        #[test]
        fn it_is_the_bitwise_definition(bytes in proptest::collection::vec(any::<u8>(), 0..600), id: u128) {
            prop_assert_eq!(checksum(&bytes), bitwise(!0, &bytes));
            let seed = Seed::of(id);
            prop_assert_eq!(seed.checksum(&bytes), bitwise(seed.0, &bytes));
        }

        #[test]
        fn parts_are_their_concatenation(a in proptest::collection::vec(any::<u8>(), 0..300),
                                         b in proptest::collection::vec(any::<u8>(), 0..300)) {
            let seed = Seed::of(7);
            let whole = [a.as_slice(), b.as_slice()].concat();
            prop_assert_eq!(seed.checksum_parts(&[&a, &b]), seed.checksum(&whole));
        }
    }

    #[test]
    fn another_segments_seed_gives_another_checksum() {
        assert_ne!(Seed::of(1).checksum(b"same"), Seed::of(2).checksum(b"same"));
    }
}

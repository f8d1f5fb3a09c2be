//! The table of a snapshot: whose it is, and the parts that its content is cut into.
//!
//! In:     a group, the last entry that the snapshot has, and parts; or the bytes of a table.
//! Out:    the bytes, and their digest, which names the snapshot; or the table.
//! Cost:   20 bytes for each part.
//! Fails:  [`BadTable`]: nothing is allocated before the bytes for it are there.
//! Source: RULES.md rule 29, C11; RAFT paper §7 (the state of a snapshot travels in pieces).
//!
//! ```text
//!  at  bytes
//!   0    8   "ldparts\n"
//!   8    2   version, 1
//!  10    2   zero
//!  12    4   number of parts
//!  16    8   group
//!  24    8   index of the last entry that the snapshot has
//!  32    8   its term
//!  40    8   bytes of the content
//!  48        for each part, in order: 16 bytes of its digest, 4 of its size
//! ```
//!
//! All numbers are little-endian. A digest is the first half of a BLAKE3 hash. The table has no checksum, because it is known
//! by its digest.

use logdrive_raft::{GroupId, LogId, LogIndex, Term};

/// A snapshot's parts. The digest of its bytes names the snapshot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Table {
    group: GroupId,
    at: LogId,
    bytes: u64,
    parts: Vec<Part>,
}

/// One part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    /// Of its bytes.
    pub digest: u128,
    /// Their number, at least one and at most [`PART_BYTES_MAX`].
    pub bytes: u32,
}

/// Bytes that are no table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BadTable {
    /// It does not begin like one, or it ends too early for one.
    #[error("it is no table of a snapshot's parts")]
    NotATable,
    /// It was written by another version.
    #[error("it is a table of version {0}, and this is version {VERSION}")]
    Version(u16),
    /// It has more or fewer bytes than its number of parts needs.
    #[error("{bytes} bytes for {parts} parts")]
    Length {
        /// The number of bytes.
        bytes: usize,
        /// The number of parts that it states.
        parts: u32,
    },
    /// It states more parts than a snapshot may have.
    #[error("{0} parts; a snapshot has {PARTS_MAX} at most")]
    Parts(u32),
    /// A part is empty or too large.
    #[error("a part of {0} bytes; 1 to {PART_BYTES_MAX} are possible")]
    Part(u32),
    /// The parts do not add up to the size that it states.
    #[error("parts of {parts} bytes for a content of {stated}")]
    Sum {
        /// The sum of the parts.
        parts: u64,
        /// The size that it states.
        stated: u64,
    },
    /// Its group is 0, or it has entries and no term, or a term and no entries.
    #[error("group {group}, entry {index} of term {term}")]
    Place {
        /// The group that it states.
        group: u64,
        /// The index.
        index: u64,
        /// The term.
        term: u64,
    },
}

impl Table {
    /// The table of a snapshot of `group` that has all entries up to `at`.
    ///
    /// # Errors
    /// [`BadTable`]: there cannot be such a snapshot.
    pub fn new(group: GroupId, at: LogId, parts: Vec<Part>) -> Result<Self, BadTable> {
        let (index, term) = (at.index.get(), at.term.get());
        if group.get() == 0 || (index == 0) != (term == 0) {
            return Err(BadTable::Place { group: group.get(), index, term });
        }
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        if count > PARTS_MAX {
            return Err(BadTable::Parts(count));
        }
        if let Some(part) = parts.iter().find(|part| !(1..=PART_BYTES_MAX).contains(&part.bytes)) {
            return Err(BadTable::Part(part.bytes));
        }
        let bytes = parts.iter().map(|part| u64::from(part.bytes)).sum();
        Ok(Self { group, at, bytes, parts })
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The last entry that the snapshot has.
    #[must_use]
    pub fn at(&self) -> LogId {
        self.at
    }

    /// The size of the content.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The parts, in order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The name of the snapshot.
    #[must_use]
    pub fn digest(&self) -> u128 {
        digest(&self.encode())
    }

    /// The bytes of the table.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.parts.len()).expect("a table of at most PARTS_MAX parts");
        let mut out = Vec::with_capacity(HEAD_BYTES + self.parts.len() * PART_LINE_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&count.to_le_bytes());
        for number in [self.group.get(), self.at.index.get(), self.at.term.get(), self.bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for part in &self.parts {
            out.extend_from_slice(&part.digest.to_le_bytes());
            out.extend_from_slice(&part.bytes.to_le_bytes());
        }
        out
    }

    /// The table that these bytes are.
    ///
    /// # Errors
    /// [`BadTable`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BadTable> {
        let Some((head, lines)) = bytes.split_at_checked(HEAD_BYTES) else {
            return Err(BadTable::NotATable);
        };
        if head[..8] != *MAGIC {
            return Err(BadTable::NotATable);
        }
        let version = u16::from_le_bytes([head[8], head[9]]);
        if version != VERSION || head[10..12] != [0; 2] {
            return Err(BadTable::Version(version));
        }
        let count = u32::from_le_bytes(head[12..16].try_into().expect("four bytes"));
        if count > PARTS_MAX {
            return Err(BadTable::Parts(count));
        }
        if lines.len() != count as usize * PART_LINE_BYTES {
            return Err(BadTable::Length { bytes: bytes.len(), parts: count });
        }
        let word =
            |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let parts = lines.chunks_exact(PART_LINE_BYTES).map(|line| {
            let (digest, bytes) = line.split_at(16);
            Part {
                digest: u128::from_le_bytes(digest.try_into().expect("sixteen bytes")),
                bytes: u32::from_le_bytes(bytes.try_into().expect("four bytes")),
            }
        });
        let at = LogId { index: LogIndex(word(24)), term: Term(word(32)) };
        let table = Self::new(GroupId(word(16)), at, parts.collect())?;
        if table.bytes != word(40) {
            return Err(BadTable::Sum { parts: table.bytes, stated: word(40) });
        }
        Ok(table)
    }
}

/// The name of these bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> u128 {
    let hash = blake3::hash(bytes);
    let (half, _) = hash.as_bytes().split_first_chunk().expect("a hash of 32 bytes");
    u128::from_le_bytes(*half)
}

/// The most bytes of a part.
pub const PART_BYTES_MAX: u32 = 4 << 20;
/// The most parts of a snapshot: one TiB of content, and a table of 5 MiB.
pub const PARTS_MAX: u32 = 1 << 18;
const MAGIC: &[u8; 8] = b"ldparts\n";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 48;
const PART_LINE_BYTES: usize = 20;
/// The most bytes of a table.
pub const TABLE_BYTES_MAX: u64 = (HEAD_BYTES + PARTS_MAX as usize * PART_LINE_BYTES) as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(parts: u32) -> Table {
        let part = |at: u32| Part { digest: u128::from(at) << 100 | 7, bytes: at + 1 };
        let at = LogId { index: LogIndex(9), term: Term(2) };
        Table::new(GroupId(5), at, (0..parts).map(part).collect()).unwrap()
    }

    #[test]
    fn a_table_is_what_it_was() {
        for parts in [0, 1, 2, 1000] {
            let table = table(parts);
            assert_eq!(Table::decode(&table.encode()), Ok(table));
        }
    }

    /// The bytes on disk and their names never change.
    #[test]
    fn the_bytes_and_the_name_of_a_table_are_these() {
        let head = b"ldparts\n\x01\0\0\0\x01\0\0\0\x05\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0";
        let line = [&[7][..], &[0; 15], &[1, 0, 0, 0]].concat();
        assert_eq!(table(1).encode(), [&head[..], &line].concat());
        // The first half of the hash of no bytes, from BLAKE3's own test vectors.
        let half = b"\xaf\x13\x49\xb9\xf5\xf9\xa1\xa6\xa0\x40\x4d\xea\x36\xdc\xc9\x49";
        assert_eq!(digest(b""), u128::from_le_bytes(*half));
    }

    #[test]
    fn bytes_that_are_no_table_are_named() {
        let good = table(2).encode();
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            Table::decode(&bad).unwrap_err()
        };
        assert_eq!(Table::decode(&good[..47]), Err(BadTable::NotATable));
        assert_eq!(with(0, b"x"), BadTable::NotATable);
        assert_eq!(with(8, &[2]), BadTable::Version(2));
        assert_eq!(with(12, &u32::MAX.to_le_bytes()), BadTable::Parts(u32::MAX));
        assert_eq!(with(12, &[3]), BadTable::Length { bytes: 88, parts: 3 });
        assert_eq!(with(40, &[4]), BadTable::Sum { parts: 3, stated: 4 });
        assert_eq!(with(64, &[0]), BadTable::Part(0));
        assert_eq!(with(64, &[0xff; 4]), BadTable::Part(u32::MAX));
        assert_eq!(with(16, &[0]), BadTable::Place { group: 0, index: 9, term: 2 });
        assert_eq!(with(32, &[0]), BadTable::Place { group: 5, index: 9, term: 0 });
        assert_eq!(
            Table::decode(&[good.as_slice(), b"x"].concat()),
            Err(BadTable::Length { bytes: 89, parts: 2 })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_table_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..200), begins in any::<bool>()) {
            if begins && bytes.len() > 12 {
                bytes[..12].copy_from_slice(&table(0).encode()[..12]);
            }
            if let Ok(table) = Table::decode(&bytes) {
                prop_assert_eq!(table.encode(), bytes);
            }
        }
    }
}

//! Entries, and runs of them that are contiguous by construction.

use crate::{LogId, LogIndex, Term};
use alloc::vec::Vec;
use bytes::Bytes;

/// The use of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum EntryKind {
    /// A new leader's first entry: commits what earlier terms left (paper §5.4.2, §8).
    Noop = 1,
    /// Bytes for the state machine.
    Command = 2,
    /// The group's members from here on.
    Config = 3,
    /// The group ends here: nothing is committed behind this entry.
    End = 4,
}

impl EntryKind {
    /// The kind a byte on disk or on the wire stands for, if any.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Noop),
            2 => Some(Self::Command),
            3 => Some(Self::Config),
            4 => Some(Self::End),
            _ => None,
        }
    }
}

/// Bytes for the state machine, before they have a place in the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Command {
    /// CRC-32C of `payload`, made once, where the command enters; it travels with the bytes.
    pub checksum: u32,
    /// The bytes.
    pub payload: Bytes,
}

/// One place in a group's log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The term of the leader that made it.
    pub term: Term,
    /// Where it stands.
    pub index: LogIndex,
    /// The use of the entry.
    pub kind: EntryKind,
    /// CRC-32C of `payload`, from the proposer; zero for an empty payload.
    pub checksum: u32,
    /// The command's or the configuration's bytes; empty for a no-op and for an end.
    pub payload: Bytes,
}

/// Bytes an entry costs beside its payload, in budgets: its header on disk and on the wire, rounded up.
pub const ENTRY_OVERHEAD_BYTES: usize = 32;

impl Entry {
    /// Which entry this is.
    #[must_use]
    pub fn id(&self) -> LogId {
        LogId { term: self.term, index: self.index }
    }

    /// The bytes that this entry counts for in every budget.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        self.payload.len() + ENTRY_OVERHEAD_BYTES
    }
}

/// Entries that follow one another without a hole, terms never falling. May be empty.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EntryBatch(Vec<Entry>);

/// Why a list of entries is not a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BatchError {
    /// The entry after `after` is not the next one.
    #[error("entry {found} stands behind entry {after}, and leaves a gap or an overlap")]
    Hole {
        /// The entry before.
        after: LogIndex,
        /// The index that came instead of the next one.
        found: LogIndex,
    },
    /// A term is lower than the one before it, or zero.
    #[error("entry {at} has term {found}, which is below the term of the entry before it")]
    TermFalls {
        /// The entry with the low term.
        at: LogIndex,
        /// Its term.
        found: Term,
    },
    /// Index 0, or the last index there is.
    #[error("entry {0} is past the largest index that a log may have")]
    OutOfRange(LogIndex),
}

impl EntryBatch {
    /// A batch of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Checks `entries` and takes them. For bytes from outside: errors are the sender's.
    ///
    /// # Errors
    /// [`BatchError`] if there is a hole, a falling term or an index out of range.
    pub fn from_entries(entries: Vec<Entry>) -> Result<Self, BatchError> {
        let mut before: Option<LogId> = None;
        for entry in &entries {
            if entry.index == LogIndex::ZERO || entry.index.get() == u64::MAX {
                return Err(BatchError::OutOfRange(entry.index));
            }
            let floor = before.map_or(Term(1), |id| id.term);
            if entry.term < floor {
                return Err(BatchError::TermFalls { at: entry.index, found: entry.term });
            }
            if let Some(id) = before
                && entry.index != id.index.next()
            {
                return Err(BatchError::Hole { after: id.index, found: entry.index });
            }
            before = Some(entry.id());
        }
        Ok(Self(entries))
    }

    /// Takes entries copied from a log, which are contiguous already: checks the ends only.
    pub(crate) fn contiguous(entries: Vec<Entry>) -> Self {
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            let expected = first.index.get() + entries.len() as u64 - 1;
            assert!(last.index.get() == expected, "a hole before {:?}, not {expected}", last.id());
        }
        Self(entries)
    }

    /// Adds the next entry. Panics if it does not follow.
    pub fn push(&mut self, entry: Entry) {
        if let Some(last) = self.0.last() {
            assert!(
                entry.index == last.index.next() && entry.term >= last.term,
                "{:?} does not follow {:?}",
                entry.id(),
                last.id()
            );
        }
        self.0.push(entry);
    }

    /// The entries, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Entry] {
        &self.0
    }

    /// The entries, in order.
    #[must_use]
    pub fn into_entries(self) -> Vec<Entry> {
        self.0
    }

    /// The first entry, if any.
    #[must_use]
    pub fn first(&self) -> Option<&Entry> {
        self.0.first()
    }

    /// The last entry, if any.
    #[must_use]
    pub fn last(&self) -> Option<&Entry> {
        self.0.last()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sum of [`Entry::cost_bytes`].
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        self.0.iter().map(Entry::cost_bytes).sum()
    }
}

//! The protocol's numbers, each its own type, so that two of them cannot be swapped.
//!
//! Only arithmetic that means something is offered. All are 64 bits on disk and on the wire.

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $short:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(pub u64);

        impl $name {
            /// The plain number, for the disk, the wire and the eye.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($short, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A process that hosts replicas. Zero is never a node.
    NodeId, "n"
}
number! {
    /// One Raft group: a replicated log with its members.
    GroupId, "g"
}
number! {
    /// A leader's reign. Zero stands before the first election.
    Term, "t"
}
number! {
    /// Place of an entry in one group's log. The first entry is 1; `ZERO` stands before it.
    LogIndex, "i"
}
number! {
    /// The core's time: ticks since the shard started. A driver says how long a tick is.
    Ticks, "k"
}
number! {
    /// A group's writes in the order they were handed out. `ZERO` is what recovery found.
    WriteId, "w"
}

impl Term {
    /// Before the first election.
    pub const ZERO: Self = Self(0);

    /// The term a candidate campaigns in.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("term overflows"))
    }
}

impl LogIndex {
    /// Before the first entry.
    pub const ZERO: Self = Self(0);

    /// The place after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("log index overflows"))
    }

    /// The place before this one; `ZERO` has none and stays.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The place `entries` further on.
    #[must_use]
    pub fn forward(self, entries: u64) -> Self {
        Self(self.0.checked_add(entries).expect("log index overflows"))
    }

    /// Entries in `(self, last]`. Panics if `last` is behind `self`.
    #[must_use]
    pub fn entries_until(self, last: Self) -> u64 {
        last.0.checked_sub(self.0).expect("range runs backwards")
    }
}

impl Ticks {
    /// The moment `ticks` after this one.
    #[must_use]
    pub fn after(self, ticks: u64) -> Self {
        Self(self.0.saturating_add(ticks))
    }

    /// Ticks from `earlier` to here; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl WriteId {
    /// Stands for the state that recovery found on disk, which is always durable.
    pub const ZERO: Self = Self(0);

    /// The write after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("write id overflows"))
    }

    /// The write before this one; `ZERO` has none and stays.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// An entry's identity in one group: two logs that agree on it agree on all before it (paper §5.3).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct LogId {
    /// The term the entry was created in.
    pub term: Term,
    /// Where it stands.
    pub index: LogIndex,
}

impl LogId {
    /// Before the first entry.
    pub const ZERO: Self = Self { term: Term::ZERO, index: LogIndex::ZERO };

    /// True if a log ending in `self` is at least as up to date as one ending in `other` (paper §5.4.1).
    #[must_use]
    pub fn is_up_to_date_with(self, other: Self) -> bool {
        (self.term, self.index) >= (other.term, other.index)
    }
}

/// Why a log cannot say the term of an index.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoTerm {
    /// The log has let go of the entry there: it was committed and applied, and stands before the log's base.
    #[error("the entry was released from the log")]
    Released,
    /// The log ends before it.
    #[error("the log ends before the entry")]
    PastEnd,
}

/// Entries of one group that a proposal became: `first..=last`, all of `term`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogRange {
    /// The term they were appended in.
    pub term: Term,
    /// The first of them.
    pub first: LogIndex,
    /// The last of them.
    pub last: LogIndex,
}

/// The state that a group must never forget (paper figure 2, "persistent state"), beside its log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HardState {
    /// The latest term this replica has seen.
    pub term: Term,
    /// The candidate that the replica voted for in `term`.
    pub voted_for: Option<NodeId>,
    /// A commit index it knew; may lag, never leads. Saves work after a restart, nothing else. It may be before the log's
    /// base; a replica that restarts knows at least the base to be committed.
    pub commit: LogIndex,
    /// Its log lacks entries that it had acknowledged, as far as it knows: until it is readmitted it neither
    /// acknowledges, votes nor stands.
    pub marked: bool,
}

/// A run of entries of one term: they start at `first` and go on to the next run or the log's end.
///
/// Runs answer "which term has index i" for a whole log in a few bytes per leader it ever had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TermRun {
    /// The first entry of the run.
    pub first: LogIndex,
    /// The term of all of them.
    pub term: Term,
}

//! The errors of a log: refused, out of room, broken disk, damaged bytes.
//!
//! In:     every operation of the log and of its directory.
//! Out:    one enum per operation; bad bytes name file and offset, never a panic.
//! Fails:  [`WalError::Io`] and [`WalError::Poisoned`] are final: the stream writes nothing more.
//! Source: RULES.md rules 17 (poison), 20-25 (damage), W9 (disk full).

use logdrive_raft::{GroupId, LogId, LogIndex};
use std::io;
use std::path::PathBuf;

/// Bytes on disk that are not what was written there.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{} is corrupt at byte {offset}: {what}", file.display())]
pub struct Corrupt {
    /// The damaged file.
    pub file: PathBuf,
    /// Where in the file, in bytes from its start.
    pub offset: u64,
    /// A description of the damage.
    pub what: String,
}

/// Why the log could not be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// The disk failed. Nothing more is written: what was in flight has an unknown outcome, and the
    /// stream is poisoned.
    #[error("{what} of {} failed: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Which operation.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// An earlier call failed; this one did nothing. Writes that were not reported durable have an
    /// unknown outcome.
    #[error(
        "the log is poisoned: it takes nothing more after its first failure ({first}) until the node starts again"
    )]
    Poisoned {
        /// The first failure, as text.
        first: String,
    },
    /// Damage below what was acknowledged. Nothing was changed.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// A file belongs to another node, store or shard, or is there twice. Nothing was changed.
    #[error("{} does not belong to this log: {what}", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// A description of the difference.
        what: String,
    },
    /// A file that must be there is not. Never taken for an empty log. Nothing was changed.
    #[error("{} is missing: {what}", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// The evidence that the file must be there.
        what: String,
    },
    /// Written by a version this one does not know.
    #[error("{} has {what} {found}; this version of logdrive knows {known}", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Of what.
        what: &'static str,
        /// The number found.
        found: u32,
        /// The number known.
        known: u32,
    },
    /// There is no room for the write, and no next segment could be made. The call did nothing; room
    /// may come back.
    #[error("the log has no room: its disk is full, and the next segment could not be made")]
    NoSpace,
    /// The log has nearly the size it may have ([`crate::Config::log_bytes_max`]); what is left is for votes and for
    /// giving space back. The call did nothing; room comes back when enough is released.
    #[error("the log is at its quota, and not enough of it has been released")]
    OverQuota,
    /// The group was destroyed here, for good. The call did nothing.
    #[error("group {0} was destroyed in this log, and its id cannot be used again")]
    Destroyed(GroupId),
    /// An entry, a membership, or what a release has to write together is larger than a segment can take. The call did nothing.
    #[error("a payload of {bytes} bytes does not fit a segment, which takes {max} bytes at most")]
    TooLarge {
        /// Its payload's size.
        bytes: usize,
        /// The largest possible: [`crate::Wal::entry_bytes_max`].
        max: usize,
    },
    /// A setting cannot be.
    #[error("bad setting: {0}")]
    Config(String),
}

/// Why entries could not be read back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The group is not in this log.
    #[error("group {0} is not in this log")]
    UnknownGroup(GroupId),
    /// The first entry was released: the group's log begins behind `base`.
    #[error("entry {first} of group {group} was released: its log begins behind entry {}", base.index)]
    Compacted {
        /// The group.
        group: GroupId,
        /// First entry asked for.
        first: LogIndex,
        /// The last entry that was released.
        base: LogId,
    },
    /// The group has no snapshot in the log, or none that is durable yet.
    #[error("group {0} has no snapshot in this log")]
    NoSnapshot(GroupId),
    /// The range runs backwards or goes past the log's end.
    #[error("group {group} has no entries {first} to {last}: its log ends at entry {end}")]
    OutOfRange {
        /// The group.
        group: GroupId,
        /// First entry asked for.
        first: LogIndex,
        /// Last entry asked for.
        last: LogIndex,
        /// The log's last entry.
        end: LogIndex,
    },
    /// Entry `at` is in a batch that is not durable yet.
    #[error("entry {at} of group {group} is not durable yet")]
    NotDurable {
        /// The group.
        group: GroupId,
        /// The first entry that is not.
        at: LogIndex,
    },
    /// The bytes on disk are not what was written.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The file could not be read.
    #[error("read of {} failed: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

//! The release and the snapshot, which a log keeps of a group when a prefix of the entries leaves.
//!
//! In:     [`Release`] and [`Install`], which [`crate::Wal::release`] and [`crate::Wal::install`] write.
//! Out:    [`SnapshotMark`], as recovery finds it; [`SnapshotPlan`], which reads a snapshot's content back.
//! Cost:   a snapshot in the log takes 72 bytes and its content in the log, and about 100 bytes in memory, not its content.
//! Fails:  as a read of entries: damaged or unreadable content is a [`ReadError::Corrupt`] with file and offset.
//! Source: RULES.md rules 4, 28, 29; paper §7 (a snapshot replaces a prefix of the log).

use crate::error::ReadError;
use crate::read::Spot;
use bytes::Bytes;
use logdrive_raft::{GroupId, HardState, LogId, WriteId};

/// A prefix of a group's log that leaves, and all that must become true of the group together with that. It is written
/// into one batch, so a crash leaves all of it or nothing.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// The group.
    pub group: GroupId,
    /// Names this write in the [`Durable`](logdrive_raft::Durable) that covers it; `None` if nobody waits for it.
    pub write: Option<WriteId>,
    /// The last entry that leaves: the group's log begins behind it. If the log has an entry of another term there, the
    /// group's state came from elsewhere, and nothing behind it is kept either.
    pub base: LogId,
    /// The group's membership at `base`, opaque to the log.
    pub membership: &'a [u8],
    /// The group's new hard state, if it changes. Its commit index is saved as far as the log has the entries.
    pub hard_state: Option<HardState>,
    /// The group's new snapshot, at `base` or behind it. It replaces the group's earlier one. Without a new one the
    /// earlier one stays, unless it is before `base`: then nothing could be replayed onto it, and it is dropped.
    pub snapshot: Option<Snapshot<'a>>,
}

/// A snapshot of a group's state machine.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// The last entry that the machine had applied.
    pub at: LogId,
    /// Names the content; opaque to the log.
    pub digest: u128,
    /// The content, or where it is.
    pub content: SnapshotContent<'a>,
}

/// The content of a snapshot.
#[derive(Clone, Copy, Debug)]
pub enum SnapshotContent<'a> {
    /// It is kept in the log, beside what it replaces, and is carried like everything that is needed.
    InLog(&'a [u8]),
    /// It is in files of the embedder's, which were durable before; the log keeps the mark alone.
    InFiles {
        /// The size of the content.
        bytes: u64,
    },
}

/// The replacement of a group's state machine by a snapshot that came from elsewhere. It is written, and durable, before
/// the machine is touched: a crash may leave the machine ahead of the log, and this record says why. It ends with the
/// [`Release`] whose base is at its entry or behind it.
#[derive(Clone, Copy, Debug)]
pub struct Install {
    /// The group.
    pub group: GroupId,
    /// Names this write in the [`Durable`](logdrive_raft::Durable) that covers it.
    pub write: WriteId,
    /// The snapshot that the machine is to be replaced by.
    pub snapshot: Installing,
}

/// A snapshot that is being installed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Installing {
    /// The last entry that the snapshot has.
    pub at: LogId,
    /// Names the content; opaque to the log.
    pub digest: u128,
}

/// A snapshot that the log keeps, without its content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SnapshotMark {
    /// The last entry that the machine had applied.
    pub at: LogId,
    /// Names the content; opaque to the log.
    pub digest: u128,
    /// The size of the content.
    pub bytes: u64,
    /// True if the content is in the log ([`crate::Wal::plan_snapshot`]), false if it is in files.
    pub is_in_log: bool,
}

/// A read of a snapshot's content that can be done on any thread.
pub struct SnapshotPlan {
    pub(crate) group: GroupId,
    pub(crate) spot: Spot,
}

impl SnapshotPlan {
    /// Reads and verifies. May block on the disk; not for a shard thread.
    ///
    /// # Errors
    /// [`ReadError::Io`] or [`ReadError::Corrupt`].
    pub fn run(self) -> Result<Bytes, ReadError> {
        let read = self.spot.read_snapshot(self.group);
        read.map(|(_, content)| content).map_err(|error| self.spot.lost(error))
    }
}

//! Old entries on their way back from the log, read away from the shard's thread.
//!
//! In:     a plan that the log made.
//! Out:    the entries, or why they cannot be read.
//! Cost:   may block on the disk: a cold page is faulted where this runs.
//! Fails:  as the log's reads do.

use crate::GroupId;
use logdrive_raft::{EntryBatch, FetchFor};
use logdrive_wal::{CarryDone, CarryPlan, ReadError, ReadPlan};

/// Old entries to be read, away from the shard's thread.
pub(crate) enum ReadTask {
    /// For a group that asked for them.
    Fetch { group: GroupId, purpose: FetchFor, plan: ReadPlan },
    /// For the log, which gives up the segment they are in.
    Carry(CarryPlan),
}

/// Old entries that were read.
pub(crate) enum ReadDone {
    /// For a group.
    Fetch { group: GroupId, purpose: FetchFor, read: Result<EntryBatch, ReadError> },
    /// For the log.
    Carry(CarryDone),
}

impl ReadTask {
    /// Reads; may block on the disk.
    pub(crate) fn run(self) -> ReadDone {
        match self {
            Self::Fetch { group, purpose, plan } => {
                ReadDone::Fetch { group, purpose, read: plan.run() }
            }
            Self::Carry(plan) => ReadDone::Carry(plan.run()),
        }
    }
}

//! The cursors of a group and the counts of a shard, as their thread tells them to others that ask.
//!
//! In:     a question, in the shard's queue of controls.
//! Out:    a copy, as of the turn that answers.
//! Cost:   nothing to anyone but the one that asks: nothing is published that nobody asked for.
//! Fails:  [`crate::Gone`] if the shard has stopped.

use crate::{GroupId, LogIndex, NodeId, Term, later::Giver};
use logdrive_net::{InboundStats, Lane, LaneStats};
use logdrive_wal::{Holders, Metrics, Usage};

/// A replica's term and cursors, from [`crate::Group::status`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct GroupStatus {
    /// Its term.
    pub term: Term,
    /// The leader of that term, if it knows one.
    pub leader: Option<NodeId>,
    /// The last entry of its log, durable or not.
    pub last: LogIndex,
    /// The last entry durable on this node.
    pub durable: LogIndex,
    /// The last entry known committed: durable on a majority, perhaps not here.
    pub commit: LogIndex,
    /// The last entry that the machine here has applied.
    pub applied: LogIndex,
}

impl From<logdrive_raft::Status> for GroupStatus {
    fn from(status: logdrive_raft::Status) -> Self {
        let logdrive_raft::Status { term, leader, last_log, durable, commit, applied, .. } = status;
        Self { term, leader, last: last_log.index, durable, commit, applied }
    }
}

/// The counts of one shard, from [`crate::Node::counters`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShardCounters {
    /// Batches, bytes, entries and segments of its log since the node was opened.
    pub log: Metrics,
    /// The space that its log takes on disk.
    pub log_usage: Usage,
    /// The connections to each peer, by lane: frames, messages, bytes, and what was dropped.
    pub lanes: Vec<(NodeId, Lane, LaneStats)>,
    /// The connections that peers have made, over all shards of the node.
    pub inbound: InboundStats,
    /// Commands that wait for their outcome.
    pub waiting_commands: usize,
    /// Their bytes.
    pub waiting_bytes: usize,
}

/// The use of one shard's log, from [`crate::Node::log`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShardLog {
    /// The space that it takes on disk.
    pub usage: Usage,
    /// Its segments that hold something, the one that is written among them.
    pub segments: usize,
    /// The groups that its space belongs to.
    pub holders: Holders,
}

/// A question to a shard.
pub(crate) enum Question {
    /// Where a group is.
    Group(GroupId, Giver<GroupStatus>),
    /// The counts of a shard.
    Counters(Giver<ShardCounters>),
    /// The use of a shard's log, and so many of the groups that take most of it.
    Log(usize, Giver<ShardLog>),
}

//! Did it happen? Every error of the embedding API answers that first.

use crate::limits::least_segment_bytes;
use logdrive_raft::{GroupId, NodeId};
use logdrive_wal::Corrupt;
use std::{path::PathBuf, time::Duration};

// Answers are moved by the million: a larger error would make each of them larger.
const _: () = assert!(size_of::<ProposeError>() <= 40);

/// Why a proposal has no reply. [`ProposeError::happened`] sorts them.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Did not happen. Ask `hint`, if it is known.
    #[error("not the leader of the group{}", leader(*.hint))]
    NotLeader {
        /// The leader, as far as this replica knows.
        hint: Option<NodeId>,
    },
    /// Did not happen. A bound on what waits is reached.
    #[error(
        "overloaded: too much waits in this group or its shard; try again after {retry_after:?}"
    )]
    Overloaded {
        /// A guess when it is worth trying again.
        retry_after: Duration,
    },
    /// Did not happen. The log has no room and could not make any; it tries again by itself.
    #[error(
        "the log's disk is full, here or on too many of the group's nodes; the log goes on when there is room again"
    )]
    DiskFull,
    /// Did not happen. The log has nearly the size it may have ([`crate::Config::log_bytes_max`]), and what it holds is
    /// still needed. Passes when enough of it is released.
    #[error("the log is at its quota, and goes on when enough of it is released")]
    LogFull,
    /// Did not happen. The command alone is over the bound.
    #[error("a command of {bytes} bytes is over the bound of {max} bytes")]
    TooLarge {
        /// The command's bytes.
        bytes: usize,
        /// The bound, in bytes.
        max: usize,
    },
    /// Did not happen. The batch alone is over a shard's bounds ([`crate::Config::proposals_max`],
    /// [`crate::Config::proposal_bytes_max`]): it never fits, in smaller ones it may.
    #[error(
        "a batch of {commands} commands and {bytes} bytes is over the bounds of {commands_max} commands and {bytes_max} \
         bytes; smaller batches may fit"
    )]
    BatchTooLarge {
        /// The batch's commands.
        commands: usize,
        /// Their bytes.
        bytes: usize,
        /// The bound on commands.
        commands_max: usize,
        /// The bound on bytes.
        bytes_max: usize,
    },
    /// Did not happen. The group is not served here (any more): it failed, or the node stopped.
    #[error("the group does not run here: {0}")]
    Stopped(StopCause),
    /// May have happened, or may still: it was in the log when leadership moved, the group failed
    /// or the node stopped. Retry only what is idempotent.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(&'static str),
}

/// The answer to "did it happen?".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Happened {
    /// It did not and will not.
    No,
    /// It may have, or may still.
    Unknown,
}

impl ProposeError {
    /// Whether the command may have taken effect.
    #[must_use]
    pub fn happened(&self) -> Happened {
        match self {
            Self::OutcomeUnknown(_) => Happened::Unknown,
            _ => Happened::No,
        }
    }
}

/// Why a group does not run on this node (any more); see [`crate::Group::state`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StopCause {
    /// Its machine failed or panicked. The other groups and nodes go on; [`crate::Node::restart`] gives it another.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Its committed entries could not be read back from the log to be applied. [`crate::Node::restart`] tries again.
    #[error("its log cannot be read back: {0}")]
    Unreadable(String),
    /// The log lost something of it here: it never votes, acknowledges or leads on this node again. Its other members
    /// serve on, and clients are sent to one of them if there is one.
    #[error("its log lost something: {0}")]
    Fenced(Box<Corrupt>),
    /// So many nodes say that the group was founded with other members, this one among them, that this replica, whose
    /// list fewer or no more nodes support, serves no more; see RULES.md M14. A node that starts compares anew.
    #[error("the group was founded with other members on node {0}")]
    OtherMembers(NodeId),
    /// The node has stopped, for this reason.
    #[error("the node has stopped: {0}")]
    Node(String),
    /// The group has not been created or resumed.
    #[error("it was neither created nor resumed")]
    Absent,
}

impl StopCause {
    /// Another machine can take the place of the one that failed: the log has all it needs.
    pub(crate) fn is_machines(&self) -> bool {
        matches!(self, Self::Machine(_) | Self::Unreadable(_))
    }

    /// No machine mends it, and it outlasts other reasons.
    pub(crate) fn is_for_good(&self) -> bool {
        matches!(self, Self::Fenced(_) | Self::OtherMembers(_))
    }
}

/// Why a node could not be made or opened. Nothing was started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting makes no sense, or differs from what the directory was made with.
    #[error("{0}")]
    Config(String),
    /// The directory cannot be used.
    #[error(transparent)]
    Home(#[from] logdrive_wal::HomeError),
    /// The log of one shard cannot be opened.
    #[error("the log of shard {shard} cannot be opened: {source}")]
    Log {
        /// Which shard.
        shard: u32,
        /// The error of its log.
        source: logdrive_wal::WalError,
    },
    /// The peer address cannot be listened on.
    #[error(transparent)]
    Net(#[from] logdrive_net::NetError),
    /// The operating system refused something (a thread, a runtime).
    #[error("{what}: {source}")]
    Os {
        /// The request that was refused.
        what: &'static str,
        /// The answer.
        source: std::io::Error,
    },
}

/// Why a group could not be created or resumed. It does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The log already holds this group: resume it.
    #[error("group {0} is in this node's log already: resume it")]
    Exists(GroupId),
    /// The log does not hold this group: create it.
    #[error("group {0} is not in this node's log: create it")]
    Unknown(GroupId),
    /// It runs already.
    #[error("group {0} runs already")]
    Running(GroupId),
    /// The members given cannot be.
    #[error("the members of group {group} cannot be right: {why}")]
    Members {
        /// The group.
        group: GroupId,
        /// The reason.
        why: String,
    },
    /// The machine could not open, or is ahead of the log.
    #[error("group {group} cannot start: {source}")]
    Machine {
        /// The group.
        group: GroupId,
        /// The machine's error.
        source: MachineError,
    },
    /// The log holds a state of the group that this engine cannot run on: so far, entries that were released with no
    /// snapshot in their place.
    #[error("group {group} cannot start from what this node's log holds: {why}")]
    Log {
        /// The group.
        group: GroupId,
        /// The reason.
        why: String,
    },
    /// It was destroyed on this node: its id never lives again here.
    #[error("group {0} was destroyed on this node, and its id cannot be used here again")]
    Destroyed(GroupId),
    /// The log lost something of this group here: it must not vote, acknowledge or lead on this node. Its other
    /// members serve on.
    #[error("group {group} is fenced on this node, because its log is damaged: {source}")]
    Fenced {
        /// The group.
        group: GroupId,
        /// The damage: which file, and where.
        source: Corrupt,
    },
    /// The node has stopped.
    #[error("the node has stopped: {0}")]
    Stopped(String),
    /// Asked on a shard's thread, which must not wait, while the queue of the group's shard is full. Try again.
    #[error("the queue of the shard of group {0} is full; try again")]
    Busy(GroupId),
}

/// The error of a state machine that cannot go on. The machine's group stops here; other groups do not notice.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("state machine: {0}")]
pub struct MachineError(pub String);

/// Why a running node stopped by itself.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The log's first failed write or sync: nothing after it can be trusted (RULES.md rule 17).
    #[error("the log of shard {shard} failed: {what}")]
    Log {
        /// Which shard.
        shard: u32,
        /// The log's error.
        what: String,
    },
    /// A shard's disk or its thread was silent for longer than [`crate::Config::stall_fatal`]. The process ends a
    /// second after this was said, unless [`crate::Config::stall_ends_process`] is false.
    #[error("shard {shard}: {what} for {time:.1?}")]
    Stalled {
        /// Which shard.
        shard: u32,
        /// The silent part, the shard's thread or its log's disk, in words.
        what: &'static str,
        /// For how long.
        time: Duration,
    },
    /// A change of the file `openings`, by which the directory knows its peers, was not on disk after
    /// [`crate::Config::stall_fatal`]. The process ends a second after this was said, unless
    /// [`crate::Config::stall_ends_process`] is false.
    #[error("the file {} has not been written for {time:.1?}", file.display())]
    StalledFile {
        /// The file.
        file: PathBuf,
        /// How long the change has waited.
        time: Duration,
    },
    /// A thread of the node could not go on.
    #[error("{0}")]
    Thread(String),
    /// A peer knows this node with another directory or with a later state of it: this one was made anew, is an old copy,
    /// or one of two copies. It has forgotten what the node promised, so it is marked and never opened again.
    #[error(
        "node {by} refused this node: {why}. This directory must not be used any more. The other nodes go on without it; \
         it cannot be repaired, and its replicas cannot be replaced before membership changes exist"
    )]
    Refused {
        /// The peer.
        by: NodeId,
        /// Its reason.
        why: logdrive_net::Refusal,
    },
    /// This node's segments do not hold the largest commands of two peers or more, and of so many that the others are no
    /// majority, and since it was opened it has reached no peer and none of its groups has a leader: it is this node that
    /// is set up wrongly. The directory may be opened again, with larger segments.
    #[error(
        "node {by} takes commands of up to {theirs} bytes, and this node's segments hold at most {ours}: open it with \
         segments of at least {} bytes", least_segment_bytes(*.theirs)
    )]
    SmallSegments {
        /// The one of those peers with the largest commands.
        by: NodeId,
        /// Its largest command, in bytes.
        theirs: u32,
        /// The largest that this node's segments hold, in bytes.
        ours: u32,
    },
}

impl NodeError {
    /// True if a thread of the node may sit in the kernel for ever.
    pub(crate) fn is_stall(&self) -> bool {
        matches!(self, Self::Stalled { .. } | Self::StalledFile { .. })
    }
}

/// Why [`crate::Node::spawn_on`] dropped a task. The task did not run.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The node has stopped.
    #[error("the node has stopped: {0}")]
    Stopped(String),
    /// Asked on a shard's thread, which must not wait, while the queue of the other shard is full. Try again.
    #[error("the queue of shard {shard} is full")]
    Busy {
        /// The shard with the full queue.
        shard: usize,
    },
}

/// Where to go instead, for a message.
fn leader(hint: Option<NodeId>) -> String {
    hint.map_or(", and no leader is known".to_owned(), |node| format!("; node {node} leads it"))
}

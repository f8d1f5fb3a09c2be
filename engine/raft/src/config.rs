//! A replica's settings, checked once, and what it finds of itself after a restart.

use crate::raft::{INDEX_MAX, TERM_MAX};
use crate::{GroupId, HardState, LogId, LogIndex, NodeId, Term, TermRun};
use alloc::vec::Vec;

/// One replica's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The group.
    pub group: GroupId,
    /// This node.
    pub id: NodeId,
    /// The group's voters, this node among them.
    pub voters: Vec<NodeId>,
    /// An election timeout is drawn from `election_ticks..2 * election_ticks`, anew each time.
    pub election_ticks: u64,
    /// A leader that has said nothing else to a follower for this long says it is alive.
    pub heartbeat_ticks: u64,
    /// Seeds the randomised timeouts.
    pub seed: u64,
    /// Appends in flight to one follower, at most.
    pub inflight_messages_max: usize,
    /// Bytes in flight to one follower, at most (one append may go over it).
    pub inflight_bytes_max: usize,
    /// Bytes of entries in one append, at most (one entry may go over it alone).
    pub append_bytes_max: usize,
    /// Bytes of applied entries kept in memory for followers that are a little behind.
    pub tail_bytes_max: usize,
    /// Bytes of proposals not yet committed; more are refused with [`crate::ProposeError::Full`].
    pub uncommitted_bytes_max: usize,
}

/// The state of a replica that recovery found; the default is a new replica.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Term, vote and a commit index.
    pub hard_state: HardState,
    /// The last entry that the log has let go of; `ZERO` if none. [`Config::voters`] are the members there.
    pub base: LogId,
    /// The terms of the log's entries, first to last, beginning with the one behind `base`. Empty if the log is.
    pub runs: Vec<TermRun>,
    /// The log's last entry; that of `base` if there is none behind it.
    pub last: LogIndex,
    /// How far the state machine is, at least to `base`; entries after it will be handed out again.
    pub applied: LogIndex,
}

impl Restored {
    /// # Errors
    /// [`ConfigError`] if no replica can have left it.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { hard_state, base, runs, last, applied } = self;
        if hard_state.term > TERM_MAX || *last > INDEX_MAX {
            return Err(ConfigError::BadLog("a term or an index is past its bound"));
        }
        check_runs(*base, runs, *last, hard_state.term)?;
        if *applied < base.index {
            return Err(ConfigError::AppliedBeforeBase { applied: *applied, base: base.index });
        }
        if applied > last {
            return Err(ConfigError::AppliedPastLog { applied: *applied, last: *last });
        }
        Ok(())
    }
}

/// Why a [`Config`] or a [`Restored`] cannot be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The node is not among the voters.
    #[error("node {id} is not a voter of group {group}")]
    NotAVoter {
        /// The node.
        id: NodeId,
        /// The group.
        group: GroupId,
    },
    /// A voter is listed twice, or is node 0.
    #[error("voter {0} is listed twice, or is 0, which is no node's id")]
    BadVoter(NodeId),
    /// `heartbeat_ticks` is zero or not below `election_ticks`.
    #[error(
        "a heartbeat of {heartbeat_ticks} ticks does not fit an election timeout of {election_ticks} ticks: it must be above zero and below that"
    )]
    BadTimeouts {
        /// From the settings.
        heartbeat_ticks: u64,
        /// From the settings.
        election_ticks: u64,
    },
    /// A bound is zero.
    #[error("the bound {0} is zero, and must be above zero")]
    ZeroBound(&'static str),
    /// The state machine is ahead of the log: the log has lost entries.
    #[error(
        "the state machine has applied entry {applied}, but the log ends at entry {last}: it has lost entries"
    )]
    AppliedPastLog {
        /// Where the machine is.
        applied: LogIndex,
        /// Where the log ends.
        last: LogIndex,
    },
    /// The state machine is behind what the log has let go of: it must be restored from a snapshot first.
    #[error(
        "the state machine has applied entry {applied}, but the log begins behind entry {base}: it must be restored first"
    )]
    AppliedBeforeBase {
        /// Where the machine is.
        applied: LogIndex,
        /// The last entry that the log has let go of.
        base: LogIndex,
    },
    /// The log that was found cannot be one, or cannot be of the hard state found with it.
    #[error("the recovered log contradicts itself: {0}")]
    BadLog(&'static str),
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if !self.voters.contains(&self.id) {
            return Err(ConfigError::NotAVoter { id: self.id, group: self.group });
        }
        for (at, &voter) in self.voters.iter().enumerate() {
            if voter == NodeId(0) || self.voters[..at].contains(&voter) {
                return Err(ConfigError::BadVoter(voter));
            }
        }
        let Self { heartbeat_ticks, election_ticks, .. } = *self;
        if heartbeat_ticks == 0 || heartbeat_ticks >= election_ticks {
            return Err(ConfigError::BadTimeouts { heartbeat_ticks, election_ticks });
        }
        let bounds = [
            ("inflight_messages_max", self.inflight_messages_max),
            ("inflight_bytes_max", self.inflight_bytes_max),
            ("append_bytes_max", self.append_bytes_max),
            ("tail_bytes_max", self.tail_bytes_max),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
        ];
        match bounds.iter().find(|(_, bound)| *bound == 0) {
            Some((name, _)) => Err(ConfigError::ZeroBound(name)),
            None => Ok(()),
        }
    }
}

fn check_runs(
    base: LogId,
    runs: &[TermRun],
    last: LogIndex,
    term: Term,
) -> Result<(), ConfigError> {
    let bad = |what| Err(ConfigError::BadLog(what));
    if (base.index == LogIndex::ZERO) != (base.term == Term::ZERO) || base.term > term {
        return bad("the last entry that was released is of no term, or of one past the newest");
    }
    if runs.is_empty() != (last == base.index) || last < base.index {
        return bad("the terms and the last entry disagree whether there is a log");
    }
    let is_first = |run: &TermRun| run.first == base.index.next() && run.term >= base.term;
    if runs.first().is_some_and(|run| !is_first(run) || run.term == Term::ZERO) {
        return bad("the log does not begin behind what was released, in a term after zero");
    }
    if !runs.is_sorted_by(|a, b| a.first < b.first && a.term < b.term) {
        return bad("indexes or terms fall");
    }
    if runs.last().is_some_and(|run| run.first > last || run.term > term) {
        return bad("an entry is past the last one or of a term past the newest");
    }
    Ok(())
}

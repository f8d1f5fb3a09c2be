//! One replica: settles an event's term, hands it to the role.

use crate::{
    Command, Config, ConfigError, Durable, EntryBatch, FetchFor, LogId, LogIndex, LogRange,
    Message, NodeId, ProposeError, Ready, Restored, Term, Ticks,
};
use alloc::vec::Vec;
use bytes::Bytes;

/// Something that happened to a replica.
#[derive(Debug)]
pub enum Event {
    /// Time has passed; see [`Raft::deadline`].
    Tick,
    /// A message arrived.
    Message {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// Writes are on disk.
    Durable(Durable),
    /// The state machine has applied up to here.
    Applied(LogIndex),
    /// Entries a [`crate::Fetch`] asked for, from its `first` on; perhaps fewer than asked.
    Fetched {
        /// What they were wanted for.
        purpose: FetchFor,
        /// The entries.
        entries: EntryBatch,
    },
    /// A [`crate::Fetch`] could not be answered (it may be asked again).
    FetchFailed {
        /// What it was wanted for.
        purpose: FetchFor,
    },
    /// A connection to this peer broke or a message to it was dropped: what is in flight may be lost.
    Unreachable(NodeId),
    /// Campaign now (pre-vote first), unless there is a leader.
    Campaign,
}

/// What a replica is in its group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Answers leaders and candidates.
    Follower,
    /// Asks whether it could win.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Replicates its log.
    Leader,
}

/// A replica, from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Status {
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The leader of that term, if it knows one.
    pub leader: Option<NodeId>,
    /// The last entry of its log, durable or not.
    pub last_log: LogId,
    /// The last entry known committed.
    pub commit: LogIndex,
    /// The last entry handed to the state machine.
    pub applying: LogIndex,
    /// The last entry the state machine has applied.
    pub applied: LogIndex,
}

/// One replica of one group.
#[derive(Debug)]
pub struct Raft {}

impl Raft {
    /// A replica as recovery found it: a follower that knows no leader.
    ///
    /// # Errors
    /// [`ConfigError`] if the settings contradict each other or what was found.
    pub fn new(_config: Config, _restored: Restored, _now: Ticks) -> Result<Self, ConfigError> {
        todo!()
    }

    /// Appends commands to this group's log, draining `commands`, and says where they landed.
    /// Nothing is durable yet. Takes all or none.
    ///
    /// # Errors
    /// [`ProposeError`]: it did not happen, and `commands` is untouched.
    pub fn propose(&mut self, _commands: &mut Vec<Command>) -> Result<LogRange, ProposeError> {
        todo!()
    }

    /// Takes one event. Never blocks, never fails.
    pub fn step(&mut self, _now: Ticks, _event: Event) {
        todo!()
    }

    /// The work now owed; `None` if nothing is.
    pub fn ready(&mut self) -> Option<Ready> {
        todo!()
    }

    /// When this replica wants its next [`Event::Tick`]. Earlier ones are harmless.
    pub fn deadline(&self) -> Ticks {
        todo!()
    }

    /// Role, term, leader and cursors.
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Swaps the payloads of entries still held in memory, from `first` on, for equal bytes that
    /// live elsewhere (the log's image), so that no second copy is kept. An entry whose term is not
    /// `term` or whose length or checksum differs (it was replaced since) is left alone.
    pub fn rehome(
        &mut self,
        _first: LogIndex,
        _payloads: &mut dyn Iterator<Item = (Term, u32, Bytes)>,
    ) {
        todo!()
    }

    /// Copies the payloads of entries still held in memory to memory of their own, so that what
    /// they were borrowed from can be used again.
    pub fn own_tail(&mut self) {
        todo!()
    }
}

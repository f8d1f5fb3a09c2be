//! The events of a run, as seen from outside.
//!
//! In:     what nodes write, say, apply and answer; what their disks land; what faults do.
//! Out:    [`Event`]s, which the trace tells, the invariants judge and the ghost remembers.
//! Source: RULES.md, the invariants.

use crate::{GroupId, LogIndex, NodeId, Outcome, Term};
use bytes::Bytes;
use logdrive_raft::{HardState, Message, Status, WriteId};
use std::collections::{BTreeMap, BTreeSet};

/// An entry as the ghost keeps it: its place is its position in a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Mark {
    pub(super) term: Term,
    /// Of its payload.
    pub(super) checksum: u32,
}

/// A group's log and hard state on one node, at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct LogState {
    pub(super) hard_state: HardState,
    pub(super) log: Vec<Mark>,
}

/// One write as a replica handed it out.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// Zero for what was found on a platter.
    pub(super) write: WriteId,
    pub(super) hard_state: Option<HardState>,
    pub(super) first: LogIndex,
    pub(super) entries: Vec<Mark>,
    /// The bytes that each entry counts for in every budget, where the entries were handed out.
    pub(super) cost_bytes: Vec<usize>,
}

/// Something that happened, as seen from outside.
pub(super) enum Event<'a> {
    /// A node's process is up, and this is what its log said of a group.
    Recovered {
        node: NodeId,
        group: GroupId,
        state: &'a LogState,
        /// Its disk has lost the end of what it said it had, and nothing on it tells.
        has_lost: bool,
    },
    /// A node's log has fenced a group. `harmed` says that a loss of the node's disk explains it.
    Fenced { node: NodeId, group: GroupId, harmed: bool },
    /// A replica handed out a write.
    Written { node: NodeId, group: GroupId, change: &'a Change },
    /// The log has no room for a replica's writes from `from` on, but for what it had accepted of the first: the replica's
    /// log ends at `last` again.
    Withdrawn {
        node: NodeId,
        group: GroupId,
        from: WriteId,
        accepted: Option<&'a Change>,
        last: LogIndex,
    },
    /// A part of a replica's writes is on the platter, with all before it.
    Landed { node: NodeId, group: GroupId, change: &'a Change },
    /// A message leaves a node.
    Sent { node: NodeId, to: NodeId, group: GroupId, message: &'a Message },
    /// A message reaches a replica that takes it in.
    Arrived { node: NodeId, from: NodeId, group: GroupId, message: &'a Message },
    /// A replica after a turn, if it changed. `clock` is its own, in ticks.
    Turned { node: NodeId, group: GroupId, status: &'a Status, clock: u64 },
    /// A shard took a turn: the writes that its log has on their way to the disk.
    Loaded { node: NodeId, in_flight: usize, in_flight_max: usize },
    /// A machine has said where it is, when its process began.
    Opened { node: NodeId, group: GroupId, at: LogIndex, digest: Option<u64> },
    /// A machine is given a batch that ends at `last`.
    Given { node: NodeId, group: GroupId, last: LogIndex },
    /// A machine has applied a command.
    Applied { node: NodeId, group: GroupId, applied: &'a Applied },
    /// A machine has applied a whole batch, and says how far it is durable.
    Reached { node: NodeId, group: GroupId, at: LogIndex, digest: Option<u64>, durable: LogIndex },
    /// A machine has failed: its replica serves no more in this incarnation.
    Stopped { node: NodeId, group: GroupId },
    /// A group whose machine has failed gets another one: it serves again, from where that one opens.
    Restarted { node: NodeId, group: GroupId },
    /// A replica that was founded otherwise than the others has answered a command with success.
    AnsweredApart { node: NodeId, group: GroupId },
    /// A node's log has given up a segment; this is what its disk would leave of a group if the power failed now.
    /// `None` if the group would be fenced.
    GivenBack { node: NodeId, group: GroupId, state: Option<&'a LogState> },
    /// A client is answered.
    Answered { serial: u64, outcome: &'a Outcome },
    /// A node's process has started on a log that is missing or not its own.
    Impostor { node: NodeId },
    /// A write of one of a node's logs has failed.
    Poisoned { node: NodeId, shard: usize },
    /// A node's process is gone.
    Down { node: NodeId },
    /// The run is over, and all that could heal has healed.
    End { at: &'a AtEnd },
}

impl Event<'_> {
    /// The group that the event is about, if it is about one.
    pub(super) fn group(&self, commands: &[Proposed]) -> Option<GroupId> {
        match *self {
            Event::Recovered { group, .. }
            | Event::Fenced { group, .. }
            | Event::Written { group, .. }
            | Event::Landed { group, .. }
            | Event::Withdrawn { group, .. }
            | Event::Sent { group, .. }
            | Event::Arrived { group, .. }
            | Event::Turned { group, .. }
            | Event::Opened { group, .. }
            | Event::Given { group, .. }
            | Event::Applied { group, .. }
            | Event::Reached { group, .. }
            | Event::Stopped { group, .. }
            | Event::Restarted { group, .. }
            | Event::AnsweredApart { group, .. }
            | Event::GivenBack { group, .. } => Some(group),
            Event::Answered { serial, .. } => Some(commands[serial_place(serial)].group),
            Event::Loaded { .. }
            | Event::Impostor { .. }
            | Event::Poisoned { .. }
            | Event::Down { .. }
            | Event::End { .. } => None,
        }
    }

    /// The replica that the event is about, if it is about one alone.
    pub(super) fn replica(&self) -> Option<(NodeId, GroupId)> {
        match *self {
            Event::Recovered { node, group, .. }
            | Event::Fenced { node, group, .. }
            | Event::Written { node, group, .. }
            | Event::Landed { node, group, .. }
            | Event::Withdrawn { node, group, .. }
            | Event::Sent { node, group, .. }
            | Event::Arrived { node, group, .. }
            | Event::Turned { node, group, .. }
            | Event::Opened { node, group, .. }
            | Event::Given { node, group, .. }
            | Event::Applied { node, group, .. }
            | Event::Reached { node, group, .. }
            | Event::Stopped { node, group }
            | Event::Restarted { node, group }
            | Event::GivenBack { node, group, .. } => Some((node, group)),
            Event::AnsweredApart { .. }
            | Event::Answered { .. }
            | Event::Loaded { .. }
            | Event::Impostor { .. }
            | Event::Poisoned { .. }
            | Event::Down { .. }
            | Event::End { .. } => None,
        }
    }
}

/// A command as a machine has applied it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Applied {
    pub(super) index: LogIndex,
    pub(super) term: Term,
    pub(super) serial: u64,
    pub(super) reply: Bytes,
}

/// The facts that the run knows at its end.
#[derive(Debug, Default)]
pub(super) struct AtEnd {
    /// Replicas that must serve: their node is up and they have lost nothing.
    pub(super) alive: BTreeMap<GroupId, Vec<(NodeId, Status)>>,
    /// Terms as they were when the last proposal had been made.
    pub(super) terms_before: BTreeMap<GroupId, Term>,
    /// Replicas that were fenced by then.
    pub(super) fenced_before: BTreeSet<(NodeId, GroupId)>,
    /// Commands acknowledged since the healing began.
    pub(super) served: BTreeMap<GroupId, u64>,
    /// Replicas that were founded otherwise, and must have learned of it by now.
    pub(super) apart: Vec<ApartAtEnd>,
}

/// A replica that was founded otherwise than the others, when all has healed.
#[derive(Clone, Copy, Debug)]
pub(super) struct ApartAtEnd {
    pub(super) node: NodeId,
    pub(super) group: GroupId,
    /// It serves no more, and says why.
    pub(super) has_stopped: bool,
    /// It and the group's leader have each said that the other was founded otherwise.
    pub(super) both_say: bool,
}

/// A client's knowledge of its command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Known {
    Waiting,
    Yes,
    No,
    Unknown,
}

/// A command that a client proposed.
#[derive(Debug)]
pub(super) struct Proposed {
    pub(super) node: NodeId,
    pub(super) group: GroupId,
    pub(super) command: Bytes,
    pub(super) known: Known,
}

/// The outcome of a run, in numbers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Commands answered with success.
    pub acknowledged: u64,
    /// Commands that were refused.
    pub refused: u64,
    /// Commands whose outcome was unknown.
    pub unknown: u64,
    /// Processes that ended, by whatever fault.
    pub crashes: u64,
    /// Leaders elected, over all groups.
    pub elections: u64,
    /// Faults injected.
    pub faults: u64,
    /// Simulated time, in steps of a millisecond.
    pub steps: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.crashes += other.crashes;
        self.elections += other.elections;
        self.faults += other.faults;
        self.steps += other.steps;
    }
}

/// The knowledge that an answer gives a client.
pub(super) fn known(outcome: &Outcome) -> Known {
    match outcome {
        Ok(_) => Known::Yes,
        Err(error) if error.happened() == crate::Happened::No => Known::No,
        Err(_) => Known::Unknown,
    }
}

/// Where a command stands in the list of all commands.
pub(super) fn serial_place(serial: u64) -> usize {
    usize::try_from(serial).expect("a position")
}

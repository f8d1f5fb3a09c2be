//! The work that a replica owes to the disk, the network and the state machine, and its order.
//!
//! In:     [`crate::Raft::ready`] makes a [`Ready`]; the log makes a [`Durable`].
//! Out:    messages: messages that may leave now, a write, promises that wait for it, entries to apply.
//! Fails:  a promise released before its write is durable panics.
//! Source: thesis §10.2.1 (the leader writes beside its sends), §3.8 (what must be durable first).

use crate::{EntryBatch, GroupId, HardState, LogId, LogIndex, NodeId, Outgoing, WriteId};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Work one group owes, in any order but for [`Promises`], which wait for their write.
#[derive(Debug, Default)]
pub struct Ready {
    /// May leave at once, beside the write: a leader's appends and heartbeats, pre-votes and their
    /// answers, refusals.
    pub messages: Vec<Outgoing>,
    /// To be made durable, in the order of its id.
    pub write: Option<Write>,
    /// Vote requests, votes and acknowledgements: leave when the write under them is durable.
    pub promises: Option<Promises>,
    /// Committed entries, in order, each handed out once per incarnation. Answer with
    /// [`crate::Event::Applied`].
    pub apply: EntryBatch,
    /// Old entries this group needs back from the log. Each is answered by one
    /// [`crate::Event::Fetched`] or [`crate::Event::FetchFailed`].
    pub fetch: Vec<Fetch>,
    /// Peers that need a snapshot, each told once. Answer with [`crate::Event::TransferEnded`], unless the peer answers.
    pub offers: Vec<Offer>,
}

/// The most entries that a host takes for a state machine at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ApplyMax {
    /// How many entries.
    pub entries: usize,
    /// Their bytes, as [`crate::Entry::cost_bytes`] counts them; one entry may go over it alone.
    pub bytes: usize,
}

impl ApplyMax {
    /// The last of so many entries, if the first of them is `first`.
    pub(crate) fn last_from(self, first: LogIndex) -> LogIndex {
        let more = u64::try_from(self.entries.saturating_sub(1)).unwrap_or(u64::MAX);
        LogIndex(first.get().saturating_add(more))
    }
}

/// One group's part of a log batch.
#[derive(Debug)]
pub struct Write {
    /// Its place among the group's writes.
    pub id: WriteId,
    /// The log's new base. It goes before `hard_state`, which is there if this is, and both are in one batch together with
    /// the membership: a crash leaves all three or none.
    pub release: Option<Box<Release>>,
    /// The new hard state, if term or vote changed (or the commit index is worth saving with them).
    /// Goes before `entries`, in their batch or in an earlier one, so its commit index covers none of them.
    pub hard_state: Option<HardState>,
    /// Entries to append. They replace whatever the log has from `entries.first()` on.
    pub entries: EntryBatch,
}

/// The log's base has moved: by a release, or because a snapshot was installed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Release {
    /// The last entry that the log lets go of: the log begins behind it. A snapshot, or the machine itself, has all up to
    /// here durably.
    pub base: LogId,
    /// The log's last entry before those of this write, at least the base: entries behind it are gone too.
    pub last: LogIndex,
    /// The voters at `base`, to be found again when nothing in the log says them.
    pub voters: Vec<NodeId>,
}

/// A peer needs entries that this leader's log has let go of: it needs a snapshot. Until it has one, it is sent heartbeats.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Offer {
    /// The peer.
    pub peer: NodeId,
    /// A snapshot of this entry or of a later one will do.
    pub least: LogIndex,
}

/// Why old entries are needed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FetchFor {
    /// To be sent to a follower that is behind.
    Peer(NodeId),
    /// To be applied here (after a restart, or when the tail was dropped before it was applied).
    Apply,
}

/// A wish for entries `first..=last` from the log: at least one of them (if there is a first), and
/// not many more than `bytes_max` bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fetch {
    /// The reason for which the entries are wanted.
    pub purpose: FetchFor,
    /// The first entry wanted.
    pub first: LogIndex,
    /// The last entry wanted. Durable: the log can read it.
    pub last: LogIndex,
    /// Enough for now, in bytes of payload.
    pub bytes_max: usize,
}

/// Proof that a group's writes up to one are on disk.
///
/// Made by the log alone (`wal/src/stream.rs`); a test in `tools` checks who calls [`Durable::new`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Durable {
    group: GroupId,
    upto: WriteId,
}

impl Durable {
    /// States that every write of `group` up to and with `upto` is on disk.
    #[must_use]
    pub const fn new(group: GroupId, upto: WriteId) -> Self {
        Self { group, upto }
    }

    /// The durable state of a group that was never written is empty, which needs no proof.
    #[must_use]
    pub const fn of_nothing(group: GroupId) -> Self {
        Self { group, upto: WriteId::ZERO }
    }

    /// The group whose writes are durable.
    #[must_use]
    pub const fn group(&self) -> GroupId {
        self.group
    }

    /// The last durable write.
    #[must_use]
    pub const fn upto(&self) -> WriteId {
        self.upto
    }

    /// True if `write` is among the durable ones.
    #[must_use]
    pub fn covers(&self, write: WriteId) -> bool {
        write <= self.upto
    }
}

/// Vote requests, votes and acknowledgements: true only once the write under them is durable
/// (thesis §3.8).
#[derive(Debug)]
pub struct Promises {
    group: GroupId,
    after: WriteId,
    messages: Vec<Outgoing>,
}

impl Promises {
    pub(crate) fn new(group: GroupId, after: WriteId, messages: Vec<Outgoing>) -> Self {
        Self { group, after, messages }
    }

    /// The write that must be durable first.
    #[must_use]
    pub fn after(&self) -> WriteId {
        self.after
    }

    /// Gives the messages out. Panics if `durable` is another group's or does not reach far enough.
    #[must_use]
    pub fn release(self, durable: &Durable) -> Vec<Outgoing> {
        assert!(
            durable.group == self.group,
            "promise of {:?} released by {:?}'s write",
            self.group,
            durable.group
        );
        assert!(
            durable.covers(self.after),
            "promise of {:?} released before {:?} is durable (durable is {:?})",
            self.group,
            self.after,
            durable.upto
        );
        self.messages
    }
}

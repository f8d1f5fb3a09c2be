//! The work of one gathering of a shard.
//!
//! In:     filled by [`super::Shard::gather`].
//! Out:    one log batch, one message batch per peer and lane, one apply batch, reads, the answers that are due.
//! Cost:   kept and filled again: its lists keep their memory.
//! Fails:  never.
//! Source: RULES.md A4.

use super::{Answer, Slot};
use crate::clock::Nanos;
use bytes::Bytes;
use logdrive_net::Lane;
use logdrive_raft::{ApplyMax, EntryBatch, Fetch, GroupId, Message, NodeId, Write};
use logdrive_wal::Room;

/// Lanes to each peer, in the order of [`Lane::ALL`]: liveness (votes, heartbeats), then appends.
pub(super) const LANES: usize = Lane::ALL.len();

/// One group's part of the log batch.
pub(crate) struct WriteJob {
    pub(crate) group: GroupId,
    pub(crate) membership: Option<Bytes>,
    pub(crate) write: Write,
    /// How many of its entries the log has accepted so far. With the first of them went `membership` and the hard
    /// state.
    pub(crate) accepted: usize,
    /// Why it waits, if it does.
    pub(crate) waits_for: Room,
}

/// Committed entries for one group's machine. Answer with [`Shard::applied`].
pub(crate) struct ApplyJob {
    pub(crate) slot: Slot,
    pub(crate) entries: EntryBatch,
    /// Someone waits for replies.
    pub(crate) wanted: bool,
    /// The moment at which the entries, which are committed, were handed out.
    pub(crate) committed: Nanos,
}

/// A message of a group to a peer, beside those that its Raft sends.
pub(super) struct Notice {
    pub(super) peer: NodeId,
    pub(super) group: GroupId,
    pub(super) message: Message,
}

/// Old entries wanted from the log. Answer with [`Shard::fetched`].
pub(crate) struct FetchJob {
    pub(crate) group: GroupId,
    pub(crate) fetch: Fetch,
}

/// The work of one gathering. Kept and filled again: its lists keep their memory.
pub(crate) struct Round {
    /// The room that the turn still has for entries that machines apply.
    pub(crate) room: ApplyMax,
    pub(crate) writes: Vec<WriteJob>,
    /// By peer (the order of [`Shard::peers`]) and lane.
    pub(crate) outbox: Vec<[Vec<(GroupId, Message)>; LANES]>,
    pub(crate) applies: Vec<ApplyJob>,
    pub(crate) fetches: Vec<FetchJob>,
    pub(crate) answers: Vec<Answer>,
}

impl Round {
    /// The turn has taken in so many entries or commands: machines get as many more, so that no more wait for them than
    /// before.
    pub(crate) fn took_in(&mut self, entries: usize, bytes: usize) {
        self.room.entries = self.room.entries.saturating_add(entries);
        self.room.bytes = self.room.bytes.saturating_add(bytes);
    }
}

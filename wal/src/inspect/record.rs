//! One record of the log, as a reader of the log sees it.
//!
//! In:     a batch's body whose checksum holds.
//! Out:    [`Record`]s; the entries of a run one by one, their payloads where they stand.
//! Cost:   no allocation.
//! Fails:  never: the records were decoded before.

use crate::checksum::checksum;
use crate::format::{self, ENTRY_HEADER_BYTES, EntriesHead, Position, decode_entry_header};
use crate::snapshot::{Installing, SnapshotMark};
use logdrive_raft::{EntryKind, GroupId, HardState, LogIndex, Term};
use std::ops::RangeInclusive;

/// A record of the log.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// The first record of a segment, which says where the log before the segment ended.
    Start {
        /// Nothing at or behind this place counts. [`Position::ZERO`]: there was no segment before.
        end: Position,
        /// True if recovery ended the log there (a torn tail may lie behind `end`), false if nothing lies behind `end`.
        cut: bool,
    },
    /// A group's membership.
    Membership {
        /// The group.
        group: GroupId,
        /// The membership, as the embedder gave it.
        bytes: &'a [u8],
    },
    /// A group's hard state.
    HardState {
        /// The group.
        group: GroupId,
        /// Term, vote and commit index.
        state: HardState,
    },
    /// Entries of one group and term.
    Entries(Run<'a>),
    /// Entries of one group and term, copied before the segment that held them is given up.
    Carried(Run<'a>),
    /// The entries that a group no longer needs.
    Release {
        /// The group.
        group: GroupId,
        /// Entries up to this one are dead.
        index: LogIndex,
        /// The term of the entry at `index`.
        term: Term,
        /// The group's last entry from here on.
        last: LogIndex,
    },
    /// The group was destroyed.
    Tombstone {
        /// The group.
        group: GroupId,
        /// The replica that is gone was added at this index, and every earlier one is gone, too.
        since: LogIndex,
    },
    /// The group lost something and must not act.
    Fence {
        /// The group.
        group: GroupId,
        /// Where the group lost something.
        position: Position,
    },
    /// A group's snapshot.
    Snapshot {
        /// The group.
        group: GroupId,
        /// The snapshot, as the record describes it.
        mark: SnapshotMark,
        /// False if the content, which stands in the record, fails its checksum.
        is_whole: bool,
    },
    /// A group's machine is being replaced by a snapshot.
    Installing {
        /// The group.
        group: GroupId,
        /// The snapshot.
        installing: Installing,
    },
    /// The log was closed.
    Footer,
    /// A record of a kind that this version does not know and may skip.
    Optional,
}

impl<'a> Record<'a> {
    /// A view of a decoded record, with which `bytes` begin.
    pub(super) fn new(record: &format::Record<'a>, bytes: &'a [u8]) -> Self {
        let run = |head: &EntriesHead| Run::new(head, &bytes[..head.record_bytes as usize]);
        match record {
            format::Record::Start(start) => Self::Start { end: start.end, cut: start.cut },
            format::Record::Membership { group, bytes } => {
                Self::Membership { group: *group, bytes }
            }
            format::Record::HardState { group, state } => {
                Self::HardState { group: *group, state: *state }
            }
            format::Record::Entries(head) => Self::Entries(run(head)),
            format::Record::Carried(head) => Self::Carried(run(head)),
            format::Record::Release { group, release } => {
                let format::Release { index, term, last } = *release;
                Self::Release { group: *group, index, term, last }
            }
            format::Record::Tombstone { group, since } => {
                Self::Tombstone { group: *group, since: *since }
            }
            format::Record::Fence { group, position } => {
                Self::Fence { group: *group, position: *position }
            }
            format::Record::Snapshot(head) => {
                let content = &bytes[format::SNAPSHOT_HEAD_BYTES..][..head.content_bytes()];
                let is_whole = head.is_content(content);
                Self::Snapshot { group: head.group, mark: head.mark, is_whole }
            }
            format::Record::Installing { group, installing } => {
                Self::Installing { group: *group, installing: *installing }
            }
            format::Record::Footer => Self::Footer,
            format::Record::Optional => Self::Optional,
        }
    }

    /// The group that the record belongs to, if it belongs to a single group.
    #[must_use]
    pub fn group(&self) -> Option<GroupId> {
        match self {
            Self::Start { .. } | Self::Footer | Self::Optional => None,
            Self::Membership { group, .. }
            | Self::HardState { group, .. }
            | Self::Release { group, .. }
            | Self::Tombstone { group, .. }
            | Self::Fence { group, .. }
            | Self::Snapshot { group, .. }
            | Self::Installing { group, .. } => Some(*group),
            Self::Entries(run) | Self::Carried(run) => Some(run.group),
        }
    }

    /// The indexes of the record's entries, if it is a record of entries.
    #[must_use]
    pub fn range(&self) -> Option<RangeInclusive<LogIndex>> {
        match self {
            Self::Entries(run) | Self::Carried(run) => Some(run.first..=run.last()),
            _ => None,
        }
    }
}

/// Entries of one group and term, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The group.
    pub group: GroupId,
    /// The first entry's index.
    pub first: LogIndex,
    /// The term of all of them.
    pub term: Term,
    /// How many entries; at least one.
    pub count: u32,
    bytes: &'a [u8],
    headers_bytes: usize,
}

impl<'a> Run<'a> {
    fn new(head: &EntriesHead, bytes: &'a [u8]) -> Self {
        Self {
            group: head.group,
            first: head.first,
            term: head.term,
            count: head.count,
            bytes,
            headers_bytes: head.headers_bytes(),
        }
    }

    /// The last entry's index.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        self.first.forward(u64::from(self.count) - 1)
    }

    /// The entries in order.
    pub fn entries(&self) -> impl Iterator<Item = EntryView<'a>> + use<'a> {
        let (headers, mut payloads) = self.bytes.split_at(self.headers_bytes);
        let headers = &headers[format::ENTRIES_HEAD_BYTES..];
        let mut index = self.first;
        headers.chunks_exact(ENTRY_HEADER_BYTES).map(move |header| {
            let head = decode_entry_header(header).expect("verified with the record");
            let (payload, rest) = payloads.split_at(head.bytes);
            payloads = rest;
            let entry = EntryView { index, kind: head.kind, checksum: head.checksum, payload };
            index = index.next();
            entry
        })
    }
}

/// An entry where it stands in the log.
#[derive(Clone, Copy, Debug)]
pub struct EntryView<'a> {
    /// The entry's index in its group's log.
    pub index: LogIndex,
    /// The entry's kind.
    pub kind: EntryKind,
    /// The payload's checksum, which travels with the entry.
    pub checksum: u32,
    /// The entry's payload.
    pub payload: &'a [u8],
}

impl EntryView<'_> {
    /// Whether the payload is the one that its proposer gave, by the checksum.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        checksum(self.payload) == self.checksum
    }
}

//! An account of each segment: its bytes written, its bytes still needed, and the groups that these belong to.
//!
//! In:     records as they are written, replaced, released and carried.
//! Out:    which segment is cheap to give up, and whose records to look at.
//! Cost:   32 bytes per segment, 8 per group with a record in it; O(1) for the newest segment, else a search.
//! Fails:  an account that would fall below zero, or of a segment that is gone, is a broken invariant.
//! Source: Rosenblum & Ousterhout 1992 §3.3 (segment usage table).

use crate::format::{SegmentSeq, TOMBSTONE_RECORD_BYTES};
use hashbrown::HashMap;
use logdrive_raft::{GroupId, LogIndex};
use std::collections::VecDeque;

/// Groups that are gone for good.
pub(crate) type Tombstones = HashMap<GroupId, Tombstone>;

/// The latest tombstone of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tombstone {
    /// The replica that is gone was added at this index, and every earlier one is gone, too.
    pub(crate) since: LogIndex,
    /// The segment that holds the record.
    pub(crate) segment: SegmentSeq,
}

/// A tombstone was written to the newest segment, `into`, for the first time or again.
pub(crate) fn tombstone(
    tombstones: &mut Tombstones,
    group: GroupId,
    since: LogIndex,
    into: SegmentSeq,
    ledger: &mut Ledger,
) {
    let bytes = TOMBSTONE_RECORD_BYTES as u64;
    ledger.write(into, bytes);
    ledger.revive(into, bytes);
    if let Some(old) = tombstones.insert(group, Tombstone { since, segment: into }) {
        ledger.kill(old.segment, bytes);
    }
    ledger.enlist(group);
}

/// The accounts of all segments that hold the log, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    accounts: VecDeque<Account>,
    written: u64,
    live: u64,
    /// Of the live bytes, those of snapshots.
    snapshots: u64,
}

/// One segment's.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) seq: SegmentSeq,
    /// Record bytes put into it.
    pub(crate) written: u64,
    /// Record bytes that replay would miss.
    pub(crate) live: u64,
    /// Bytes of the file in use; zero while it is still written.
    pub(crate) used: u32,
    /// Every group that has a record in it, live or not.
    pub(crate) groups: Vec<GroupId>,
}

impl Ledger {
    /// Opens the account of a new segment, behind all others.
    pub(crate) fn begin(&mut self, seq: SegmentSeq) {
        let newest = self.accounts.back().map(|account| account.seq);
        assert!(newest < Some(seq), "account of {seq:?} opened behind {newest:?}");
        self.accounts.push_back(Account { seq, written: 0, live: 0, used: 0, groups: Vec::new() });
    }

    /// The newest segment is full, or ended, at byte `used`.
    pub(crate) fn end(&mut self, used: u32) {
        let newest = self.accounts.back_mut().expect("a segment was begun");
        newest.used = used;
        newest.groups.shrink_to_fit();
    }

    /// A group has a record in the newest segment, for the first time there.
    pub(crate) fn enlist(&mut self, group: GroupId) {
        self.accounts.back_mut().expect("a segment was begun").groups.push(group);
    }

    /// A record was written.
    pub(crate) fn write(&mut self, seq: SegmentSeq, bytes: u64) {
        self.account_mut(seq).written += bytes;
        self.written += bytes;
    }

    /// Bytes written count from now on.
    pub(crate) fn revive(&mut self, seq: SegmentSeq, bytes: u64) {
        let account = self.account_mut(seq);
        account.live += bytes;
        assert!(account.live <= account.written, "{} live of {}", account.live, account.written);
        self.live += bytes;
    }

    /// They no longer do.
    pub(crate) fn kill(&mut self, seq: SegmentSeq, bytes: u64) {
        let account = self.account_mut(seq);
        let left = account.live.checked_sub(bytes);
        account.live =
            left.unwrap_or_else(|| panic!("{bytes} of {} live bytes died", account.live));
        self.live -= bytes;
    }

    /// As [`Self::revive`], of a snapshot's record.
    pub(crate) fn revive_snapshot(&mut self, seq: SegmentSeq, bytes: u64) {
        self.revive(seq, bytes);
        self.snapshots += bytes;
    }

    /// As [`Self::kill`], of a snapshot's record.
    pub(crate) fn kill_snapshot(&mut self, seq: SegmentSeq, bytes: u64) {
        self.kill(seq, bytes);
        self.snapshots -= bytes;
    }

    /// Closes the oldest account. Panics if something in it is live.
    pub(crate) fn retire(&mut self, seq: SegmentSeq) {
        let oldest = self.oldest().seq;
        assert!(oldest == seq, "{seq:?} retired before {oldest:?}");
        self.close(seq);
    }

    /// Closes an account. Panics if something in it is live.
    pub(crate) fn close(&mut self, seq: SegmentSeq) {
        let at = self.accounts.binary_search_by_key(&seq, |account| account.seq);
        let closed = at.ok().and_then(|at| self.accounts.remove(at));
        let closed = closed.unwrap_or_else(|| panic!("{seq:?} has no account"));
        assert!(closed.live == 0, "{seq:?} given up with {} live bytes", closed.live);
        self.written -= closed.written;
    }

    pub(crate) fn oldest(&self) -> &Account {
        self.accounts.front().expect("a segment was begun")
    }

    pub(crate) fn newest(&self) -> &Account {
        self.accounts.back().expect("a segment was begun")
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    pub(crate) fn snapshots(&self) -> u64 {
        self.snapshots
    }

    fn account_mut(&mut self, seq: SegmentSeq) -> &mut Account {
        if self.accounts.back().is_some_and(|newest| newest.seq == seq) {
            return self.accounts.back_mut().expect("just seen");
        }
        let at = self.accounts.binary_search_by_key(&seq, |account| account.seq);
        &mut self.accounts[at.unwrap_or_else(|_| panic!("{seq:?} has no account"))]
    }
}

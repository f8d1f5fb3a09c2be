//! Room for what is to come: segments ordered ahead, and what is refused while none can be had.
//!
//! In:     what an append would take; which segments are made.
//! Out:    orders for segments; a refusal before anything is encoded.
//! Cost:   a sum over an append's entries.
//! Fails:  [`WalError::NoSpace`], [`WalError::TooLarge`].
//! Source: FAULTS.md W9.

use super::{Append, Spare, Wal};
use crate::disk::MakeSegment;
use crate::error::WalError;
use crate::format::{
    BLOCK_BYTES, ENTRIES_HEAD_BYTES, ENTRY_HEADER_BYTES, FORMAT_VERSION, HARD_STATE_RECORD_BYTES,
    Manifest, RECORD_ALIGN_BYTES, SegmentHeader, SegmentSeq, membership_record_bytes,
};
use logdrive_raft::EntryKind;

impl Wal {
    /// Refuses what cannot be encoded whole. The estimate is an upper bound: each batch and each segment boundary
    /// it may cross costs at most a block and a few headers.
    pub(super) fn check_room(&self, append: &Append<'_>) -> Result<(), WalError> {
        let max = self.entry_bytes_max();
        let mut bytes = HARD_STATE_RECORD_BYTES;
        if let Some(membership) = append.membership {
            bytes += membership_record_bytes(membership.len());
            if membership.len() > max {
                return Err(WalError::TooLarge { bytes: membership.len(), max });
            }
        }
        for entry in append.entries {
            if entry.payload.len() > max {
                return Err(WalError::TooLarge { bytes: entry.payload.len(), max });
            }
            bytes += entry.payload.len() + ENTRY_HEADER_BYTES;
        }
        if !self.no_space {
            return Ok(());
        }
        let runs = append.entries.chunk_by(|a, b| a.term == b.term).count();
        bytes += runs * (ENTRIES_HEAD_BYTES + RECORD_ALIGN_BYTES);
        let crossings = bytes / self.config.batch_bytes_max as usize + 2;
        bytes += crossings * (2 * BLOCK_BYTES);
        // A segment may be left early by one entry that does not fit its rest.
        let largest = append.entries.iter().map(|entry| entry.payload.len()).max().unwrap_or(0);
        let rest = self.active.image.len() - self.open.tail.min(self.active.image.len());
        let ready = self.ready_spares() * (self.active.image.len() / 2);
        // A new leader's no-op belongs to its election: refused, it would hold up the group's later votes.
        let is_election = append.entries.iter().all(|entry| entry.kind == EntryKind::Noop);
        let reserve = if is_election { 0 } else { self.active.image.len() / 8 };
        if bytes + largest + reserve > rest + ready { Err(WalError::NoSpace) } else { Ok(()) }
    }

    pub(super) fn ready_spares(&self) -> usize {
        self.spares.iter().filter(|spare| self.is_made(spare.seq)).count()
    }

    pub(super) fn is_made(&self, seq: SegmentSeq) -> bool {
        seq <= self.made
    }

    /// Orders segments so that there are always some ahead of the active one.
    pub(super) fn keep_spares(&mut self) {
        while self.spares.len() < self.config.spare_segments {
            let newest = self.spares.back().map_or(self.active.seq, |spare| spare.seq);
            let seq = SegmentSeq(newest.0.checked_add(1).expect("segment numbers are used up"));
            let id = (self.entropy)();
            self.order(seq, id, false);
            self.spares.push_back(Spare { seq, id });
        }
    }

    pub(super) fn order(&mut self, seq: SegmentSeq, id: u128, urgent: bool) {
        let identity = &self.config.identity;
        let header = SegmentHeader {
            version: FORMAT_VERSION,
            shard: self.config.shard,
            seq,
            id,
            store: identity.store,
            node: identity.node,
            incarnation: identity.incarnation,
            bytes: self.config.segment_bytes,
            cluster: identity.cluster.clone(),
        };
        let manifest = Manifest {
            version: FORMAT_VERSION,
            shard: self.config.shard,
            store: identity.store,
            node: identity.node,
            first: SegmentSeq(1),
            made: seq,
        };
        let make = MakeSegment {
            segment: seq,
            bytes: self.config.segment_bytes,
            header: header.encode(),
            manifest: manifest.encode(),
        };
        self.disk.make(make, urgent);
    }
}

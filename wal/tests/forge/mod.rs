//! A log's bytes, read and forged by FORMAT.md alone: nothing here is the log's own code.

#![allow(dead_code)] // Each test file uses its own part.

use crate::common::Sim;
use logdrive_raft::GroupId;
use logdrive_wal::SegmentSeq;
use std::ops::Range;

pub(crate) const BLOCK: usize = 4096;
pub(crate) const HEADER: usize = 56;
const START_RECORD: usize = 56;

/// A segment file.
#[derive(Clone)]
pub(crate) struct SegmentBytes(pub(crate) Vec<u8>);

/// Where the parts of a batch stand.
#[derive(Clone, Debug)]
pub(crate) struct BatchPlace {
    pub(crate) at: usize,
    pub(crate) records: Range<usize>,
    pub(crate) directory: Range<usize>,
    /// Behind the padding.
    pub(crate) end: usize,
    pub(crate) groups: Vec<GroupId>,
}

impl SegmentBytes {
    pub(crate) fn of(sim: &Sim, segment: SegmentSeq) -> Self {
        Self(sim.platter.segment(segment))
    }

    pub(crate) fn is_used(&self) -> bool {
        self.0[BLOCK] != 0
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn seeded(&self, bytes: &[u8]) -> u32 {
        crc(!crc(0, &self.0[24..40]), bytes)
    }

    /// The batches from the first block on, to the first place without one. Their checksums are not looked at.
    pub(crate) fn batches(&self) -> Vec<BatchPlace> {
        let mut found = Vec::new();
        let mut at = BLOCK;
        while at < self.0.len() && self.0[at..at + 4] == *b"LDB1" {
            let body = self.u32(at + 32) as usize;
            let groups = self.u32(at + 48) as usize;
            let directory = at + HEADER + body - 8 * groups..at + HEADER + body;
            let end = directory.end.next_multiple_of(BLOCK);
            found.push(BatchPlace {
                at,
                records: at + HEADER..directory.start,
                groups: directory.clone().step_by(8).map(|at| GroupId(self.u64(at))).collect(),
                directory,
                end,
            });
            at = end;
        }
        found
    }

    /// Makes a batch's checksums right again.
    pub(crate) fn sign(&mut self, batch: &BatchPlace) {
        let directory = self.seeded(&self.0[batch.directory.clone()]);
        self.put(batch.at + 52, &directory.to_le_bytes());
        let body = self.seeded(&self.0[batch.records.start..batch.directory.end]);
        self.put(batch.at + 36, &body.to_le_bytes());
        self.sign_batch_header(batch);
    }

    /// Makes the checksum of a batch's header right again.
    pub(crate) fn sign_batch_header(&mut self, batch: &BatchPlace) {
        let header = self.seeded(&self.0[batch.at + 8..batch.at + HEADER]);
        self.put(batch.at + 4, &header.to_le_bytes());
    }

    /// Makes the start record's checksum right again.
    pub(crate) fn sign_start(&mut self) {
        let at = BLOCK + HEADER;
        let sum = self.seeded(&self.0[at..at + 48]);
        self.put(at + 48, &sum.to_le_bytes());
    }

    /// Makes the checksum of the entries record at `at` right again.
    pub(crate) fn sign_entries(&mut self, at: usize) {
        let headers = 40 + 8 * self.u32(at + 32) as usize;
        let parts = [&self.0[at..at + 36], &self.0[at + 40..at + headers]].concat();
        let sum = self.seeded(&parts);
        self.put(at + 36, &sum.to_le_bytes());
    }

    /// Makes the checksum of the head of the snapshot record at `at` right again.
    pub(crate) fn sign_snapshot(&mut self, at: usize) {
        let sum = self.seeded(&self.0[at..at + 64]);
        self.put(at + 64, &sum.to_le_bytes());
    }

    /// Makes the segment header's checksum right again.
    pub(crate) fn sign_header(&mut self) {
        let sum = crc(0, &self.0[..BLOCK - 4]);
        self.put(BLOCK - 4, &sum.to_le_bytes());
    }

    /// The first batch's start record without its last four bytes, which no checksum of the record covers.
    pub(crate) fn start_record() -> Range<usize> {
        BLOCK + HEADER..BLOCK + HEADER + START_RECORD - 4
    }
}

/// The manifest with other numbers.
pub(crate) fn forge_manifest(sim: &Sim, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = sim.platter.manifest().unwrap();
    change(&mut bytes);
    let sum = crc(0, &bytes[..48]);
    bytes[48..52].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// CRC-32C bit by bit. With `state` 0 it starts from all ones, as usual; with another it starts from that one inverted.
pub(crate) fn crc(state: u32, bytes: &[u8]) -> u32 {
    let mut crc = !state;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

#[test]
fn the_forger_signs_as_the_log_does() {
    assert_eq!(crc(0, b"123456789"), 0xe306_9283);
    let sim = Sim::new(1);
    drop(sim.open());
    let whole = SegmentBytes::of(&sim, SegmentSeq(1));
    let mut forged = whole.clone();
    forged.sign_header();
    whole.batches().iter().for_each(|batch| forged.sign(batch));
    assert!(forged.0 == whole.0 && !whole.batches().is_empty());
}

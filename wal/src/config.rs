//! A stream's settings, checked once.
//!
//! In:     what the embedder wants.
//! Out:    what the log works with.
//! Fails:  [`WalError::Config`] for what cannot be.

use crate::disk::DriverChoice;
use crate::error::WalError;
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, DIRECTORY_ENTRY_BYTES, ENTRY_LEN_MASK, FIRST_BATCH_AT,
    RECORD_ALIGN_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, START_RECORD_BYTES,
    entries_record_bytes,
};
use crate::home::Identity;
use std::path::PathBuf;

/// Settings of one stream.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The stream's own directory: [`crate::Home::shard_dir`].
    pub dir: PathBuf,
    /// The identity of the directory that the stream is in.
    pub identity: Identity,
    /// Which of the node's streams.
    pub shard: u32,
    /// Size of new segments, in bytes: whole blocks of 4 KiB, 64 KiB to 1 GiB. Each stream keeps two or three
    /// times as much memory.
    pub segment_bytes: u64,
    /// A batch is closed when its records pass this many bytes.
    pub batch_bytes_max: u32,
    /// Writes in flight. Four is where it bends: 64 writers of 128 B reach 159,000, 181,000, 193,000 and 216,000 writes/s
    /// with 1, 2, 4 and 8; entries of 1 KiB, 16 at a time, 0.88, 1.21, 1.22 and 1.21 million/s; batches of 1 MiB 2.14,
    /// 2.29, 2.53 and 2.69 GB/s (`bench/rivals/raft-engine`, two cores, virtio disk).
    pub in_flight_max: usize,
    /// Segments made ahead of need for entries. Two more are made for votes on a full disk.
    pub spare_segments: usize,
    /// The most that the stream's segment files may come to, in bytes; at least six segments. `None`: no bound. Near
    /// it entries are refused, until [`crate::Wal::maintain`] has won back enough of what was released. A log opened
    /// at its quota goes over it by up to three segments, until as much is given back.
    pub log_bytes_max: Option<u64>,
    /// How to write.
    pub driver: DriverChoice,
}

impl Config {
    /// The usual settings: segments of 64 MiB, batches of 1 MiB, four writes in flight, one spare segment, no quota.
    #[must_use]
    pub fn new(dir: PathBuf, identity: Identity, shard: u32) -> Self {
        Self {
            dir,
            identity,
            shard,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            batch_bytes_max: 1 << 20,
            in_flight_max: 4,
            spare_segments: 1,
            log_bytes_max: None,
            driver: DriverChoice::Auto,
        }
    }

    /// The largest payload that an entry of such a stream may have, in bytes.
    #[must_use]
    pub fn entry_bytes_max(&self) -> usize {
        let segment = usize::try_from(self.segment_bytes).expect("segments fit memory");
        let overhead = FIRST_BATCH_AT as usize
            + BATCH_HEADER_BYTES
            + START_RECORD_BYTES
            + entries_record_bytes(1, 0)
            + RECORD_ALIGN_BYTES
            + DIRECTORY_ENTRY_BYTES;
        segment.saturating_sub(overhead).min(ENTRY_LEN_MASK as usize)
    }

    /// The segments that are made ahead of need: those for entries, and those for votes on a full disk.
    #[must_use]
    pub fn segments_ahead(&self) -> usize {
        self.spare_segments + VOTES_SEGMENTS
    }

    pub(crate) fn check(&self) -> Result<(), WalError> {
        let bad = |what: String| Err(WalError::Config(what));
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(BLOCK_BYTES as u64)
        {
            return bad(format!(
                "segments of {} bytes; {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX} in steps of \
                 {BLOCK_BYTES} are possible",
                self.segment_bytes
            ));
        }
        if !(BLOCK_BYTES..=BATCH_BYTES_LIMIT).contains(&(self.batch_bytes_max as usize)) {
            return bad(format!(
                "batches of {} bytes; {BLOCK_BYTES} to {BATCH_BYTES_LIMIT} are possible",
                self.batch_bytes_max
            ));
        }
        if !(1..=IN_FLIGHT_LIMIT).contains(&self.in_flight_max) {
            return bad(format!(
                "{} writes in flight; 1 to {IN_FLIGHT_LIMIT} are possible",
                self.in_flight_max
            ));
        }
        if !(1..=SPARES_LIMIT).contains(&self.spare_segments) {
            return bad(format!(
                "{} spare segments; 1 to {SPARES_LIMIT} are possible",
                self.spare_segments
            ));
        }
        let least = QUOTA_SEGMENTS_MIN * self.segment_bytes;
        if let Some(max) = self.log_bytes_max.filter(|max| *max < least) {
            return bad(format!(
                "a quota of {max} bytes; with segments of {} bytes it must be {least} bytes at least",
                self.segment_bytes
            ));
        }
        Ok(())
    }
}

/// The size of segments if nothing else is set.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
const BATCH_BYTES_LIMIT: usize = 64 << 20;
const IN_FLIGHT_LIMIT: usize = 64;
/// The fewest segments a log's quota ([`Config::log_bytes_max`]) may come to: two that entries leave alone (and a 64th of the
/// quota), the active one, one ahead of it, and two that hold the log. An empty log at such a quota takes a segment's bytes of payloads at once.
pub const QUOTA_SEGMENTS_MIN: u64 = 6;
const SPARES_LIMIT: usize = 4;
/// Segments that are made ahead of need and that entries leave alone: when the disk is full, votes go on in them
/// (`stream/renew.rs`).
pub(crate) const VOTES_SEGMENTS: usize = 2;

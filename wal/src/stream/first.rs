//! The batch that an open begins with: the start record, and the records that are written again.
//!
//! In:     the records that recovery kept of the last segment.
//! Out:    a durable segment that begins with them.
//! Cost:   a write more than the start record alone takes, if there are any.
//! Fails:  as any write; without room for the segment, [`WalError::NoSpace`]. Then nothing has changed: the stream ends
//!         where it did.
//! Source: RULES.md rules 8, 19, 23; W2, W7, W9.
//!
//! The start record ends the log before the records that are written again here, so that their older copies count no
//! more. So the block with the start record is written last, when everything behind that block is durable: a segment
//! without a start record counts as never used. Beside the start record the block holds only a filler of zeros, so it
//! does not matter which of the block's other sectors land.

use super::Wal;
use crate::error::WalError;
use crate::format::{BLOCK_BYTES, FIRST_BATCH_AT, encode_filler};
use crate::recovery::{MOVED_AT, Moved};
use crate::rules;

impl Wal {
    /// Puts records behind the start record. Recovery has told the index already where they stand.
    pub(super) fn take_over(&mut self, moved: Moved) {
        if moved.count == 0 {
            return;
        }
        let filler = MOVED_AT - self.tail.offset();
        encode_filler(self.tail.out(filler));
        self.tail.advance(filler);
        self.tail.take_over(moved);
    }

    /// Writes the first batch into its segment. Blocks.
    pub(super) fn write_first_batch(&mut self) -> Result<(), WalError> {
        let segment = self.tail.seq();
        let mut completed = Vec::new();
        while !self.is_made(segment) {
            self.poll(0, &mut completed)?;
            if !self.is_made(segment) {
                if self.space.supply().is_disk_full() {
                    return Err(WalError::NoSpace);
                }
                self.wait()?;
            }
        }
        self.close_batch();
        self.write_first_block_last();
        while self.pipeline.durable() < self.tail.position() {
            self.poll(0, &mut completed)?;
            if self.pipeline.durable() < self.tail.position() {
                self.wait()?;
            }
        }
        Ok(())
    }

    /// The first batch of the active segment, which was closed last, counts only once the block with its start record is
    /// on disk: that block is written when the rest of the batch is durable.
    pub(super) fn write_first_block_last(&mut self) {
        let start = FIRST_BATCH_AT as usize;
        let behind = start + BLOCK_BYTES..self.tail.closed();
        if rules::start_record_waits_for(&behind) {
            let first = self.tail.share(start..behind.start);
            self.pipeline.split_last(first, self.tail.share(behind));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::format::{
        BATCH_HEADER_BYTES, BLOCK_BYTES, DIRECTORY_ENTRY_BYTES, FIRST_BATCH_AT, SEGMENT_BYTES_MAX,
        START_RECORD_BYTES, is_segment_file_bytes,
    };
    use crate::stream::segment_bytes_for;

    /// The bug: the segment for such records was a block larger than the largest that an open accepts.
    #[test]
    fn a_full_segment_of_the_largest_size_that_is_written_again_can_be_opened() {
        let largest = usize::try_from(SEGMENT_BYTES_MAX).unwrap();
        for groups in [1, 100] {
            let beside = FIRST_BATCH_AT as usize
                + BATCH_HEADER_BYTES
                + START_RECORD_BYTES
                + groups * DIRECTORY_ENTRY_BYTES;
            let again = segment_bytes_for(BLOCK_BYTES + largest - beside, groups);
            assert!(again > SEGMENT_BYTES_MAX && is_segment_file_bytes(again), "{again}");
        }
        assert!(!is_segment_file_bytes(SEGMENT_BYTES_MAX + 2 * BLOCK_BYTES as u64));
        assert!(!is_segment_file_bytes(SEGMENT_BYTES_MAX + 512));
    }
}

//! Evidence that the log's last batch was durable: a seal when nothing is written for a while, a footer at the end.
//!
//! In:     the embedder's word that the log is idle, or is closed.
//! Out:    a batch of no records, or of a footer.
//! Cost:   one block, once per pause.
//! Fails:  as any write. Without room there is no seal and no footer: then nothing vouches for the last batch, and
//!         nothing else is lost.
//! Source: RULES.md rule 22; C2, C3.

use super::{Room, Wal};
use crate::error::WalError;
use crate::format::{FOOTER_RECORD_BYTES, encode_footer};

impl Wal {
    /// Writes a batch of no records, which says that all before it is durable, if that is so and no batch says it yet:
    /// from then on damage to the last batch can be told from a torn tail. To be called when nothing was written for a
    /// while; a second call does nothing. Never blocks. `stamp` as in [`Wal::submit`].
    ///
    /// # Errors
    /// As [`Wal::submit`].
    pub fn seal(&mut self, stamp: u64) -> Result<(), WalError> {
        self.check_poisoned()?;
        if self.is_sealed() || self.has_work() || self.room() != Room::Free || !self.fits_soon(0) {
            return Ok(());
        }
        // If the seal needs a new segment, that segment's start record says the same.
        self.reserve(0)?;
        self.close_open();
        self.pipeline.seal_upto(self.tail.position());
        self.pump(stamp)
    }

    /// True if a seal would say nothing new.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.pipeline.sealed_upto() == self.tail.position() && !self.tail.has_open()
    }

    /// Puts a footer in a batch of its own behind everything durable.
    pub(super) fn append_footer(&mut self) -> Result<(), WalError> {
        if self.fits_soon(FOOTER_RECORD_BYTES) {
            self.reserve(FOOTER_RECORD_BYTES)?;
            let used = encode_footer(self.tail.out(FOOTER_RECORD_BYTES));
            self.tail.advance(used);
        }
        Ok(())
    }
}

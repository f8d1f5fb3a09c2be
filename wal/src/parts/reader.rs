//! Gives a snapshot's content back, part after part.
//!
//! In:     a table.
//! Out:    its content, of which no byte is given before its whole part was held against the part's digest.
//! Cost:   one part in memory, its read, its hash.
//! Fails:  with the part that is missing, damaged or unreadable; all bytes given until then are right.
//! Source: RULES.md rule 29, C11.

use super::{PartsError, Table, files::Dir};
use std::io::{self, Read};

/// A snapshot's content, as a stream of bytes.
#[derive(Debug)]
pub struct SnapshotReader {
    dir: Dir,
    table: Table,
    next: usize,
    part: Vec<u8>,
    given: usize,
}

impl SnapshotReader {
    pub(super) fn new(dir: Dir, table: Table) -> Self {
        Self { dir, table, next: 0, part: Vec::new(), given: 0 }
    }

    /// The snapshot's table.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The bytes of the next part; `None` behind the last one. Bytes of an earlier part that [`Read`] has not given are
    /// passed over.
    ///
    /// # Errors
    /// [`PartsError`].
    pub fn next_part(&mut self) -> Result<Option<&[u8]>, PartsError> {
        let Some(part) = self.table.parts().get(self.next) else { return Ok(None) };
        self.part = self.dir.read_part(*part)?;
        self.next += 1;
        self.given = self.part.len();
        Ok(Some(&self.part))
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.given == self.part.len() {
            if self.next_part().map_err(io::Error::other)?.is_none() {
                return Ok(0);
            }
            self.given = 0;
        }
        let given = out.len().min(self.part.len() - self.given);
        out[..given].copy_from_slice(&self.part[self.given..][..given]);
        self.given += given;
        Ok(given)
    }
}

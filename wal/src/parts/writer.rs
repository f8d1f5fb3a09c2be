//! Cuts a stream of bytes into parts, and makes them durable one after the other.
//!
//! In:     bytes, as a state is encoded.
//! Out:    the table of a snapshot that is durable.
//! Cost:   a copy into the part at hand, its hash, its write, its sync.
//! Fails:  with the file system's error; what was written stays without a table, and is no snapshot.
//! Source: RULES.md rule 29.

use super::{
    PART_BYTES_MAX, Part, PartsError, Table, digest,
    files::{Dir, Name},
};
use crate::image::{Image, ImageWriter};
use logdrive_raft::{GroupId, LogId};
use std::io::{self, Write};

/// A snapshot that is being written. Dropped before [`Self::finish`], it was never there.
#[derive(Debug)]
pub struct SnapshotWriter {
    dir: Dir,
    group: GroupId,
    at: LogId,
    /// The part at hand.
    buffer: ImageWriter,
    filled: usize,
    parts: Vec<Part>,
}

impl SnapshotWriter {
    pub(super) fn new(dir: Dir, group: GroupId, at: LogId) -> Result<Self, PartsError> {
        let image = Image::new(PART_BYTES_MAX as usize);
        let mut image = image.map_err(super::failed(dir.place(), "getting memory to write"))?;
        let buffer = ImageWriter::claim(&mut image).expect("a new image has one owner");
        Ok(Self { dir, group, at, buffer, filled: 0, parts: Vec::new() })
    }

    /// Makes the snapshot durable, and gives its table.
    ///
    /// # Errors
    /// [`PartsError::Io`]; [`PartsError::Table`] if it has too many parts.
    pub fn finish(mut self) -> Result<Table, PartsError> {
        self.end_part()?;
        let table = Table::new(self.group, self.at, self.parts)?;
        let bytes = table.encode();
        // All names of parts before that of the table.
        self.dir.sync()?;
        self.dir.write_whole(Name::Table(digest(&bytes)), &bytes)?;
        self.dir.sync()?;
        Ok(table)
    }

    fn end_part(&mut self) -> Result<(), PartsError> {
        if self.filled == 0 {
            return Ok(());
        }
        let digest = digest(self.buffer.bytes(0..self.filled));
        let bytes = u32::try_from(self.filled).expect("at most PART_BYTES_MAX");
        let part = Part { digest, bytes };
        // An earlier snapshot of the group may have it, if its bytes are still what they were.
        if !self.dir.has_sound(part)? {
            self.dir.write_part(digest, &mut self.buffer, self.filled)?;
        }
        self.parts.push(part);
        self.filled = 0;
        Ok(())
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.filled == self.buffer.len() {
            self.end_part().map_err(io::Error::other)?;
        }
        let taken = bytes.len().min(self.buffer.len() - self.filled);
        let range = self.filled..self.filled + taken;
        self.buffer.tail_mut(range).copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        Ok(taken)
    }

    /// Does nothing: nothing is durable before the snapshot is finished.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! Large snapshots in files: a table and parts, each named by the digest of its bytes.
//!
//! In:     a state as a stream of bytes ([`SnapshotWriter`]); or a table that a peer offers, and its parts as they come
//!         ([`PartStore::begin`], [`PartStore::put`], [`PartStore::complete`]); the snapshots that are still needed.
//! Out:    a snapshot that is durable and whole, or none; its content ([`SnapshotReader`]), or one part of it, only after its
//!         bytes were held against its digest.
//! Cost:   one write of the content, past the page cache where the file system lets it, at a bounded rate; one sync for each
//!         part of up to 4 MiB, one for the table, and two of the directory. Only one sync of a store runs at a time. Two
//!         snapshots of a group share the parts that are alike. A writer or reader holds one part in memory.
//! Fails:  [`PartsError`], with the file. A part that is not what its name says is never given out; want of room leaves
//!         what is durable.
//! Source: RULES.md rule 29, C11; FORMAT.md has the names, `table.rs` the table.
//!
//! Blocks on the disk: not for a shard's thread. A group's directory is changed by one thread at a time.
//!
//! The steps of a write, each of which a crash may be the last one before:
//!
//! 1. a part is written under a temporary name, synced, and gets its name;
//! 2. after the last part the table is written, synced, and gets its name;
//! 3. the directory is synced, which makes all names durable. Only then the snapshot is reported, and its digest may stand
//!    in the log.
//!
//! A crash before that leaves parts without a table. They are no snapshot, and [`PartStore::keep_only`] removes them; but
//! for a table that was begun from a peer's offer ([`PartStore::begin`]): its parts stay, and the next try needs only those
//! that are missing.

mod files;
mod reader;
mod table;
mod writer;

pub use reader::SnapshotReader;
pub use table::{BadTable, PART_BYTES_MAX, PARTS_MAX, Part, TABLE_BYTES_MAX, Table, digest};
pub use writer::SnapshotWriter;

use files::{Dir, Name, Pacer};
use logdrive_raft::{GroupId, LogId};
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The snapshots of a node that are in files, a directory for each group.
#[derive(Clone, Debug)]
pub struct PartStore {
    dir: PathBuf,
    pacer: Arc<Pacer>,
}

/// The store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartsError {
    /// The file system refused something.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operation that failed.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{} is damaged: {why}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The kind of damage.
        why: Damage,
    },
    /// There is no such file.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    /// Bytes that were handed over are not those that their name says.
    #[error("bytes of a part whose digest is {found:032x}, not {wanted:032x}")]
    OtherBytes {
        /// The name.
        wanted: u128,
        /// The bytes' own digest.
        found: u128,
    },
    /// There cannot be such a snapshot.
    #[error("there cannot be such a snapshot: {0}")]
    Table(#[from] BadTable),
}

/// A kind of damage to a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// Its bytes have another digest.
    #[error("the digest of its bytes is {0:032x}")]
    Digest(u128),
    /// It has another size.
    #[error("it has {found} bytes, not {wanted}")]
    Bytes {
        /// Its size.
        found: u64,
        /// The size that its table states, or the most that it may have.
        wanted: u64,
    },
    /// It has the digest that its name says, and is no table.
    #[error(transparent)]
    Table(#[from] BadTable),
    /// It is the table of another group.
    #[error("it is of group {0}")]
    Group(u64),
}

impl PartStore {
    /// Opens the store in `dir`, which is made if it is not there, and removes what writers have left half done. At most
    /// `bytes_per_second` are written.
    ///
    /// # Errors
    /// [`PartsError::Io`].
    pub fn open(dir: &Path, bytes_per_second: u64) -> Result<Self, PartsError> {
        files::make_dir(dir)?;
        let store = Self { dir: dir.to_owned(), pacer: Arc::new(Pacer::new(bytes_per_second)) };
        for group in store.groups()? {
            store.dir(group).remove(|name| matches!(name, Name::Temporary))?;
        }
        Ok(store)
    }

    /// The groups that have files, by id.
    ///
    /// # Errors
    /// [`PartsError::Io`].
    pub fn groups(&self) -> Result<Vec<GroupId>, PartsError> {
        let mut groups: Vec<_> =
            files::list(&self.dir)?.iter().filter_map(|name| files::group_of(name)).collect();
        groups.sort_unstable();
        Ok(groups)
    }

    /// Begins a snapshot of `group` that has all entries up to `at`. It is there once [`SnapshotWriter::finish`] says so.
    ///
    /// # Errors
    /// [`PartsError::Io`]; [`PartsError::Table`] if no snapshot can be at `at`.
    pub fn write(&self, group: GroupId, at: LogId) -> Result<SnapshotWriter, PartsError> {
        // Before anything is written.
        Table::new(group, at, Vec::new())?;
        SnapshotWriter::new(self.made_dir(group)?, group, at)
    }

    /// The table of a snapshot that is whole.
    ///
    /// # Errors
    /// [`PartsError::Missing`] if there is none of this name; [`PartsError::Corrupt`]; [`PartsError::Io`].
    pub fn table(&self, group: GroupId, digest: u128) -> Result<Table, PartsError> {
        self.dir(group).read_table(group, Name::Table(digest))
    }

    /// Reads a snapshot's content, part after part.
    #[must_use]
    pub fn read(&self, table: &Table) -> SnapshotReader {
        SnapshotReader::new(self.dir(table.group()), table.clone())
    }

    /// The bytes of one part, for a peer.
    ///
    /// # Errors
    /// [`PartsError::Missing`], [`PartsError::Corrupt`] or [`PartsError::Io`].
    pub fn read_part(&self, group: GroupId, part: Part) -> Result<Vec<u8>, PartsError> {
        self.dir(group).read_part(part)
    }

    /// Takes on a snapshot that a peer offers, durably: from now on its parts are kept. It takes the place of one that was
    /// begun before.
    ///
    /// # Errors
    /// [`PartsError::Io`].
    pub fn begin(&self, table: &Table) -> Result<(), PartsError> {
        let dir = self.made_dir(table.group())?;
        let begun = Name::Begun(table.digest());
        dir.write_whole(begun, &table.encode())?;
        dir.sync()?;
        dir.remove(|name| matches!(name, Name::Begun(_)) && *name != begun)
    }

    /// The snapshot that was begun and is not whole, if there is one: after a restart the transfer goes on with it.
    ///
    /// # Errors
    /// [`PartsError::Io`]; [`PartsError::Corrupt`]: then it has to be begun again.
    pub fn begun(&self, group: GroupId) -> Result<Option<Table>, PartsError> {
        let dir = self.dir(group);
        let begun = dir.names()?.into_iter().find(|name| matches!(name, Name::Begun(_)));
        begun.map(|name| dir.read_table(group, name)).transpose()
    }

    /// The parts of a table that are not here, each once. Looks at names and sizes; the bytes are looked at when they are read.
    ///
    /// # Errors
    /// [`PartsError::Io`].
    pub fn missing(&self, table: &Table) -> Result<Vec<Part>, PartsError> {
        let dir = self.dir(table.group());
        let mut seen = BTreeSet::new();
        let mut missing = Vec::new();
        for part in table.parts().iter().filter(|part| seen.insert(part.digest)) {
            if dir.size(Name::Part(part.digest))? != Some(part.bytes.into()) {
                missing.push(*part);
            }
        }
        Ok(missing)
    }

    /// Keeps a part that came from a peer. Its bytes are durable afterwards, its name with the next
    /// [`Self::complete`].
    ///
    /// # Errors
    /// [`PartsError::OtherBytes`]: nothing was written. [`PartsError::Io`].
    pub fn put(&self, group: GroupId, wanted: u128, bytes: &[u8]) -> Result<(), PartsError> {
        let found = digest(bytes);
        if found != wanted {
            return Err(PartsError::OtherBytes { wanted, found });
        }
        self.made_dir(group)?.write_whole(Name::Part(wanted), bytes)
    }

    /// Makes a snapshot that was begun a whole one, durably, once no part of it is missing.
    ///
    /// # Errors
    /// [`PartsError::Missing`] with the first part that is; [`PartsError::Io`].
    pub fn complete(&self, table: &Table) -> Result<(), PartsError> {
        let dir = self.dir(table.group());
        if let Some(part) = self.missing(table)?.first() {
            return Err(PartsError::Missing(dir.path(Name::Part(part.digest))));
        }
        let digest = table.digest();
        // All names of parts before that of the table.
        dir.sync()?;
        dir.rename(Name::Begun(digest), Name::Table(digest))?;
        dir.sync()
    }

    /// Removes all of a group's files but those of the snapshots in `kept` and of the one that is begun. The caller keeps
    /// those that the log names, and those that are read or being sent; no writer of the group may be at work.
    ///
    /// # Errors
    /// [`PartsError::Corrupt`] or [`PartsError::Missing`] of a table in `kept`: nothing was removed, as its parts are not
    /// known. [`PartsError::Io`].
    pub fn keep_only(&self, group: GroupId, kept: &[u128]) -> Result<(), PartsError> {
        let dir = self.dir(group);
        let mut wanted = BTreeSet::new();
        for digest in kept {
            wanted.insert(Name::Table(*digest));
            let table = self.table(group, *digest)?;
            wanted.extend(table.parts().iter().map(|part| Name::Part(part.digest)));
        }
        match self.begun(group) {
            Ok(Some(table)) => {
                wanted.insert(Name::Begun(table.digest()));
                wanted.extend(table.parts().iter().map(|part| Name::Part(part.digest)));
            }
            // One that is damaged is begun again.
            Ok(None) | Err(PartsError::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
        if wanted.is_empty() {
            return dir.remove_all();
        }
        // Tables first: a table whose parts are gone would be no snapshot.
        let is_unwanted = |name: &Name| !wanted.contains(name);
        dir.remove(|name| !matches!(name, Name::Part(_)) && is_unwanted(name))?;
        dir.remove(is_unwanted)
    }

    fn dir(&self, group: GroupId) -> Dir {
        Dir::new(self.dir.join(files::name_of(group)), Arc::clone(&self.pacer))
    }

    fn made_dir(&self, group: GroupId) -> Result<Dir, PartsError> {
        let dir = self.dir(group);
        dir.make()?;
        Ok(dir)
    }
}

fn failed<'a>(path: &'a Path, doing: &'static str) -> impl Fn(io::Error) -> PartsError + 'a {
    move |source| PartsError::Io { path: path.to_owned(), doing, source }
}

#[cfg(test)]
mod tests;

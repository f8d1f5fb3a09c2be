//! The files of one group's snapshots: their names, and how they become durable.
//!
//! In:     bytes and the name they are to have.
//! Out:    a file whose bytes are durable; its name is with [`Dir::sync`].
//! Cost:   as the store's header says. Writes wait for their turn by the store's rate.
//! Fails:  with the file system's error. A file that could not be written whole keeps its temporary name.
//! Source: RULES.md rules 26 (directory syncs), 29.

use super::{
    Damage, PART_BYTES_MAX, Part, PartsError, Table, digest, failed, table::TABLE_BYTES_MAX,
};
use crate::disk::{TEMPORARY_SUFFIX, create, open_to_read, sync_dir, sync_file};
use crate::format::BLOCK_BYTES;
use crate::image::ImageWriter;
use logdrive_raft::GroupId;
use rustix::fs::{Advice, OFlags, fadvise};
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// One group's directory.
#[derive(Clone, Debug)]
pub(super) struct Dir {
    path: PathBuf,
    pacer: Arc<Pacer>,
}

/// A file of this store.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Name {
    /// The table of a snapshot that is whole.
    Table(u128),
    /// The table of one that is being fetched.
    Begun(u128),
    Part(u128),
    /// Something that was not written whole.
    Temporary,
}

impl Name {
    fn of(file: &str) -> Option<Self> {
        if file.strip_suffix(TEMPORARY_SUFFIX).is_some_and(|name| Self::of(name).is_some()) {
            return Some(Self::Temporary);
        }
        let (digits, suffix) = file.split_at_checked(32)?;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let digest =
            digits.bytes().all(is_digit).then(|| u128::from_str_radix(digits, 16).ok())??;
        match suffix {
            ".table" => Some(Self::Table(digest)),
            ".begun" => Some(Self::Begun(digest)),
            ".part" => Some(Self::Part(digest)),
            _ => None,
        }
    }

    fn file(self) -> String {
        match self {
            Self::Table(digest) => format!("{digest:032x}.table"),
            Self::Begun(digest) => format!("{digest:032x}.begun"),
            Self::Part(digest) => format!("{digest:032x}.part"),
            Self::Temporary => unreachable!("temporary files are named after others"),
        }
    }
}

/// The name of a group's directory.
pub(super) fn name_of(group: GroupId) -> String {
    format!("{:016x}", group.get())
}

/// The group whose directory has this name; `None` if it is not this store's.
pub(super) fn group_of(name: &str) -> Option<GroupId> {
    let group = GroupId(u64::from_str_radix(name, 16).ok()?);
    (name_of(group) == name).then_some(group)
}

/// The names in a directory, of whatever is there.
pub(super) fn list(dir: &Path) -> Result<Vec<String>, PartsError> {
    let entries = fs::read_dir(dir).map_err(failed(dir, "reading"))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().map_err(failed(dir, "reading"))
}

/// Makes a directory, if it is not there, that only this user may look into.
pub(super) fn make_dir(dir: &Path) -> Result<(), PartsError> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(failed(dir, "making")(error)),
        Ok(()) => {
            let parent = dir.parent().filter(|parent| *parent != Path::new(""));
            let parent = parent.unwrap_or(Path::new("."));
            sync_dir(parent).map_err(failed(parent, "syncing"))
        }
    }
}

impl Dir {
    pub(super) fn new(path: PathBuf, pacer: Arc<Pacer>) -> Self {
        Self { path, pacer }
    }

    pub(super) fn place(&self) -> &Path {
        &self.path
    }

    pub(super) fn path(&self, name: Name) -> PathBuf {
        self.path.join(name.file())
    }

    pub(super) fn make(&self) -> Result<(), PartsError> {
        make_dir(&self.path)
    }

    /// The files of this store; none if the group has no directory. Others are passed over.
    pub(super) fn names(&self) -> Result<Vec<Name>, PartsError> {
        match list(&self.path) {
            Ok(names) => Ok(names.iter().filter_map(|name| Name::of(name)).collect()),
            Err(PartsError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// The size of a file; `None` if it is not there.
    pub(super) fn size(&self, name: Name) -> Result<Option<u64>, PartsError> {
        let path = self.path(name);
        match fs::symlink_metadata(&path) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path, "looking at")(error)),
        }
    }

    /// True if a part is here with the bytes that its name says.
    pub(super) fn has_sound(&self, part: Part) -> Result<bool, PartsError> {
        match self.read_part(part) {
            Ok(_) => Ok(true),
            Err(PartsError::Missing(_) | PartsError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The bytes of a part, which are what its name says.
    pub(super) fn read_part(&self, part: Part) -> Result<Vec<u8>, PartsError> {
        let name = Name::Part(part.digest);
        let bytes = self.read(name, u64::from(part.bytes.min(PART_BYTES_MAX)))?;
        if bytes.len() as u64 != u64::from(part.bytes) {
            let why = Damage::Bytes { found: bytes.len() as u64, wanted: part.bytes.into() };
            return Err(PartsError::Corrupt { path: self.path(name), why });
        }
        self.check(name, part.digest, &bytes)?;
        Ok(bytes)
    }

    /// The table of this name, which is of this group.
    pub(super) fn read_table(&self, group: GroupId, name: Name) -> Result<Table, PartsError> {
        let (Name::Table(digest) | Name::Begun(digest)) = name else {
            unreachable!("{name:?} is no table")
        };
        let bytes = self.read(name, TABLE_BYTES_MAX)?;
        self.check(name, digest, &bytes)?;
        let corrupt = |why| PartsError::Corrupt { path: self.path(name), why };
        let table = Table::decode(&bytes).map_err(|bad| corrupt(bad.into()))?;
        if table.group() != group {
            return Err(corrupt(Damage::Group(table.group().get())));
        }
        Ok(table)
    }

    fn check(&self, name: Name, wanted: u128, bytes: &[u8]) -> Result<(), PartsError> {
        let found = digest(bytes);
        if found == wanted {
            return Ok(());
        }
        Err(PartsError::Corrupt { path: self.path(name), why: Damage::Digest(found) })
    }

    /// Reads a file whole. One of more than `max` bytes is damaged.
    fn read(&self, name: Name, max: u64) -> Result<Vec<u8>, PartsError> {
        let path = self.path(name);
        let file = match open_to_read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PartsError::Missing(path));
            }
            Err(error) => return Err(failed(&path, "opening")(error)),
        };
        let mut bytes = Vec::new();
        let found = file.metadata().map_err(failed(&path, "looking at"))?.len();
        if found > max {
            let why = Damage::Bytes { found, wanted: max };
            return Err(PartsError::Corrupt { path, why });
        }
        bytes.reserve_exact(usize::try_from(found).expect("at most `max`"));
        // It may have grown since.
        let read = (&file).take(max).read_to_end(&mut bytes);
        read.map_err(failed(&path, "reading"))?;
        // It is read once, and takes the place of what is needed more. Without it the kernel forgets it later.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
        Ok(bytes)
    }

    /// Writes a part, of which the first `filled` bytes of `buffer` are the bytes, past the page cache if that can be.
    pub(super) fn write_part(
        &self,
        digest: u128,
        buffer: &mut ImageWriter,
        filled: usize,
    ) -> Result<(), PartsError> {
        let padded = filled.next_multiple_of(BLOCK_BYTES);
        // Behind the part's end, where the file is cut.
        buffer.tail_mut(filled..padded).fill(0);
        let bytes = buffer.bytes(0..padded);
        self.write_named(Name::Part(digest), OFlags::DIRECT, |file, path| {
            match self.write_paced(file, bytes) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    // A file system that takes the flag and refuses the write.
                    let file = create(path, WRITE | OFlags::TRUNC)?;
                    self.write_paced(&file, bytes)?;
                    self.end(&file, path, filled)
                }
                Err(error) => Err(error),
                Ok(()) => self.end(file, path, filled),
            }
        })
    }

    /// Writes a file whole. Its bytes are durable afterwards.
    pub(super) fn write_whole(&self, name: Name, bytes: &[u8]) -> Result<(), PartsError> {
        self.write_named(name, OFlags::empty(), |file, path| {
            self.write_paced(file, bytes)?;
            self.end(file, path, bytes.len())
        })
    }

    /// Cuts the file, and syncs it when no other sync of the store runs.
    fn end(&self, file: &File, path: &Path, bytes: usize) -> io::Result<()> {
        file.set_len(bytes as u64)?;
        let _one = self.pacer.sync.lock().unwrap_or_else(PoisonError::into_inner);
        sync_file(file, path)
    }

    fn write_named(
        &self,
        name: Name,
        flags: OFlags,
        write: impl FnOnce(&File, &Path) -> io::Result<()>,
    ) -> Result<(), PartsError> {
        let path = self.path(name);
        let temporary = self.path.join(format!("{}{TEMPORARY_SUFFIX}", name.file()));
        let created = match create(&temporary, WRITE | OFlags::TRUNC | flags) {
            // A file system that does not take the flag.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                create(&temporary, WRITE | OFlags::TRUNC)
            }
            created => created,
        };
        let written = created.and_then(|file| write(&file, &temporary));
        if let Err(error) = written {
            // It gives its room back. Its name says that it is half made, so leaving it would be harmless.
            let _ = fs::remove_file(&temporary);
            return Err(failed(&path, "writing")(error));
        }
        crate::disk::rename(&temporary, &path).map_err(failed(&path, "naming"))
    }

    /// Writes at the store's rate.
    fn write_paced(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        for (at, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
            self.pacer.wait_for(chunk.len());
            file.write_all_at(chunk, (at * CHUNK_BYTES) as u64)?;
        }
        Ok(())
    }

    pub(super) fn rename(&self, from: Name, to: Name) -> Result<(), PartsError> {
        let path = self.path(from);
        match crate::disk::rename(&path, &self.path(to)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(PartsError::Missing(path)),
            renamed => renamed.map_err(failed(&path, "naming")),
        }
    }

    /// Makes all names durable.
    pub(super) fn sync(&self) -> Result<(), PartsError> {
        let _one = self.pacer.sync.lock().unwrap_or_else(PoisonError::into_inner);
        sync_dir(&self.path).map_err(failed(&self.path, "syncing"))
    }

    /// Removes the files of this store that are such. A crash may bring them back.
    pub(super) fn remove(&self, is_such: impl Fn(&Name) -> bool) -> Result<(), PartsError> {
        let names = match list(&self.path) {
            Err(PartsError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            names => names?,
        };
        for file in names {
            if Name::of(&file).is_some_and(|name| is_such(&name)) {
                let path = self.path.join(file);
                fs::remove_file(&path).map_err(failed(&path, "removing"))?;
            }
        }
        Ok(())
    }

    /// Removes all files of this store, and the directory if nothing else is in it.
    pub(super) fn remove_all(&self) -> Result<(), PartsError> {
        self.remove(|name| !matches!(name, Name::Part(_)))?;
        self.remove(|_| true)?;
        match fs::remove_dir(&self.path) {
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Err(failed(&self.path, "removing")(error))
            }
            _ => Ok(()),
        }
    }
}

/// Bounds the rate of all writes of a store, and lets one sync run at a time.
#[derive(Debug)]
pub(super) struct Pacer {
    bytes_per_second: u64,
    /// The end of the time that all writes so far may take.
    free_at: Mutex<Option<Instant>>,
    sync: Mutex<()>,
}

impl Pacer {
    /// Panics if nothing may ever be written.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        assert!(bytes_per_second > 0, "a rate of 0 bytes a second");
        Self { bytes_per_second, free_at: Mutex::new(None), sync: Mutex::new(()) }
    }

    /// Waits until so many bytes may be written.
    fn wait_for(&self, bytes: usize) {
        let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        #[expect(clippy::disallowed_methods, reason = "the rate of writes")]
        let now = Instant::now();
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = free_at.map_or(now, |at| at.max(now));
        *free_at = Some(begins + time);
        drop(free_at);
        std::thread::sleep(begins - now);
    }
}

const WRITE: OFlags = OFlags::CREATE.union(OFlags::RDWR).union(OFlags::CLOEXEC);
/// Bytes written between two looks at the rate.
const CHUNK_BYTES: usize = 256 << 10;

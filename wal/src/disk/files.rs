//! The files of one stream's directory: their names, how they are opened, made and listed.
//!
//! In:     a directory; orders for segments.
//! Out:    open files, directory entries that are durable.
//! Cost:   making a segment writes it whole, in chunks; making one of an old file writes its header.
//! Fails:  with the file system's error; a half-made segment keeps its temporary name.
//! Source: RULES.md rules 7 (pre-writing), 26 (directory syncs), W11.

use super::{Fate, MakeSegment, SegmentFile, SegmentReader, is_no_space, steps};
use crate::format::{BLOCK_BYTES, Manifest, SegmentSeq};
use crate::image::{Image, ImageWriter};
use crate::sealed::{LastRead, SealedSegment};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, StatxFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One stream's directory.
#[derive(Clone, Debug)]
pub(super) struct Files {
    dir: PathBuf,
    /// The directory, open: a name that was changed is made durable without a file descriptor more, so that a lack of
    /// descriptors never comes between the change and the sync.
    handle: Arc<File>,
    /// The directory as it was when it was opened.
    id: FileId,
    /// Files are opened for direct writes.
    direct: bool,
    /// Direct writes go past the page cache.
    past_cache: bool,
    last_read: Arc<LastRead>,
}

/// A file or directory, the same by each of its names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl Files {
    /// Looks at a directory, whether its file system takes direct writes, and whether they go past the page cache.
    pub(super) fn probe(dir: &Path) -> io::Result<Self> {
        let name = dir.join(PROBE_NAME);
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::DIRECT;
        let mut block = Image::new(BLOCK_BYTES)?;
        let block = ImageWriter::claim(&mut block).expect("a new image has one owner");
        let file = rustix::fs::open(&name, flags, FILE_MODE).map_err(io::Error::from);
        let past_cache = file.as_ref().is_ok_and(goes_past_cache);
        // Some file systems take the flag and refuse the write.
        let written =
            file.and_then(|file| File::from(file).write_at(block.bytes(0..BLOCK_BYTES), 0));
        let direct = takes_direct(written)?;
        if is_in_memory(dir) {
            tracing::warn!(
                dir = %dir.display(),
                "the directory is on a file system in memory: the log is lost when the machine stops"
            );
        }
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                let handle = Arc::new(File::open(dir)?);
                let (dir, id) = (dir.to_owned(), id_of(dir)?);
                let past_cache = direct && past_cache;
                Ok(Self { dir, handle, id, direct, past_cache, last_read: Arc::default() })
            }
        }
    }

    /// Fails if the directory was moved and another stands at its name: names are looked up anew for every file, and
    /// nothing may be written into a directory that somebody else has locked.
    fn in_place(&self) -> io::Result<()> {
        if id_of(&self.dir)? == self.id {
            return Ok(());
        }
        let dir = self.dir.display();
        Err(io::Error::other(format!("{dir} was moved, and another directory stands there")))
    }

    /// Makes the directory's entries durable, as [`sync_dir`] does.
    fn sync_names(&self) -> io::Result<()> {
        sync_opened_dir(&self.handle)
    }

    /// True if writes and reads are known to go past the page cache.
    pub(super) fn past_cache(&self) -> bool {
        self.past_cache
    }

    pub(super) fn path(&self, segment: SegmentSeq) -> PathBuf {
        self.dir.join(segment_name(segment))
    }

    pub(super) fn manifest_path(&self) -> PathBuf {
        self.dir.join(MANIFEST_NAME)
    }

    /// The manifest, as far as it may be one.
    pub(super) fn manifest(&self) -> io::Result<Option<Vec<u8>>> {
        match File::open(self.manifest_path()) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(MANIFEST_READ_MAX).read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists segments. Files that are not the log's own are passed over, and never touched; a name that is nearly a
    /// segment's is an error.
    pub(super) fn segments(&self) -> io::Result<Vec<SegmentFile>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let Some(segment) = segment_of(&name) else {
                if is_nearly_a_segments(&name) {
                    let what = format!("{name} is not a segment's name");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                if name != MANIFEST_NAME && !name.ends_with(CORRUPT_SUFFIX) && !is_temporary(&name)
                {
                    tracing::warn!(file = %entry.path().display(), "a file that is not the log's is passed over");
                }
                continue;
            };
            let bytes = entry.metadata()?.len();
            found.push(SegmentFile { segment, bytes });
        }
        found.sort_by_key(|file| file.segment);
        Ok(found)
    }

    pub(super) fn read(&self, segment: SegmentSeq, offset: u64, out: &mut [u8]) -> io::Result<()> {
        File::open(self.path(segment))?.read_exact_at(out, offset)
    }

    /// Opens a segment to be read from end to end, past the page cache if that is possible.
    pub(super) fn open_to_scan(&self, segment: SegmentSeq) -> io::Result<File> {
        let mut flags = OFlags::RDONLY | OFlags::CLOEXEC;
        flags.set(OFlags::DIRECT, self.direct);
        Ok(File::from(rustix::fs::open(self.path(segment), flags, Mode::empty())?))
    }

    /// A reader of a sealed segment.
    pub(super) fn reader(&self, segment: SegmentSeq) -> Arc<dyn SegmentReader> {
        let last = Arc::clone(&self.last_read);
        Arc::new(SealedSegment::new(segment, self.path(segment), self.direct, last))
    }

    pub(super) fn sync(&self, segment: SegmentSeq) -> io::Result<()> {
        File::options().write(true).open(self.path(segment))?.sync_data()
    }

    pub(super) fn remove(&self, segment: SegmentSeq) -> io::Result<()> {
        self.in_place()?;
        remove(&self.path(segment))?;
        self.sync_names()
    }

    /// Removes every file that has a temporary name of the log's own.
    pub(super) fn remove_temporary(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            if is_temporary(&entry.file_name().to_string_lossy()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Makes a segment: room, zeros, header, sync, name, directory sync. `pause` is called between chunks, and may give
    /// up. `zeros` is at least a chunk of zeros, page-aligned.
    pub(super) fn make(
        &self,
        order: &MakeSegment,
        zeros: &mut ImageWriter,
        mut pause: impl FnMut() -> io::Result<()>,
    ) -> io::Result<File> {
        self.in_place()?;
        let temporary = self.dir.join(format!("{:010}{TEMPORARY_SUFFIX}", order.segment.0));
        let mut flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::TRUNC;
        flags.set(OFlags::DIRECT, self.direct);
        let made = (|| {
            let file = create(&temporary, flags)?;
            room_for_zeros(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, order.bytes))?;
            let chunk = zeros.len();
            let mut at = 0;
            zeros.tail_mut(0..BLOCK_BYTES).copy_from_slice(order.header.as_slice());
            while at < order.bytes {
                let len = usize::try_from(order.bytes - at).map_or(chunk, |left| left.min(chunk));
                write(&file, &temporary, zeros.bytes(0..len), at)?;
                if at == 0 {
                    zeros.tail_mut(0..BLOCK_BYTES).fill(0);
                }
                at += len as u64;
                if !self.past_cache && at.is_multiple_of(BUFFERED_SYNC_BYTES) {
                    file.sync_data()?;
                }
                pause()?;
            }
            sync(&file, &temporary)?;
            Ok(file)
        })();
        zeros.tail_mut(0..BLOCK_BYTES).fill(0);
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                // Gives its room back; the name says it is half made, so leaving it would be harmless.
                let _ = std::fs::remove_file(&temporary);
                return Err(error);
            }
        };
        rename(&temporary, &self.path(order.segment))?;
        self.sync_names()?;
        Ok(file)
    }

    /// Makes a segment of one that was given up: header, sync, name, directory sync. The header has its new name and
    /// id before the file has, so its old bytes never count again. A block of zeros follows it, as in a new file: of the
    /// block that begins the segment's first batch any sector may be lost in a crash that holds only zeros.
    pub(super) fn remake(
        &self,
        order: &MakeSegment,
        old: SegmentSeq,
        zeros: &mut ImageWriter,
    ) -> io::Result<File> {
        self.in_place()?;
        let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
        flags.set(OFlags::DIRECT, self.direct);
        let free = self.free_path(old);
        let file = File::from(open(&free, flags)?);
        zeros.tail_mut(0..BLOCK_BYTES).copy_from_slice(order.header.as_slice());
        let written = write(&file, &free, zeros.bytes(0..2 * BLOCK_BYTES), 0);
        zeros.tail_mut(0..BLOCK_BYTES).fill(0);
        written?;
        sync(&file, &free)?;
        rename(&free, &self.path(order.segment))?;
        self.sync_names()?;
        Ok(file)
    }

    /// Gives a damaged segment its second name, durably, before the manifest passes it: then what a crash leaves of the
    /// first one is removed by the next open, and the file stays (rule 25).
    pub(super) fn keep_aside(&self, segment: SegmentSeq) -> io::Result<()> {
        self.in_place()?;
        let path = self.path(segment);
        for aside in self.aside_paths(segment) {
            match link(&path, &aside) {
                Ok(()) => break,
                // From an order that was cut short; else, in a directory that was copied since, a file of its own.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if is_same_file(&path, &aside)? {
                        break;
                    }
                }
                // A file system without such names: it is renamed in the end, and only a crash just before that is
                // not provided for.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
                    ) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.sync_names()
    }

    /// Takes a segment's name from its file, which the manifest has passed. One to be set aside has its other name
    /// already, where a file can have two.
    pub(super) fn retire(&self, segment: SegmentSeq, fate: Fate) -> io::Result<()> {
        self.in_place()?;
        let path = self.path(segment);
        match fate {
            Fate::Recycle => rename(&path, &self.free_path(segment))?,
            Fate::SetAside if std::fs::metadata(&path)?.nlink() == 1 => {
                let aside = self.aside_paths(segment).find(|aside| !aside.exists());
                rename(&path, &aside.expect("numbers go on"))?;
            }
            Fate::Remove | Fate::SetAside => remove(&path)?,
        }
        self.sync_names()
    }

    /// The names for a damaged segment, best first.
    fn aside_paths(&self, segment: SegmentSeq) -> impl Iterator<Item = PathBuf> + '_ {
        let first = format!("{:010}{CORRUPT_SUFFIX}", segment.0);
        let others = (2u32..).map(move |n| format!("{:010}.{n}{CORRUPT_SUFFIX}", segment.0));
        std::iter::once(first).chain(others).map(|name| self.dir.join(name))
    }

    /// The manifest, which was there and whole when the log was opened.
    pub(super) fn known_manifest(&self) -> io::Result<Manifest> {
        let bytes = self.manifest()?.ok_or(io::ErrorKind::NotFound)?;
        Manifest::decode(&bytes).map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad.0))
    }

    /// Replaces the manifest: after a crash it is the old one or the new one, whole (rule 26). The old one's file is kept
    /// under the other's name, to be the next one: on a disk that is full to its last block there would be no room for
    /// a new file, and only a new manifest gives room back. It is written over only where all syncs of the directory
    /// have succeeded since it lost its name, so by this process alone: the next open removes it.
    pub(super) fn write_manifest(&self, manifest: &Manifest) -> io::Result<()> {
        self.in_place()?;
        let path = self.manifest_path();
        let next = self.dir.join(format!("{MANIFEST_NAME}{TEMPORARY_SUFFIX}"));
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = match open(&next, flags) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => create(&next, flags | OFlags::CREATE)?,
            Err(error) => return Err(error.into()),
        };
        // Of one length, whatever they say.
        write(&file, &next, &manifest.encode(), 0)?;
        sync(&file, &next)?;
        exchange(&next, &path)?;
        self.sync_names()
    }

    /// The name of a file that is kept to become a segment again. After a crash it is removed, like a half-made file.
    fn free_path(&self, segment: SegmentSeq) -> PathBuf {
        self.dir.join(format!("{:010}{FREE_SUFFIX}{TEMPORARY_SUFFIX}", segment.0))
    }
}

/// The name of a segment's file.
pub(crate) fn segment_name(segment: SegmentSeq) -> String {
    format!("{:010}{SEGMENT_SUFFIX}", segment.0)
}

/// The segment whose file's name this is.
pub(crate) fn segment_of(name: &str) -> Option<SegmentSeq> {
    let segment = SegmentSeq(name.strip_suffix(SEGMENT_SUFFIX)?.parse().ok()?);
    (segment_name(segment) == name).then_some(segment)
}

/// True for names that only a segment should have, and that are none of one.
pub(crate) fn is_nearly_a_segments(name: &str) -> bool {
    name.ends_with(SEGMENT_SUFFIX) && segment_of(name).is_none()
}

/// True for the names of what the log makes, or keeps to be made something else.
pub(crate) fn is_temporary(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(TEMPORARY_SUFFIX) else { return false };
    let number = stem.strip_suffix(FREE_SUFFIX).unwrap_or(stem);
    let is_segment = number.parse().is_ok_and(|seq: u32| format!("{seq:010}") == number);
    is_segment || name == PROBE_NAME || stem == MANIFEST_NAME
}

/// Whether a file system takes direct writes, by the result of one. A file system without room has not refused the
/// write, and an answer of no would count for as long as the process runs.
fn takes_direct(written: io::Result<usize>) -> io::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(error) if is_no_space(&error) => Ok(true),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::INVAL | Errno::OPNOTSUPP) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Judges the attempt to allocate a segment's room at once. If the file system cannot do that, writing the zeros
/// allocates the room. The same after a signal: to try again might never end, because some file systems begin anew
/// each time and a timer may send a signal each time.
fn room_for_zeros(allocated: rustix::io::Result<()>) -> io::Result<()> {
    match allocated {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Ok(()),
        allocated => Ok(allocated?),
    }
}

/// Whether the kernel says that direct writes to the file go past the page cache. A file system may take the flag and write
/// through the cache all the same, as tmpfs does, and ext4 with a journal for data. One that does not say, or a kernel
/// before 6.1, is treated as one that does: that costs
/// writes in flight, and nothing else.
fn goes_past_cache(file: &OwnedFd) -> bool {
    let says = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    says.is_ok_and(|says| {
        let aligned = 1..=u32::try_from(BLOCK_BYTES).expect("a small number");
        StatxFlags::from_bits_retain(says.stx_mask).contains(StatxFlags::DIOALIGN)
            && aligned.contains(&says.stx_dio_mem_align)
            && aligned.contains(&says.stx_dio_offset_align)
    })
}

fn is_in_memory(dir: &Path) -> bool {
    rustix::fs::statfs(dir)
        .is_ok_and(|fs| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&i128::from(fs.f_type)))
}

fn is_same_file(a: &Path, b: &Path) -> io::Result<bool> {
    Ok(id_of(a)? == id_of(b)?)
}

fn id_of(path: &Path) -> io::Result<FileId> {
    let metadata = std::fs::metadata(path)?;
    Ok(FileId { device: metadata.dev(), inode: metadata.ino() })
}

/// Replaces a small file: after a crash it is the old one or the new one, whole (rule 26).
pub(crate) fn atomic_write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().expect("a file has a name").to_owned();
    name.push(TEMPORARY_SUFFIX);
    let temporary = path.with_file_name(name);
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = create(&temporary, flags)?;
    write(&file, &temporary, bytes, 0)?;
    sync(&file, &temporary)?;
    rename(&temporary, path)?;
    sync_dir(path.parent().expect("a file is in a directory"))
}

/// Makes a directory's entries durable. A failure is final, also one that says "no room": the next sync would claim
/// success over names that are lost (rule 17).
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    sync_opened_dir(&File::open(dir)?)
}

fn sync_opened_dir(dir: &File) -> io::Result<()> {
    steps::take(|| "sync the directory".to_owned());
    let synced = dir.sync_all();
    synced.map_err(|error| io::Error::other(format!("directory sync: {error}")))
}

// The steps that a crash may come between. Each step is written down as it is taken, for the test that holds these
// steps against the simulated disk's.

pub(crate) fn create(path: &Path, flags: OFlags) -> io::Result<File> {
    steps::find_room(|| name_of(path))?;
    steps::take(|| format!("create {}", name_of(path)));
    Ok(File::from(open(path, flags)?))
}

/// Opens a file, again after a signal: some file systems let one end the wait.
fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, FILE_MODE))
}

/// Opens a file to be read.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    Ok(File::from(open(path, OFlags::RDONLY | OFlags::CLOEXEC)?))
}

fn write(file: &File, path: &Path, bytes: &[u8], at: u64) -> io::Result<()> {
    // In one step, as far as anybody could tell: none of it is synced.
    if at == 0 {
        steps::take(|| format!("write {}", name_of(path)));
    }
    file.write_all_at(bytes, at)
}

pub(crate) fn sync(file: &File, path: &Path) -> io::Result<()> {
    steps::take(|| format!("sync {}", name_of(path)));
    file.sync_all()
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    steps::take(|| format!("rename {} {}", name_of(from), name_of(to)));
    std::fs::rename(from, to)
}

/// Each gets the other's name; where a file system cannot do that, the second one's file is gone.
fn exchange(from: &Path, to: &Path) -> io::Result<()> {
    steps::take(|| format!("exchange {} {}", name_of(from), name_of(to)));
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => std::fs::rename(from, to),
        exchanged => Ok(exchanged?),
    }
}

fn link(from: &Path, to: &Path) -> io::Result<()> {
    steps::take(|| format!("link {} {}", name_of(from), name_of(to)));
    std::fs::hard_link(from, to)
}

fn remove(path: &Path) -> io::Result<()> {
    steps::take(|| format!("remove {}", name_of(path)));
    std::fs::remove_file(path)
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("a file has a name").to_string_lossy().into_owned()
}

/// Bytes written between two pauses.
pub(super) const MAKE_CHUNK_BYTES: usize = 64 << 10;
/// Dirty pages a buffered file may gather, so that no sync is long.
const BUFFERED_SYNC_BYTES: u64 = 4 << 20;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const SEGMENT_SUFFIX: &str = ".seg";
pub(crate) const CORRUPT_SUFFIX: &str = ".corrupt";
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";
/// Of statfs(2).
const TMPFS_MAGIC: i128 = 0x0102_1994;
const RAMFS_MAGIC: i128 = 0x8584_58f6;
const FREE_SUFFIX: &str = ".free";
/// A manifest is shorter.
const MANIFEST_READ_MAX: u64 = 4096;
const PROBE_NAME: &str = "probe.tmp";
pub(crate) const MANIFEST_NAME: &str = "manifest";

#[cfg(test)]
mod tests {
    use super::*;

    fn named(dir: &Path) -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
        let mut found: Vec<_> = entries
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, std::fs::read(entry.path()).unwrap())
            })
            .collect();
        found.sort();
        found
    }

    fn file(name: &str, bytes: &[u8]) -> (String, Vec<u8>) {
        (name.to_owned(), bytes.to_vec())
    }

    /// RULES.md W9, W21.
    #[test]
    fn a_full_disk_does_not_say_that_it_takes_no_direct_writes() {
        let says = |errno: Errno| takes_direct(Err(errno.into()));
        assert!(takes_direct(Ok(BLOCK_BYTES)).unwrap());
        for full in [Errno::NOSPC, Errno::DQUOT] {
            assert!(says(full).unwrap(), "{full}");
        }
        for no in [Errno::INVAL, Errno::OPNOTSUPP] {
            assert!(!says(no).unwrap(), "{no}");
        }
        for unknown in [Errno::IO, Errno::MFILE, Errno::NOMEM, Errno::ROFS] {
            assert_eq!(says(unknown).unwrap_err().raw_os_error(), Some(unknown.raw_os_error()));
        }
    }

    /// RULES.md rule 7.
    #[test]
    fn room_that_is_not_found_at_once_is_found_by_the_zeros() {
        for no in [Errno::OPNOTSUPP, Errno::NOSYS, Errno::INTR] {
            room_for_zeros(Err(no)).unwrap();
        }
        for full in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            assert!(is_no_space(&room_for_zeros(Err(full)).unwrap_err()), "{full}");
        }
        room_for_zeros(Err(Errno::IO)).unwrap_err();
    }

    /// RULES.md rule 25.
    #[test]
    fn a_damaged_segment_is_set_aside_once_and_over_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::probe(dir.path()).unwrap();
        let segment = SegmentSeq(7);
        std::fs::write(files.path(segment), b"damaged").unwrap();
        // Cut short, and taken up again.
        files.keep_aside(segment).unwrap();
        files.keep_aside(segment).unwrap();
        let both = [file("0000000007.corrupt", b"damaged"), file("0000000007.seg", b"damaged")];
        assert_eq!(named(dir.path()), both);
        files.retire(segment, Fate::SetAside).unwrap();
        assert_eq!(named(dir.path()), both[..1]);
        // Another file of its number.
        std::fs::write(files.path(segment), b"other").unwrap();
        files.keep_aside(segment).unwrap();
        files.retire(segment, Fate::SetAside).unwrap();
        let all = [file("0000000007.2.corrupt", b"other"), both[0].clone()];
        assert_eq!(named(dir.path()), all);
    }

    /// RULES.md I10.
    #[test]
    fn a_directory_that_took_the_place_of_the_open_one_is_not_written_to() {
        let home = tempfile::tempdir().unwrap();
        let (dir, aside) = (home.path().join("shard-000"), home.path().join("moved"));
        std::fs::create_dir(&dir).unwrap();
        let files = Files::probe(&dir).unwrap();
        std::fs::write(files.path(SegmentSeq(7)), b"ours").unwrap();
        std::fs::rename(&dir, &aside).unwrap();
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(files.path(SegmentSeq(7)), b"theirs").unwrap();
        files.remove(SegmentSeq(7)).unwrap_err();
        files.keep_aside(SegmentSeq(7)).unwrap_err();
        files.retire(SegmentSeq(7), Fate::Recycle).unwrap_err();
        assert_eq!(named(&dir), [file("0000000007.seg", b"theirs")]);
        // Under its new name, or back under its old one, it is the same directory.
        std::fs::remove_dir_all(&dir).unwrap();
        std::os::unix::fs::symlink(&aside, &dir).unwrap();
        files.remove(SegmentSeq(7)).unwrap();
    }

    /// RULES.md rule 25.
    #[test]
    fn where_a_file_has_one_name_it_is_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::probe(dir.path()).unwrap();
        std::fs::write(files.path(SegmentSeq(7)), b"damaged").unwrap();
        files.retire(SegmentSeq(7), Fate::SetAside).unwrap();
        assert_eq!(named(dir.path()), [file("0000000007.corrupt", b"damaged")]);
    }
}

//! A stream's directory, read and never changed.
//!
//! In:     a path.
//! Out:    the files in the directory; segments, as a whole or their first blocks.
//! Cost:   memory for each segment that is read.
//! Fails:  with the file system's error and the file's name.
//! Source: RULES.md C9 (a place that cannot be read is damage, not a reason to give up).

use crate::disk::{
    CORRUPT_SUFFIX, MANIFEST_NAME, Scan, Scanned, is_temporary, segment_name, segment_of,
};
use crate::format::{BLOCK_BYTES, SegmentSeq};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The files of one stream.
pub(super) trait Files {
    fn manifest_path(&self) -> PathBuf;

    fn path(&self, segment: SegmentSeq) -> PathBuf;

    /// The manifest's bytes, as many as a manifest can have; `None` if there is no manifest.
    fn manifest(&mut self) -> io::Result<Option<Vec<u8>>>;

    fn list(&mut self) -> io::Result<Listing>;

    /// The first two blocks of a segment.
    fn beginning(&mut self, segment: SegmentSeq) -> io::Result<Vec<u8>>;

    /// The first `bytes` bytes of a segment.
    fn segment(&mut self, segment: SegmentSeq, bytes: u64) -> io::Result<Box<dyn Scan>>;
}

/// One stream's directory.
pub(super) struct Dir(PathBuf);

/// The files in a stream's directory, by name.
#[derive(Default)]
pub(super) struct Listing {
    /// Segment files and their sizes.
    pub(super) segments: BTreeMap<SegmentSeq, u64>,
    /// Files that are half made, or that wait to be made into segments again.
    pub(super) temporary: Vec<PathBuf>,
    /// Damaged segments that were given up, or are about to be.
    pub(super) set_aside: Vec<PathBuf>,
    /// Everything else.
    pub(super) others: Vec<PathBuf>,
}

impl Dir {
    pub(super) fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }
}

impl Files for Dir {
    fn manifest_path(&self) -> PathBuf {
        self.0.join(MANIFEST_NAME)
    }

    fn path(&self, segment: SegmentSeq) -> PathBuf {
        self.0.join(segment_name(segment))
    }

    fn manifest(&mut self) -> io::Result<Option<Vec<u8>>> {
        let file = match open(&self.manifest_path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, MANIFEST_READ_MAX), &mut bytes)?;
        Ok(Some(bytes))
    }

    fn beginning(&mut self, segment: SegmentSeq) -> io::Result<Vec<u8>> {
        let mut blocks = vec![0; 2 * BLOCK_BYTES];
        open(&self.path(segment))?.read_exact_at(&mut blocks, 0)?;
        Ok(blocks)
    }

    fn segment(&mut self, segment: SegmentSeq, bytes: u64) -> io::Result<Box<dyn Scan>> {
        let file = open(&self.path(segment))?;
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut scanned = Scanned::with_capacity(bytes)?;
        scanned.fill(bytes, |at, out| file.read_exact_at(out, at))?;
        Ok(Box::new(Whole(scanned)))
    }

    fn list(&mut self) -> io::Result<Listing> {
        let mut found = Listing::default();
        for entry in std::fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name == MANIFEST_NAME {
                continue;
            }
            if is_temporary(&name) {
                found.temporary.push(entry.path());
            } else if name.ends_with(CORRUPT_SUFFIX) {
                found.set_aside.push(entry.path());
            } else if let Some(segment) = segment_of(&name) {
                match entry.metadata() {
                    Ok(meta) => drop(found.segments.insert(segment, meta.len())),
                    // The segment was given up between the two calls.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            } else {
                found.others.push(entry.path());
            }
        }
        found.temporary.sort();
        found.set_aside.sort();
        found.others.sort();
        Ok(found)
    }
}

/// Opens a regular file, and no file of a kind on which a read could wait without end.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is no file", path.display())))
    }
}

/// The bytes of one segment.
struct Whole(Scanned);

impl Scan for Whole {
    fn next(&mut self) -> io::Result<&Scanned> {
        Ok(&self.0)
    }
}

/// A disk, read and never changed.
#[cfg(feature = "sim")]
pub(super) struct OnDisk<'a>(pub(super) &'a mut dyn crate::disk::Disk);

#[cfg(feature = "sim")]
impl Files for OnDisk<'_> {
    fn manifest_path(&self) -> PathBuf {
        self.0.manifest_path()
    }

    fn path(&self, segment: SegmentSeq) -> PathBuf {
        self.0.path(segment)
    }

    fn manifest(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.0.manifest()
    }

    fn list(&mut self) -> io::Result<Listing> {
        let segments = self.0.segments()?;
        let segments = segments.into_iter().map(|file| (file.segment, file.bytes)).collect();
        Ok(Listing { segments, ..Listing::default() })
    }

    fn beginning(&mut self, segment: SegmentSeq) -> io::Result<Vec<u8>> {
        let mut blocks = vec![0; 2 * BLOCK_BYTES];
        self.0.read(segment, 0, &mut blocks)?;
        Ok(blocks)
    }

    fn segment(&mut self, segment: SegmentSeq, bytes: u64) -> io::Result<Box<dyn Scan>> {
        self.0.scan(vec![crate::disk::ScanFile { segment, bytes }])
    }
}

const MANIFEST_READ_MAX: u64 = 4096;

//! A stream's directory, read and never changed.
//!
//! In:     a path.
//! Out:    the files in the directory; bytes of the files, in windows.
//! Cost:   one window of memory per file read, at least [`WINDOW_BYTES`], at most one batch.
//! Fails:  with the file system's error and the file's name.
//! Source: RULES.md C9 (a place that cannot be read is damage, not a reason to give up).

use crate::disk::{CORRUPT_SUFFIX, MANIFEST_NAME, is_temporary, segment_name, segment_of};
use crate::format::SegmentSeq;
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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

    pub(super) fn manifest_path(&self) -> PathBuf {
        self.0.join(MANIFEST_NAME)
    }

    pub(super) fn path(&self, segment: SegmentSeq) -> PathBuf {
        self.0.join(segment_name(segment))
    }

    /// The manifest's bytes, as many as a manifest can have; `None` if there is no manifest.
    pub(super) fn manifest(&self) -> io::Result<Option<Vec<u8>>> {
        let file = match open(&self.manifest_path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, MANIFEST_READ_MAX), &mut bytes)?;
        Ok(Some(bytes))
    }

    pub(super) fn list(&self) -> io::Result<Listing> {
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

/// A file's bytes, of which the part that was last asked for is kept in memory.
pub(super) struct Window {
    file: File,
    bytes: u64,
    start: u64,
    held: Vec<u8>,
}

impl Window {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes, start: 0, held: Vec::new() })
    }

    /// Bytes `at..at + len`; an error where the file is shorter.
    pub(super) fn get(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let end = at.checked_add(len as u64).filter(|end| *end <= self.bytes);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        if at < self.start || end > self.start + self.held.len() as u64 {
            let left = usize::try_from(self.bytes - at).unwrap_or(usize::MAX);
            let wanted = len.max(WINDOW_BYTES.min(left));
            // Where a wide read fails, the bytes that are asked for may still be readable.
            self.fill(at, wanted).or_else(|_| self.fill(at, len))?;
        }
        let from = usize::try_from(at - self.start).expect("inside the window");
        Ok(&self.held[from..from + len])
    }

    fn fill(&mut self, at: u64, len: usize) -> io::Result<()> {
        self.held.resize(len, 0);
        self.start = at;
        let read = self.file.read_exact_at(&mut self.held, at);
        if read.is_err() {
            self.held.clear();
        }
        read
    }

    /// Forgets what was read, so that the file is read anew: another process may have written it.
    pub(super) fn forget(&mut self) {
        self.held.clear();
    }
}

const WINDOW_BYTES: usize = 1 << 20;
const MANIFEST_READ_MAX: u64 = 4096;

//! Reads of sealed segments, which are complete and never written again. They are plain reads and no map: in a map, a
//! page that cannot be read would raise SIGBUS and end the process.
//!
//! In:     a sealed segment's file, opened when it is read.
//! Out:    copies.
//! Cost:   a system call per read, which may wait for the disk: on the reading thread, never on a shard's. A record of
//!         less than a block takes one such call. Of all sealed segments of a stream, the one that was read last stays
//!         open. A read loads only the pages it needs, because the kernel's read-around is switched off: it may load
//!         megabytes, which the disk would serve before the log's own writes. If a reader says that it will read on
//!         ([`SegmentReader::ahead`]), as for a follower that catches up, the next one to two mebibytes are loaded
//!         ahead, unless they are in the page cache.
//! Fails:  with the file system's error, also where the device cannot read, and where somebody else has cut the file short.
//! Source: RULES.md rules 32-35, C9, C12.

use crate::disk::SegmentReader;
use crate::format::{BLOCK_BYTES, SegmentSeq};
use crate::image::{Image, ImageWriter};
use rustix::fs::{Advice, Mode, OFlags};
use rustix::io::ReadWriteFlags;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The sealed segment that was read last, with its file. All readers of a stream share it.
#[derive(Debug, Default)]
pub(crate) struct LastRead(Mutex<Option<(SegmentSeq, Arc<File>)>>);

impl LastRead {
    fn lock(&self) -> MutexGuard<'_, Option<(SegmentSeq, Arc<File>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock is held neither while a file is opened nor while one is closed: both may wait for the disk, and other
    /// readers must not wait with them.
    fn open(&self, segment: SegmentSeq, path: &Path) -> io::Result<Arc<File>> {
        if let Some((_, file)) = self.lock().as_ref().filter(|(known, _)| *known == segment) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(File::open(path)?);
        advise(&file, Advice::Random, 0, None);
        let before = self.lock().replace((segment, Arc::clone(&file)));
        drop(before);
        Ok(file)
    }
}

/// A reader of one sealed segment.
#[derive(Debug)]
pub(crate) struct SealedSegment {
    segment: SegmentSeq,
    path: PathBuf,
    /// The file system takes direct reads.
    direct: bool,
    last: Arc<LastRead>,
    /// The number of the window that was loaded ahead last, 0 if none was, so that one reader asks for each window
    /// once.
    asked: AtomicU64,
}

impl SealedSegment {
    pub(crate) fn new(
        segment: SegmentSeq,
        path: PathBuf,
        direct: bool,
        last: Arc<LastRead>,
    ) -> Self {
        Self { segment, path, direct, last, asked: AtomicU64::new(0) }
    }

    fn file(&self) -> io::Result<Arc<File>> {
        self.last.open(self.segment, &self.path)
    }
}

/// Closes the segment's file if it is the one that is open: an open file would keep the disk space of a segment that
/// was given up.
impl Drop for SealedSegment {
    fn drop(&mut self) {
        let closed = self.last.lock().take_if(|(segment, _)| *segment == self.segment);
        drop(closed);
    }
}

impl SegmentReader for SealedSegment {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file()?.read_exact_at(out, offset)
    }

    /// Reads past the page cache, into an aligned buffer and by whole blocks, of which a segment consists; where the file
    /// system takes no direct reads, as [`SegmentReader::read`] does.
    fn read_again(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if !self.direct {
            return self.read(offset, out);
        }
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let from = start / BLOCK_BYTES * BLOCK_BYTES;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECT;
        let file = rustix::fs::open(&self.path, flags, Mode::empty())?;
        let mut image = Image::new((end - from).next_multiple_of(BLOCK_BYTES))?;
        let mut image = ImageWriter::claim(&mut image).expect("a new image has one owner");
        let blocks = 0..image.len();
        File::from(file).read_exact_at(image.tail_mut(blocks), from as u64)?;
        out.copy_from_slice(image.bytes(start - from..end - from));
        Ok(())
    }

    fn window_bytes(&self) -> usize {
        BLOCK_BYTES
    }

    /// Asks the kernel to load the pages from `offset` to the end of the next window, and does not wait for them. To be
    /// asked, the kernel looks at each of these pages: while the entries of a thousand groups are read out of the same
    /// segments, that took more than half of the reader's time. So pages that are there already are not asked for.
    fn ahead(&self, offset: u64) {
        let window = offset / WINDOW_BYTES + 1;
        if self.asked.swap(window, Ordering::Relaxed) != window
            // Errors are ignored here, because the read that follows meets and reports them.
            && let Ok(file) = self.file()
        {
            let end = (window + 1) * WINDOW_BYTES;
            if !is_loaded(&file, offset) || !is_loaded(&file, end - 1) {
                advise(&file, Advice::WillNeed, offset, NonZeroU64::new(end - offset));
            }
        }
    }
}

/// Whether the page cache has the byte at `offset`. False behind the file's end, and where the file system cannot say.
fn is_loaded(file: &File, offset: u64) -> bool {
    let (mut byte, flags) = ([0], ReadWriteFlags::NOWAIT);
    rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, flags) == Ok(1)
}

/// Gives the kernel advice on a part of a file. The kernel may ignore it.
fn advise(file: &File, advice: Advice, offset: u64, bytes: Option<NonZeroU64>) {
    if let Err(error) = rustix::fs::fadvise(file, offset, bytes, advice) {
        tracing::debug!(%error, ?advice, "the kernel did not take advice on a segment's file");
    }
}

/// The step in which data is loaded ahead of a reader, in bytes.
const WINDOW_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// RULES.md W9.
    #[test]
    fn one_sealed_segment_is_open_and_none_that_was_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let last = Arc::new(LastRead::default());
        let reader = |n: u32| {
            let path = dir.path().join(n.to_string());
            std::fs::write(&path, vec![b'x'; 2 * BLOCK_BYTES]).unwrap();
            SealedSegment::new(SegmentSeq(n), path, true, Arc::clone(&last))
        };
        let (first, second) = (reader(1), reader(2));
        let open = || last.lock().as_ref().map(|(segment, _)| segment.0);
        let mut out = [0; 8];
        assert_eq!(open(), None);
        for (reader, segment) in [(&first, 1), (&second, 2), (&first, 1)] {
            reader.ahead(0);
            reader.read(BLOCK_BYTES as u64, &mut out).unwrap();
            assert_eq!((open(), out), (Some(segment), [b'x'; 8]));
        }
        drop(second);
        assert_eq!(open(), Some(1));
        let file = Arc::downgrade(&first.file().unwrap());
        drop(first);
        assert_eq!((open(), file.upgrade().is_some()), (None, false));
    }

    /// RULES.md C9. The bug: if the file could not be opened once more, the second read came from the page cache, like the
    /// first one, and a group was fenced for what it gave.
    #[test]
    fn a_second_read_comes_from_the_page_cache_only_where_there_are_no_direct_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1");
        std::fs::write(&path, vec![b'x'; 2 * BLOCK_BYTES]).unwrap();
        let last = Arc::new(LastRead::default());
        let reader =
            |direct| SealedSegment::new(SegmentSeq(1), path.clone(), direct, Arc::clone(&last));
        let (cached, direct) = (reader(false), reader(true));
        let mut out = [0; 8];
        cached.read(0, &mut out).unwrap();
        std::fs::remove_file(&path).unwrap();
        cached.read_again(0, &mut out).unwrap();
        assert_eq!(direct.read_again(0, &mut out).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

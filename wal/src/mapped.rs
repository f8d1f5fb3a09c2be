//! Read-only maps of sealed segments, which are complete and never written again. Mapped bytes are copied out, and only
//! the copy is looked at.
//!
//! In:     a sealed segment's file, at first use.
//! Out:    copies.
//! Cost:   one map per segment that is read, kept; page faults on the reading thread, never on a shard's. A read loads
//!         only the pages it needs, because the kernel's read-around is switched off: it may be megabytes, and the disk
//!         would serve those before the log's own writes. If a reader says that it will read on
//!         ([`SegmentReader::ahead`]), as for a follower that catches up, the next one to two mebibytes are loaded ahead.
//! Fails:  with the file system's error. A page that cannot be read raises SIGBUS, which kills the process (C12): a dead
//!         process acknowledges nothing.
//! Source: RULES.md rules 32-35.
//!
//! The `unsafe` here is sound for these reasons. Another process may change a mapped file at any time, so no reference
//! into the map is ever made: bytes are copied through raw pointers, within the map's bounds. A file that is cut short
//! raises SIGBUS, and leaves memory whole; the log itself never cuts one (rule 32).

#![allow(unsafe_code)]

use crate::disk::SegmentReader;
use crate::format::BLOCK_BYTES;
use crate::image::{Image, ImageWriter};
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A sealed segment, mapped when first read.
#[derive(Debug)]
pub(crate) struct MappedSegment {
    path: PathBuf,
    map: OnceLock<MmapRaw>,
    /// The number of the window that was loaded ahead last, 0 if none was, so that one reader asks for each once.
    asked: AtomicUsize,
}

impl MappedSegment {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, map: OnceLock::new(), asked: AtomicUsize::new(0) }
    }

    fn map(&self) -> io::Result<&MmapRaw> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        let map = MmapOptions::new().map_raw_read_only(&File::open(&self.path)?)?;
        advise(&map, Advice::Random, 0..map.len());
        // If two readers map at once, the later map is dropped unused.
        Ok(self.map.get_or_init(|| map))
    }
}

impl SegmentReader for MappedSegment {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let map = self.map()?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        if start.checked_add(out.len()).is_none_or(|end| end > map.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The range is asked for in one request, because otherwise each of its pages would cost a fault of its own.
        if out.len() > BLOCK_BYTES {
            advise(map, Advice::WillNeed, start..start + out.len());
        }
        // SAFETY: `start..start + out.len()` is inside the map (checked above), which lives as long as
        // `self`; `out` is ours alone and elsewhere. No reference to the mapped bytes is made, so a change by
        // another process can only give wrong bytes, and the caller verifies its copy.
        unsafe {
            std::ptr::copy_nonoverlapping(map.as_ptr().add(start), out.as_mut_ptr(), out.len());
        }
        Ok(())
    }

    /// Reads past the page cache, into an aligned buffer and by whole blocks, of which a segment consists; if the file
    /// cannot be opened for that, reads the map once more.
    fn read_again(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let from = start / BLOCK_BYTES * BLOCK_BYTES;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECT;
        let Ok(file) = rustix::fs::open(&self.path, flags, Mode::empty()) else {
            return self.read(offset, out);
        };
        let mut image = Image::new((end - from).next_multiple_of(BLOCK_BYTES))?;
        let mut image = ImageWriter::claim(&mut image).expect("a new image has one owner");
        let blocks = 0..image.len();
        File::from(file).read_exact_at(image.tail_mut(blocks), from as u64)?;
        out.copy_from_slice(image.bytes(start - from..end - from));
        Ok(())
    }

    /// Asks the kernel to load the pages from `offset` to the end of the next window, and does not wait for them.
    fn ahead(&self, offset: u64) {
        // Errors are ignored here, because the read that follows meets and reports them.
        let (Ok(map), Ok(at)) = (self.map(), usize::try_from(offset)) else { return };
        let window = at / WINDOW_BYTES + 1;
        if at < map.len() && self.asked.swap(window, Ordering::Relaxed) != window {
            advise(map, Advice::WillNeed, at..((window + 1) * WINDOW_BYTES).min(map.len()));
        }
    }
}

/// Gives the kernel advice on a range of the map. The kernel may ignore it.
fn advise(map: &MmapRaw, advice: Advice, bytes: Range<usize>) {
    let start = bytes.start / BLOCK_BYTES * BLOCK_BYTES;
    if let Err(error) = map.advise_range(advice, start, bytes.end - start) {
        tracing::debug!(%error, ?advice, "the kernel did not take advice on a segment's map");
    }
}

/// The step in which data is loaded ahead of a reader, in bytes.
const WINDOW_BYTES: usize = 1 << 20;

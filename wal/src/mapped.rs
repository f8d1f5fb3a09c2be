//! Read-only maps of sealed segments. Mapped bytes are copied out; only the copy is looked at.
//!
//! In:     a sealed segment's file, at first use.
//! Out:    copies.
//! Cost:   one map per segment read, kept; page faults on the reading thread, never on a shard's. A read takes the
//!         pages it needs from the disk and no more: what a kernel would read around them (it may be megabytes) would
//!         stand before the log's own writes. A reader that announces further reads, as for a follower
//!         that catches up, finds the next mebibyte asked for.
//! Fails:  with the file system's error. A page that cannot be read is a SIGBUS: the process dies (C12),
//!         acknowledging nothing more.
//! Source: RULES.md rules 32-35.
//!
//! The `unsafe` here is sound for these reasons: another process may change a mapped file under us, so a reference into
//! the map would be a lie. Bytes are copied through raw pointers, in a bounded range, and the file is never
//! truncated (rule 32).

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
    /// The newest window that was asked for ahead of its readers.
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
        // Two readers may map at once; the second map is dropped.
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
        // Its pages in one request, not a fault each.
        if out.len() > BLOCK_BYTES {
            advise(map, Advice::WillNeed, start..start + out.len());
        }
        // SAFETY: `start..start + out.len()` is inside the map (checked above), which lives as long as
        // `self`; `out` is ours alone and elsewhere. No reference to the mapped bytes is made, so a change by
        // another process gives other bytes, nothing worse; the caller verifies its copy.
        unsafe {
            std::ptr::copy_nonoverlapping(map.as_ptr().add(start), out.as_mut_ptr(), out.len());
        }
        Ok(())
    }

    /// Where the file system takes direct reads they go to the device.
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

    /// Has the kernel read on to the end of the next window, without waiting.
    fn ahead(&self, offset: u64) {
        // The read itself meets the error.
        let (Ok(map), Ok(at)) = (self.map(), usize::try_from(offset)) else { return };
        let window = at / WINDOW_BYTES + 1;
        if at < map.len() && self.asked.swap(window, Ordering::Relaxed) != window {
            advise(map, Advice::WillNeed, at..((window + 1) * WINDOW_BYTES).min(map.len()));
        }
    }
}

/// Best effort.
fn advise(map: &MmapRaw, advice: Advice, bytes: Range<usize>) {
    let start = bytes.start / BLOCK_BYTES * BLOCK_BYTES;
    if let Err(error) = map.advise_range(advice, start, bytes.end - start) {
        tracing::debug!(%error, ?advice, "the kernel did not take advice on a segment's map");
    }
}

/// Read ahead at once.
const WINDOW_BYTES: usize = 1 << 20;

//! The active segment in memory: written once at its tail, then frozen and lent out.
//!
//! In:     encoded bytes, through the one [`ImageWriter`] an image has.
//! Out:    [`Frozen`] ranges that the disk writes and borrowers keep.
//! Cost:   one anonymous map per image, page-aligned; no copy of what is frozen.
//! Fails:  writing below the frozen mark panics.
//! Source: RULES.md A5 (the segment image); RULES.md rule 35.
//!
//! The `unsafe` here is sound for these reasons: a map is reached through raw pointers only, never through a reference
//! to the whole. It has one writer ([`ImageWriter::claim`] needs the only `Arc`), and the writer's frozen
//! mark splits it. Below the mark nothing writes again for as long as this writer or a [`Frozen`] of it lives;
//! shared slices are handed out there, to any thread. At and above the mark only the writer's own
//! borrows reach, `&mut` through `&mut self` and `&` through `&self`, so they never overlap in time. The
//! mark never moves back: claiming the image again needs the only `Arc`, and every [`Frozen`] holds one.

#![allow(unsafe_code)]

use bytes::Bytes;
use memmap2::{MmapMut, MmapRaw};
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// One segment's worth of memory. Reached through an [`ImageWriter`] or a [`Frozen`].
#[derive(Debug)]
pub struct Image {
    map: MmapRaw,
}

impl Image {
    /// Maps `bytes` of zeros. No page is touched yet.
    ///
    /// # Errors
    /// The error of `mmap`.
    pub fn new(bytes: usize) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { map: MmapMut::map_anon(bytes)?.into() }))
    }

    /// Gives every page its memory, so that no later write faults. Takes milliseconds; not for a shard
    /// thread. Best effort: kernels before 5.14 do not know how.
    ///
    /// Huge pages if there are any: a write of 1 MiB then is one or two pieces for the disk, not 256.
    pub(crate) fn warm(&self) {
        if let Err(error) = self.map.advise(memmap2::Advice::HugePage) {
            tracing::debug!(%error, "the kernel gives an image no huge pages");
        }
        // SAFETY: the range is exactly the map, which lives as long as `self`. MADV_POPULATE_WRITE faults
        // pages in as if written, without changing a byte, so it races with nothing.
        let warmed = unsafe {
            rustix::mm::madvise(
                self.map.as_mut_ptr().cast(),
                self.map.len(),
                rustix::mm::Advice::LinuxPopulateWrite,
            )
        };
        if let Err(error) = warmed {
            tracing::debug!(%error, "an image's pages could not be made ready ahead of its writes");
        }
    }

    /// Where it is and how long, for registering with a ring.
    pub(crate) fn raw_parts(&self) -> (*mut u8, usize) {
        (self.map.as_mut_ptr(), self.map.len())
    }

    fn check(&self, range: &Range<usize>) {
        assert!(
            range.start <= range.end && range.end <= self.map.len(),
            "range {range:?} is outside an image of {} bytes",
            self.map.len()
        );
    }
}

/// The right to write one image, at its tail.
#[derive(Debug)]
pub struct ImageWriter {
    image: Arc<Image>,
    frozen: usize,
}

impl ImageWriter {
    /// Takes an image nobody else holds; `None` if somebody does. Its old bytes are still in it.
    pub fn claim(image: &mut Arc<Image>) -> Option<Self> {
        Arc::get_mut(image)?;
        Some(Self { image: Arc::clone(image), frozen: 0 })
    }

    /// Size, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.image.map.len()
    }

    /// True for an image of no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes `range`, to be written. Panics if any of them is frozen.
    pub fn tail_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(
            range.start >= self.frozen,
            "write at {} below the frozen mark {}",
            range.start,
            self.frozen
        );
        self.image.check(&range);
        // SAFETY: inside the map (checked), initialised (anonymous maps are zeros), and above the frozen
        // mark, where only this writer's borrows reach; `&mut self` makes this the only one.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.image.map.as_mut_ptr().add(range.start),
                range.len(),
            )
        }
    }

    /// The bytes `range`, to be looked at.
    #[must_use]
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.image.check(&range);
        // SAFETY: inside the map (checked), initialised. Frozen bytes never change; the others change only
        // through `&mut self`, which this borrow excludes.
        unsafe {
            std::slice::from_raw_parts(self.image.map.as_mut_ptr().add(range.start), range.len())
        }
    }

    /// Freezes everything below `upto` for good.
    pub fn freeze(&mut self, upto: usize) {
        assert!(upto >= self.frozen, "frozen mark would move back to {upto} from {}", self.frozen);
        self.image.check(&(0..upto));
        self.frozen = upto;
    }

    /// A share of frozen bytes. Panics if `range` is not frozen.
    #[must_use]
    pub fn share(&self, range: Range<usize>) -> Frozen {
        assert!(
            range.end <= self.frozen,
            "share up to {} above the frozen mark {}",
            range.end,
            self.frozen
        );
        self.image.check(&range);
        Frozen { image: Arc::clone(&self.image), range }
    }
}

/// Bytes of an image that never change again. Keeps the image from being used anew.
#[derive(Clone, Debug)]
pub struct Frozen {
    image: Arc<Image>,
    range: Range<usize>,
}

impl Frozen {
    /// The same bytes as [`Bytes`], without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// The image under these bytes, to find its registration.
    pub(crate) fn image(&self) -> &Arc<Image> {
        &self.image
    }
}

impl Deref for Frozen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: inside the map (checked when it was made), initialised, and below the frozen mark, so
        // nothing writes here while this value holds the image.
        unsafe {
            std::slice::from_raw_parts(
                self.image.map.as_mut_ptr().add(self.range.start),
                self.range.len(),
            )
        }
    }
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Images used again and again, so that their memory stays warm.
///
/// Keeps at most `keep` of them; when all are lent out a further one is made, cold.
#[derive(Debug)]
pub(crate) struct ImagePool {
    images: Vec<Arc<Image>>,
    keep: usize,
    bytes: usize,
}

impl ImagePool {
    pub(crate) fn new(bytes: usize, keep: usize) -> Self {
        Self { images: Vec::with_capacity(keep), keep, bytes }
    }

    /// Adds a warm image; returns its place in the pool, or `None` if the pool is full.
    pub(crate) fn add(&mut self, image: Arc<Image>) -> Option<usize> {
        if self.images.len() == self.keep {
            return None;
        }
        self.images.push(image);
        Some(self.images.len() - 1)
    }

    /// Takes an image nobody borrows from any more, or makes one.
    pub(crate) fn take(&mut self) -> io::Result<ImageWriter> {
        if let Some(writer) = self.images.iter_mut().find_map(ImageWriter::claim) {
            return Ok(writer);
        }
        let mut image = Image::new(self.bytes)?;
        Ok(ImageWriter::claim(&mut image).expect("a new image has one owner"))
    }

    /// True if a further image would be kept and none is free now.
    pub(crate) fn wants_another(&mut self) -> bool {
        self.images.len() < self.keep
            && !self.images.iter_mut().any(|image| Arc::get_mut(image).is_some())
    }

    /// The place of the pooled image under `frozen`.
    pub(crate) fn place(&self, frozen: &Frozen) -> Option<usize> {
        self.images.iter().position(|image| Arc::ptr_eq(image, frozen.image()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(bytes: usize) -> (Arc<Image>, ImageWriter) {
        let mut image = Image::new(bytes).unwrap();
        let writer = ImageWriter::claim(&mut image).unwrap();
        (image, writer)
    }

    #[test]
    fn frozen_bytes_outlive_their_writer_and_pin_the_image() {
        let (mut image, mut writer) = writer(8192);
        writer.tail_mut(0..5).copy_from_slice(b"hello");
        writer.freeze(5);
        let bytes = writer.share(0..5).into_bytes();
        let part = bytes.slice(1..3);
        drop((writer, bytes));
        assert_eq!(&part[..], b"el");
        assert!(ImageWriter::claim(&mut image).is_none());
        drop(part);
        assert!(ImageWriter::claim(&mut image).is_some());
    }

    #[test]
    #[should_panic(expected = "below the frozen mark")]
    fn frozen_bytes_cannot_be_written() {
        let (_image, mut writer) = writer(4096);
        writer.freeze(100);
        writer.tail_mut(99..101);
    }

    #[test]
    #[should_panic(expected = "above the frozen mark")]
    fn open_bytes_cannot_be_shared() {
        let (_image, writer) = writer(4096);
        let _ = writer.share(0..1);
    }

    #[test]
    fn the_pool_lends_an_image_again_only_when_its_last_bytes_are_gone() {
        let mut pool = ImagePool::new(4096, 1);
        pool.add(Image::new(4096).unwrap());
        let mut first = pool.take().unwrap();
        first.freeze(10);
        let lent = first.share(0..10);
        assert_eq!(pool.place(&lent), Some(0));
        drop(first);
        let mut other = pool.take().unwrap();
        other.freeze(1);
        assert_eq!(pool.place(&other.share(0..1)), None, "a lent image was handed out again");
        drop(lent);
        let mut again = pool.take().unwrap();
        again.freeze(1);
        assert_eq!(pool.place(&again.share(0..1)), Some(0));
    }
}

//! A disk that takes every write and keeps nothing: for counting what the log itself costs.
//!
//! In:     the log's calls, and [`Answers`], by which the owner says when the disk answers.
//! Out:    success for every write and every segment, all at the first poll at which the disk may answer.
//! Cost:   one entry of a list for each order; no byte is copied.
//! Fails:  every read: nothing is there.

use super::{
    Disk, DiskEvent, DriverInfo, MakeSegment, RetireSegment, Scan, ScanFile, Scanned, SegmentFile,
    SegmentOrigin, SegmentReader, WriteSegment,
};
use crate::format::{FORMAT_VERSION, Manifest, SegmentSeq};
use crate::home::Identity;
use crate::image::{Image, ImageWriter};
use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// Whether the disk answers. Shared with whoever made the disk.
pub type Answers = Rc<Cell<bool>>;

/// See the module.
pub struct ForgetfulDisk {
    manifest: Vec<u8>,
    segment_bytes: usize,
    events: Vec<DiskEvent>,
    answers: Answers,
}

impl ForgetfulDisk {
    /// A disk with the empty stream that [`crate::Home::create`] makes, for segments of one size.
    #[must_use]
    pub fn new(identity: &Identity, segment_bytes: usize, answers: Answers) -> Self {
        let manifest = Manifest {
            version: FORMAT_VERSION,
            shard: 0,
            store: identity.store,
            node: identity.node,
            first: SegmentSeq(1),
            made: SegmentSeq(0),
        };
        Self { manifest: manifest.encode(), segment_bytes, events: Vec::new(), answers }
    }
}

impl Disk for ForgetfulDisk {
    fn info(&self) -> DriverInfo {
        DriverInfo { driver: "forgetful", direct_io: true, registered_buffers: false }
    }

    fn path(&self, segment: SegmentSeq) -> PathBuf {
        PathBuf::from(format!("forgetful/{:010}.seg", segment.0))
    }

    fn manifest_path(&self) -> PathBuf {
        PathBuf::from("forgetful/manifest")
    }

    fn manifest(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(Some(self.manifest.clone()))
    }

    fn segments(&mut self) -> io::Result<Vec<SegmentFile>> {
        Ok(Vec::new())
    }

    fn read(&mut self, _segment: SegmentSeq, _offset: u64, _out: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn scan(&mut self, _wanted: Vec<ScanFile>) -> io::Result<Box<dyn Scan>> {
        Ok(Box::new(Nothing))
    }

    fn sync(&mut self, _segment: SegmentSeq) -> io::Result<()> {
        Ok(())
    }

    fn remove(&mut self, _segment: SegmentSeq) -> io::Result<()> {
        Ok(())
    }

    fn remove_temporary(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn make(&mut self, make: MakeSegment, _urgent: bool) {
        let result = Ok(SegmentOrigin::New);
        self.events.push(DiskEvent::Made { segment: make.segment, result });
    }

    fn retire(&mut self, retire: RetireSegment) {
        self.events.push(DiskEvent::Retired { segment: retire.segment, result: Ok(()) });
    }

    fn hurry(&mut self) {}

    fn chunks_made(&self) -> u64 {
        0
    }

    fn image(&mut self) -> io::Result<ImageWriter> {
        let mut image = Image::new(self.segment_bytes)?;
        Ok(ImageWriter::claim(&mut image).expect("a new image has one owner"))
    }

    fn write(&mut self, write: WriteSegment) -> io::Result<()> {
        self.events.push(DiskEvent::Written { token: write.token, result: Ok(()) });
        Ok(())
    }

    fn poll(&mut self, events: &mut Vec<DiskEvent>) -> io::Result<()> {
        if self.answers.get() {
            events.append(&mut self.events);
        }
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        match self.answers.get() && !self.events.is_empty() {
            true => Ok(()),
            false => Err(io::Error::other("nothing to wait for")),
        }
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn reader(&self, _segment: SegmentSeq) -> Arc<dyn SegmentReader> {
        Arc::new(Nothing)
    }
}

/// The content that the disk kept: none.
struct Nothing;

impl Scan for Nothing {
    fn next(&mut self) -> io::Result<&Scanned> {
        Err(io::ErrorKind::NotFound.into())
    }
}

impl SegmentReader for Nothing {
    fn read(&self, _offset: u64, _out: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
}

//! The base of both drivers over real files: the files, the orders to the maker, the images and the events.
//!
//! In:     the log's calls to its [`Disk`]; a [`Writer`], which is the part of a driver that writes.
//! Out:    [`DiskEvent`]s of writes and of orders.
//! Cost:   nothing beside the writer's and the maker's.
//! Fails:  as the writer, the maker and the file system do.
//! Source: RULES.md rules 7, 9, 17.

use super::files::Files;
use super::maker::{Made, Maker, Signal};
use super::scan::ReadAhead;
use super::{
    Disk, DiskEvent, DriverInfo, MakeSegment, RetireSegment, Scan, ScanFile, SegmentFile,
    SegmentReader, WriteSegment, is_shortage,
};
use crate::format::SegmentSeq;
use crate::image::{Image, ImagePool, ImageWriter};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// The part of a driver that writes. Dropping a writer waits for its writes in flight.
pub(super) trait Writer {
    /// The driver's properties. `direct_io`: writes are known to go past the page cache.
    fn info(&self, direct_io: bool) -> DriverInfo;

    /// Takes the file of a segment that was made, to write to it.
    fn keep(&mut self, segment: SegmentSeq, file: File);

    /// Hears of a warm image, which the pool keeps at `place` until the writer is gone.
    fn register(&mut self, _image: &Image, _place: usize) {}

    /// Starts a durable write. `place`: where the pool keeps the image under the bytes.
    fn write(&mut self, write: WriteSegment, place: Option<usize>) -> io::Result<()>;

    /// True if writes are in flight.
    fn is_writing(&self) -> bool;

    /// Adds the writes that are over to `events`. Never blocks.
    fn poll(&mut self, events: &mut Vec<DiskEvent>) -> io::Result<()>;

    /// Blocks until a write in flight may be over, and adds it to `events` if it is.
    fn wait(&mut self, events: &mut Vec<DiskEvent>) -> io::Result<()>;
}

/// A driver: the base, and its writer.
pub(super) struct Driver<W> {
    // Fields drop in order: the writer goes before the images that it may have registered.
    pub(super) writer: W,
    pool: ImagePool,
    image_ordered: bool,
    maker: Maker,
    /// The number of orders that the maker has not finished. An order that found no room is not finished: it is tried
    /// again.
    orders: usize,
    pub(super) events: Vec<DiskEvent>,
    signal: Arc<Signal>,
    files: Files,
    segment_bytes: usize,
}

impl<W: Writer> Driver<W> {
    /// Opens a driver. `writer` makes the writer, which raises the given signal when a write is over.
    pub(super) fn open(
        files: Files,
        segment_bytes: u64,
        writer: impl FnOnce(&Arc<Signal>) -> io::Result<W>,
    ) -> io::Result<Self> {
        let segment_bytes = usize::try_from(segment_bytes).expect("segments fit memory");
        let signal = Signal::new()?;
        let mut driver = Self {
            writer: writer(&signal)?,
            pool: ImagePool::new(segment_bytes, IMAGES_KEPT),
            image_ordered: false,
            maker: Maker::start(files.clone(), Arc::clone(&signal))?,
            orders: 0,
            events: Vec::new(),
            signal,
            files,
            segment_bytes,
        };
        // The open itself makes the first image and warms it, so that no later write has to wait for cold pages.
        let image = Image::new(segment_bytes)?;
        image.warm();
        driver.add_image(image);
        driver.order_image();
        Ok(driver)
    }

    fn add_image(&mut self, image: Arc<Image>) {
        let pooled = Arc::clone(&image);
        if let Some(place) = self.pool.add(pooled) {
            self.writer.register(&image, place);
        }
    }

    fn order_image(&mut self) {
        if !self.image_ordered && self.pool.wants_another() {
            self.image_ordered = true;
            self.maker.warm_image(self.segment_bytes);
        }
    }

    fn on_made(&mut self, made: Made) {
        match made {
            Made::Image(image) => {
                self.image_ordered = false;
                self.add_image(image);
                self.order_image();
            }
            Made::Segment(segment, result) => {
                let result = result.map(|(file, origin)| {
                    self.writer.keep(segment, file);
                    origin
                });
                if !matches!(&result, Err(error) if is_shortage(error)) {
                    self.orders -= 1;
                }
                self.events.push(DiskEvent::Made { segment, result });
            }
            Made::Retired(segment, result) => {
                self.orders -= 1;
                self.events.push(DiskEvent::Retired { segment, result });
            }
        }
    }
}

impl<W: Writer> Disk for Driver<W> {
    fn info(&self) -> DriverInfo {
        self.writer.info(self.files.past_cache())
    }

    fn path(&self, segment: SegmentSeq) -> PathBuf {
        self.files.path(segment)
    }

    fn manifest_path(&self) -> PathBuf {
        self.files.manifest_path()
    }

    fn manifest(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.files.manifest()
    }

    fn segments(&mut self) -> io::Result<Vec<SegmentFile>> {
        self.files.segments()
    }

    fn read(&mut self, segment: SegmentSeq, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.files.read(segment, offset, out)
    }

    fn scan(&mut self, wanted: Vec<ScanFile>) -> io::Result<Box<dyn Scan>> {
        Ok(Box::new(ReadAhead::start(self.files.clone(), wanted)?))
    }

    fn sync(&mut self, segment: SegmentSeq) -> io::Result<()> {
        self.files.sync(segment)
    }

    fn remove(&mut self, segment: SegmentSeq) -> io::Result<()> {
        self.files.remove(segment)
    }

    fn remove_temporary(&mut self) -> io::Result<()> {
        self.files.remove_temporary()
    }

    fn make(&mut self, make: MakeSegment, urgent: bool) {
        self.orders += 1;
        self.maker.make(make, urgent);
    }

    fn retire(&mut self, retire: RetireSegment) {
        self.orders += 1;
        self.maker.retire(retire);
    }

    fn hurry(&mut self) {
        self.maker.hurry();
    }

    fn chunks_made(&self) -> u64 {
        self.maker.chunks_made()
    }

    fn image(&mut self) -> io::Result<ImageWriter> {
        let image = self.pool.take();
        self.order_image();
        image
    }

    fn write(&mut self, write: WriteSegment) -> io::Result<()> {
        let place = self.pool.place(&write.bytes);
        self.writer.write(write, place)
    }

    fn poll(&mut self, events: &mut Vec<DiskEvent>) -> io::Result<()> {
        self.writer.poll(&mut self.events)?;
        while let Some(made) = self.maker.take() {
            self.on_made(made);
        }
        events.append(&mut self.events);
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        while self.events.is_empty() {
            if self.writer.is_writing() {
                self.writer.wait(&mut self.events)?;
            } else if self.orders > 0 {
                let made = self.maker.wait()?;
                self.on_made(made);
            } else {
                return Err(io::Error::other("nothing to wait for"));
            }
        }
        Ok(())
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.signal.fd().as_fd())
    }

    fn reader(&self, segment: SegmentSeq) -> Arc<dyn SegmentReader> {
        self.files.reader(segment)
    }
}

/// The number of images that are kept warm: one active, one closing, and one that is still borrowed from.
pub(super) const IMAGES_KEPT: usize = 3;

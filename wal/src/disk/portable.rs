//! Writes the log with `pwrite` and `fdatasync`, where io_uring cannot be used.
//!
//! In:     writes of frozen ranges, by a bounded channel to one thread.
//! Out:    completions, in order; an eventfd that is written when there is one.
//! Cost:   two hand-offs per write; one `fdatasync` for all writes that waited.
//! Fails:  an `fdatasync` that fails fails every write it should have covered.
//! Source: RULES.md rule 9: a sync covers only writes completed before it was called.

use super::files::Files;
use super::maker::{Made, Maker, Signal};
use super::scan::ReadAhead;
use super::{
    AbortOnPanic, Disk, DiskEvent, DriverInfo, MakeSegment, Progress, RetireSegment, Scan,
    ScanFile, SegmentFile, SegmentReader, WriteSegment, is_no_space, progress,
};
use crate::format::SegmentSeq;
use crate::image::{ImagePool, ImageWriter};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The driver that is used where io_uring is forbidden.
pub(super) struct PortableDisk {
    jobs: Option<Sender<Job>>,
    written: Receiver<(u64, io::Result<()>)>,
    thread: Option<JoinHandle<()>>,
    in_flight: usize,
    open: Vec<(SegmentSeq, Arc<File>)>,
    pool: ImagePool,
    image_ordered: bool,
    maker: Maker,
    orders: usize,
    events: Vec<DiskEvent>,
    signal: Arc<Signal>,
    files: Files,
    segment_bytes: usize,
}

struct Job {
    write: WriteSegment,
    file: Arc<File>,
}

impl PortableDisk {
    pub(super) fn open(
        files: Files,
        segment_bytes: u64,
        in_flight_max: usize,
        images: usize,
    ) -> io::Result<Self> {
        let segment_bytes = usize::try_from(segment_bytes).expect("segments fit memory");
        let signal = Signal::new()?;
        let (jobs, jobs_out) = bounded(in_flight_max);
        let (written_in, written) = bounded(in_flight_max);
        let raise = Arc::clone(&signal);
        let thread = std::thread::Builder::new().name("wal-write".to_owned()).spawn(move || {
            let _abort = AbortOnPanic;
            write_jobs(&jobs_out, &written_in, &raise);
        })?;
        Ok(Self {
            jobs: Some(jobs),
            written,
            thread: Some(thread),
            in_flight: 0,
            open: Vec::new(),
            pool: ImagePool::new(segment_bytes, images),
            image_ordered: false,
            maker: Maker::start(files.clone(), Arc::clone(&signal))?,
            orders: 0,
            events: Vec::new(),
            signal,
            files,
            segment_bytes,
        })
    }

    fn on_written(&mut self, (token, result): (u64, io::Result<()>)) {
        self.in_flight -= 1;
        self.events.push(DiskEvent::Written { token, result });
    }

    fn on_made(&mut self, made: Made) {
        match made {
            Made::Image(image) => {
                self.image_ordered = false;
                self.pool.add(image);
            }
            Made::Segment(segment, result) => {
                let result = result.map(|(file, origin)| {
                    self.open.push((segment, Arc::new(file)));
                    origin
                });
                if !matches!(&result, Err(error) if is_no_space(error)) {
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

impl Disk for PortableDisk {
    fn info(&self) -> DriverInfo {
        let direct_io = self.files.past_cache();
        DriverInfo { driver: "portable", direct_io, registered_buffers: false }
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
        if !self.image_ordered && self.pool.wants_another() {
            self.image_ordered = true;
            self.maker.warm_image(self.segment_bytes);
        }
        image
    }

    fn write(&mut self, write: WriteSegment) -> io::Result<()> {
        // Segments are written in order; jobs keep their file open.
        self.open.retain(|(segment, _)| *segment >= write.segment);
        let file = self.open.iter().find(|(segment, _)| *segment == write.segment);
        let Some((_, file)) = file else {
            return Err(io::Error::other(format!("{:?} is not open", write.segment)));
        };
        let job = Job { write, file: Arc::clone(file) };
        let jobs = self.jobs.as_ref().expect("open until dropped");
        jobs.try_send(job).map_err(|_| io::Error::other("the thread wal-write is gone or full"))?;
        self.in_flight += 1;
        Ok(())
    }

    fn poll(&mut self, events: &mut Vec<DiskEvent>) -> io::Result<()> {
        while let Ok(written) = self.written.try_recv() {
            self.on_written(written);
        }
        while let Some(made) = self.maker.take() {
            self.on_made(made);
        }
        events.append(&mut self.events);
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        while self.events.is_empty() {
            if self.in_flight > 0 {
                let written = self
                    .written
                    .recv()
                    .map_err(|_| io::Error::other("the thread wal-write is gone"))?;
                self.on_written(written);
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

impl Drop for PortableDisk {
    fn drop(&mut self) {
        self.jobs = None;
        // The thread finishes its jobs first; its answers have room, one per write in flight.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread: writes all that waits, then syncs once per file.
fn write_jobs(jobs: &Receiver<Job>, written: &Sender<(u64, io::Result<()>)>, signal: &Signal) {
    while let Ok(first) = jobs.recv() {
        let mut batch = vec![first];
        batch.extend(jobs.try_iter());
        let mut results: Vec<io::Result<()>> = batch.iter().map(write_whole).collect();
        let mut synced: Option<(SegmentSeq, io::Result<()>)> = None;
        for (job, result) in batch.iter().zip(&mut results) {
            let segment = job.write.segment;
            let known = synced.take_if(|(known, _)| *known == segment);
            let (_, outcome) = known.unwrap_or_else(|| (segment, job.file.sync_data()));
            if let (Ok(()), Err(error)) = (&result, &outcome) {
                *result = Err(same(error));
            }
            synced = Some((segment, outcome));
        }
        for (job, result) in batch.into_iter().zip(results) {
            if written.send((job.write.token, result)).is_err() {
                return;
            }
        }
        signal.raise();
    }
}

/// The error once more, for another write that it concerns.
fn same(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => error.kind().into(),
    }
}

fn write_whole(job: &Job) -> io::Result<()> {
    let bytes = &job.write.bytes;
    let mut from = 0;
    loop {
        let result = job.file.write_at(&bytes[from..], job.write.offset + from as u64);
        match progress(from, bytes.len(), result) {
            Progress::Whole => return Ok(()),
            Progress::Again(at) => from = at,
            Progress::Failed(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RULES.md W6, W7.
    #[test]
    fn a_failed_sync_tells_every_write_why() {
        let error = io::Error::from_raw_os_error(5);
        assert_eq!(same(&error).to_string(), error.to_string());
        assert!(error.to_string().contains("os error 5"));
        assert_eq!(same(&io::ErrorKind::WriteZero.into()).kind(), io::ErrorKind::WriteZero);
    }
}

//! Writes the log with `pwrite` and `fdatasync`, where io_uring cannot be used.
//!
//! In:     writes of frozen ranges, by a bounded channel to one thread.
//! Out:    completions, in order; an eventfd that is written when there is one.
//! Cost:   two hand-offs per write; one `fdatasync` for all writes that waited.
//! Fails:  an `fdatasync` that fails fails every write it should have covered.
//! Source: RULES.md rule 9: a sync covers only writes completed before it was called.

use super::driver::{Driver, Writer};
use super::files::Files;
use super::maker::Signal;
use super::{AbortOnPanic, DiskEvent, DriverInfo, Progress, WriteSegment, progress};
use crate::format::SegmentSeq;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Writes with `pwrite` and `fdatasync`, on a thread of its own.
pub(super) struct PortableWriter {
    jobs: Option<Sender<Job>>,
    written: Receiver<(u64, io::Result<()>)>,
    thread: Option<JoinHandle<()>>,
    in_flight: usize,
    open: Vec<(SegmentSeq, Arc<File>)>,
}

struct Job {
    write: WriteSegment,
    file: Arc<File>,
}

/// The portable driver, for kernels whose io_uring is forbidden or cannot write, and for settings that choose it.
pub(super) fn open(
    files: Files,
    segment_bytes: u64,
    in_flight_max: usize,
) -> io::Result<Driver<PortableWriter>> {
    Driver::open(files, segment_bytes, |signal| PortableWriter::start(in_flight_max, signal))
}

impl PortableWriter {
    fn start(in_flight_max: usize, signal: &Arc<Signal>) -> io::Result<Self> {
        let (jobs, jobs_out) = bounded(in_flight_max);
        let (written_in, written) = bounded(in_flight_max);
        let raise = Arc::clone(signal);
        let thread = std::thread::Builder::new().name("wal-write".to_owned()).spawn(move || {
            let _abort = AbortOnPanic;
            write_jobs(&jobs_out, &written_in, &raise);
        })?;
        let (jobs, thread) = (Some(jobs), Some(thread));
        Ok(Self { jobs, written, thread, in_flight: 0, open: Vec::new() })
    }
}

impl Writer for PortableWriter {
    fn info(&self, direct_io: bool) -> DriverInfo {
        DriverInfo { driver: "portable", direct_io, registered_buffers: false }
    }

    fn keep(&mut self, segment: SegmentSeq, file: File) {
        self.open.push((segment, Arc::new(file)));
    }

    fn write(&mut self, write: WriteSegment, _: Option<usize>) -> io::Result<()> {
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

    fn is_writing(&self) -> bool {
        self.in_flight > 0
    }

    fn poll(&mut self, events: &mut Vec<DiskEvent>) -> io::Result<()> {
        for (token, result) in self.written.try_iter() {
            self.in_flight -= 1;
            events.push(DiskEvent::Written { token, result });
        }
        Ok(())
    }

    fn wait(&mut self, events: &mut Vec<DiskEvent>) -> io::Result<()> {
        let written = self.written.recv();
        let (token, result) =
            written.map_err(|_| io::Error::other("the thread wal-write is gone"))?;
        self.in_flight -= 1;
        events.push(DiskEvent::Written { token, result });
        Ok(())
    }
}

impl Drop for PortableWriter {
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

/// The error once more, for something else that it concerns.
pub(super) fn same(error: &io::Error) -> io::Error {
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

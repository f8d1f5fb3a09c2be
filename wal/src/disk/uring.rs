//! Writes the log through io_uring: one ring per stream, on the shard's own thread.
//!
//! In:     writes of frozen ranges, a few in flight; each is O_DIRECT with RWF_DSYNC, so that its completion is its
//!         durability.
//! Out:    completions in any order; an eventfd that is written when there is one.
//! Cost:   one `io_uring_enter` per write; no copy. Registered images spare the kernel the pinning of
//!         pages per write, registered files the look-up.
//! Fails:  io_uring may be forbidden (containers) or RLIMIT_MEMLOCK too small to register images: the first is
//!         an error of `open`, the second means plain writes.
//! Source: RULES.md rule 9, W4, W15; io_uring_setup(2), io_uring_register(2).
//!
//! The `unsafe` here is sound for these reasons: the kernel reads a write's bytes until its completion is reaped.
//! [`UringWriter::in_flight`] owns them (a [`Frozen`], which never changes and pins its image) from before the
//! submission until the completion, and the file descriptor stays open as long. `Drop` waits for every write in flight;
//! if the ring itself fails, `Drop` leaks the bytes and the files instead. A registered image stays registered until
//! the ring is gone, and the driver's pool, which owns it, is dropped after its writer ([`Driver`]).

#![allow(unsafe_code)]

use super::driver::{Driver, IMAGES_KEPT, Writer};
use super::files::Files;
use super::maker::Signal;
use super::{DiskEvent, DriverInfo, Progress, WriteSegment, progress};
use crate::format::SegmentSeq;
use crate::image::{Frozen, Image};
use hashbrown::HashMap;
use io_uring::{IoUring, Probe, opcode, squeue, types};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// Writes through a ring.
pub(super) struct UringWriter {
    ring: IoUring,
    in_flight: HashMap<u64, InFlight>,
    open: Vec<OpenFile>,
    /// Per place in the pool: whether that image is registered under the same number.
    registered: Vec<bool>,
    sparse: bool,
}

struct OpenFile {
    segment: SegmentSeq,
    file: File,
    /// Its place in the ring's table, which spares the kernel the look-up and the count per write.
    slot: Option<i32>,
}

struct InFlight {
    segment: SegmentSeq,
    offset: u64,
    bytes: Frozen,
    /// The number under which the image that holds the bytes is registered; `None` if it is not registered.
    place: Option<u16>,
    /// Bytes already written by earlier, short attempts.
    from: usize,
}

/// Whether the kernel can write the log, by the operations that its ring lists; `None` if it lists none.
fn can_write(probe: Option<&Probe>) -> io::Result<()> {
    let needed = [opcode::Write::CODE, opcode::WriteFixed::CODE];
    match probe.is_some_and(|probe| needed.iter().all(|code| probe.is_supported(*code))) {
        true => Ok(()),
        false => {
            let what = "the kernel's io_uring has no operation that writes";
            Err(io::Error::new(io::ErrorKind::Unsupported, what))
        }
    }
}

/// The io_uring driver.
pub(super) fn open(
    files: Files,
    segment_bytes: u64,
    in_flight_max: usize,
) -> io::Result<Driver<UringWriter>> {
    Driver::open(files, segment_bytes, |signal| UringWriter::new(in_flight_max, signal))
}

impl UringWriter {
    fn new(in_flight_max: usize, signal: &Signal) -> io::Result<Self> {
        let entries = u32::try_from(in_flight_max).expect("bounded").next_power_of_two().max(8);
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_single_issuer()
            .build(entries)
            // Kernels before 6.0 do not know the flags.
            .or_else(|_| IoUring::new(entries))?;
        // Rings came with 5.1, and the operations that write from memory, with this question, with 5.6.
        let mut probe = Probe::new();
        let asked = ring.submitter().register_probe(&mut probe);
        can_write(asked.is_ok().then_some(&probe))?;
        ring.submitter().register_eventfd(signal.fd().as_raw_fd())?;
        let sparse = ring
            .submitter()
            .register_buffers_sparse(u32::try_from(IMAGES_KEPT).expect("a few images"))
            .is_ok();
        if let Err(error) = ring.submitter().register_files_sparse(FILE_SLOTS.cast_unsigned()) {
            tracing::debug!(%error, "the ring has no table of files: writes name them by descriptor");
        }
        let in_flight = HashMap::with_capacity(in_flight_max);
        Ok(Self { ring, in_flight, open: Vec::new(), registered: Vec::new(), sparse })
    }

    /// Queues the rest of write `token` for the kernel. If that fails, the kernel knows nothing of it.
    fn queue(&mut self, token: u64) -> io::Result<()> {
        let write = &self.in_flight[&token];
        let open = self.open.iter().find(|open| open.segment == write.segment);
        let Some(open) = open else {
            return Err(io::Error::other(format!("{:?} is not open", write.segment)));
        };
        let rest = &write.bytes[write.from..];
        let len = u32::try_from(rest.len()).expect("batches are below 4 GiB");
        let offset = write.offset + write.from as u64;
        let (fd, flags) = match open.slot {
            Some(slot) => (types::Fd(slot), squeue::Flags::FIXED_FILE),
            None => (types::Fd(open.file.as_raw_fd()), squeue::Flags::empty()),
        };
        let entry = match write.place {
            Some(place) => opcode::WriteFixed::new(fd, rest.as_ptr(), len, place)
                .offset(offset)
                .rw_flags(libc::RWF_DSYNC)
                .build(),
            None => opcode::Write::new(fd, rest.as_ptr(), len)
                .offset(offset)
                .rw_flags(libc::RWF_DSYNC)
                .build(),
        };
        let entry = entry.flags(flags).user_data(token);
        // SAFETY: the bytes and the file stay as they are until this token's completion: `in_flight` owns the
        // bytes and lets go only in `reap`, and a file is closed only when no write to it is in flight.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| io::Error::other("submission queue is full"))
    }

    /// Closes the files of segments before `segment` that no write in flight needs.
    fn close_before(&mut self, segment: SegmentSeq) {
        let in_flight = &self.in_flight;
        let is_done = |open: &mut OpenFile| {
            open.segment < segment && in_flight.values().all(|write| write.segment != open.segment)
        };
        let done: Vec<OpenFile> = self.open.extract_if(.., is_done).collect();
        for slot in done.iter().filter_map(|open| open.slot) {
            // Left in the table, the file would stay open for as long as the ring, no more.
            let _ = self.set_slot(slot, NO_FILE);
        }
    }

    fn set_slot(&self, slot: i32, file: RawFd) -> io::Result<usize> {
        let slot = u32::try_from(slot).expect("a small number");
        self.ring.submitter().register_files_update(slot, &[file])
    }

    fn submit(&mut self) -> io::Result<()> {
        match self.ring.submit() {
            Ok(_) => Ok(()),
            // The kernel is short of something for now; the entry stays queued for the next poll.
            Err(error) if is_transient(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes completions off the ring.
    fn reap(&mut self, events: &mut Vec<DiskEvent>) -> io::Result<()> {
        let mut again = Vec::new();
        for completion in self.ring.completion() {
            let (token, result) = (completion.user_data(), completion.result());
            if goes_on(&mut self.in_flight, events, token, result) {
                again.push(token);
            }
        }
        if again.is_empty() {
            return Ok(());
        }
        for token in again {
            if let Err(error) = self.queue(token) {
                // The ring must know every write that counts as in flight, or its answer would never come.
                self.in_flight.remove(&token);
                events.push(DiskEvent::Written { token, result: Err(error) });
            }
        }
        self.submit()
    }
}

impl Writer for UringWriter {
    fn info(&self, direct_io: bool) -> DriverInfo {
        let registered_buffers =
            !self.registered.is_empty() && self.registered.iter().all(|registered| *registered);
        DriverInfo { driver: "io_uring", direct_io, registered_buffers }
    }

    /// Keeps a segment's file, in the ring's table if there is a place.
    fn keep(&mut self, segment: SegmentSeq, file: File) {
        let is_free = |slot: &i32| self.open.iter().all(|open| open.slot != Some(*slot));
        let slot = (0..FILE_SLOTS).find(is_free);
        let slot = slot.filter(|slot| self.set_slot(*slot, file.as_raw_fd()).is_ok());
        self.open.push(OpenFile { segment, file, slot });
    }

    /// Registers the image under its place in the pool.
    fn register(&mut self, image: &Image, place: usize) {
        let (base, len) = image.raw_parts();
        assert_eq!(place, self.registered.len(), "images are registered as they are pooled");
        let iovec = libc::iovec { iov_base: base.cast(), iov_len: len };
        let place = u32::try_from(place).expect("a few images");
        let registered = self.sparse
            && {
                // SAFETY: `iovec` is one whole map, which the driver's pool owns; the pool outlives the ring.
                let update =
                    unsafe { self.ring.submitter().register_buffers_update(place, &[iovec], None) };
                if let Err(error) = &update {
                    tracing::warn!(%error, "an image cannot be registered with the ring (RLIMIT_MEMLOCK?): it is written with plain writes");
                }
                update.is_ok()
            };
        self.registered.push(registered);
    }

    fn write(&mut self, write: WriteSegment, place: Option<usize>) -> io::Result<()> {
        // Segments are written in order: those before this one are done with.
        self.close_before(write.segment);
        let WriteSegment { token, segment, offset, bytes } = write;
        let place = place.filter(|place| self.registered[*place]);
        let place = place.map(|place| u16::try_from(place).expect("a few images"));
        let in_flight = InFlight { segment, offset, bytes, place, from: 0 };
        let before = self.in_flight.insert(token, in_flight);
        assert!(before.is_none(), "token {token} is in flight already");
        if let Err(error) = self.queue(token) {
            self.in_flight.remove(&token);
            return Err(error);
        }
        self.submit()
    }

    fn is_writing(&self) -> bool {
        !self.in_flight.is_empty()
    }

    fn poll(&mut self, events: &mut Vec<DiskEvent>) -> io::Result<()> {
        let (queued, deferred) = {
            let queue = self.ring.submission();
            (!queue.is_empty(), queue.taskrun())
        };
        if queued {
            self.submit()?;
        }
        if deferred {
            // Completions wait for this thread to enter the kernel.
            // SAFETY: no argument is passed; GETEVENTS without a minimum only runs what is due.
            let entered = unsafe { self.ring.submitter().enter::<()>(0, 0, ENTER_GETEVENTS, None) };
            match entered {
                Err(error) if !is_transient(&error) => return Err(error),
                _ => {}
            }
        }
        self.reap(events)
    }

    fn wait(&mut self, events: &mut Vec<DiskEvent>) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(error) if !is_transient(&error) => Err(error),
            _ => self.reap(events),
        }
    }
}

impl Drop for UringWriter {
    fn drop(&mut self) {
        while self.is_writing() {
            if let Err(error) = self.wait(&mut Vec::new()) {
                // The kernel may still read them: better lost than given away.
                tracing::error!(%error, "the ring failed while it was closed: the memory of writes in flight is leaked, for the kernel may still read it");
                std::mem::forget(std::mem::take(&mut self.in_flight));
                std::mem::forget(std::mem::take(&mut self.open));
            }
        }
    }
}

/// Takes in the kernel's answer to a write; true if the rest of it is to be handed in again.
fn goes_on(
    in_flight: &mut HashMap<u64, InFlight>,
    events: &mut Vec<DiskEvent>,
    token: u64,
    result: i32,
) -> bool {
    let write = in_flight.get_mut(&token).expect("a completion of a write in flight");
    let result =
        usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()));
    let result = match progress(write.from, write.bytes.len(), result) {
        Progress::Again(from) => {
            write.from = from;
            return true;
        }
        Progress::Whole => Ok(()),
        Progress::Failed(error) => Err(error),
    };
    in_flight.remove(&token);
    events.push(DiskEvent::Written { token, result });
    false
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy
    )
}

/// `IORING_ENTER_GETEVENTS`.
const ENTER_GETEVENTS: u32 = 1;
/// The active segment, those before it with writes in flight, and the spares.
const FILE_SLOTS: i32 = 8;
const NO_FILE: RawFd = -1;

#[cfg(test)]
mod tests {
    use super::super::Disk;
    use super::*;
    use std::io::{PipeReader, Read};

    const TOKEN: u64 = 7;
    const BYTES: usize = 256 << 10;
    /// The capacity of a pipe, unless somebody asked for more.
    const PIPE_BYTES: usize = 64 << 10;

    /// A driver whose one segment is a pipe: a write to it ends short when it fills, and waits while it is full.
    /// `None`, said aloud, without io_uring.
    fn on_a_pipe(dir: &std::path::Path) -> Option<(Driver<UringWriter>, PipeReader)> {
        let files = Files::probe(dir).unwrap();
        let mut disk = match open(files, BYTES as u64, 2) {
            Ok(disk) => disk,
            Err(error) => {
                println!("SKIPPED: io_uring: {error}");
                return None;
            }
        };
        let (reader, writer) = std::io::pipe().unwrap();
        disk.writer.keep(SegmentSeq(1), File::from(std::os::fd::OwnedFd::from(writer)));
        Some((disk, reader))
    }

    /// RULES.md W21.
    #[test]
    fn a_ring_that_does_not_say_that_it_writes_is_not_used() {
        for silent in [None, Some(&Probe::new())] {
            assert_eq!(can_write(silent).unwrap_err().kind(), io::ErrorKind::Unsupported);
        }
    }

    /// Starts a write of a whole image; returns what it writes.
    fn start(disk: &mut Driver<UringWriter>) -> Vec<u8> {
        let mut image = disk.image().unwrap();
        for (word, at) in image.tail_mut(0..BYTES).chunks_exact_mut(4).zip(0u32..) {
            word.copy_from_slice(&at.to_le_bytes());
        }
        image.freeze(BYTES);
        let bytes = image.share(0..BYTES);
        let written = bytes.to_vec();
        disk.write(WriteSegment { token: TOKEN, segment: SegmentSeq(1), offset: 0, bytes })
            .unwrap();
        written
    }

    /// Waits for the next completion.
    fn complete_one(disk: &mut Driver<UringWriter>) {
        let patience = types::Timespec::new().sec(30);
        let patience = types::SubmitArgs::new().timespec(&patience);
        disk.writer.ring.submitter().submit_with_args(1, &patience).expect("a completion");
        assert_eq!(disk.writer.ring.completion().len(), 1);
    }

    fn reap(disk: &mut Driver<UringWriter>) {
        let Driver { writer, events, .. } = disk;
        writer.reap(events).unwrap();
    }

    /// Takes in the next completion; returns how far the write has come, while it is under way.
    fn reap_one(disk: &mut Driver<UringWriter>) -> Option<usize> {
        complete_one(disk);
        reap(disk);
        disk.writer.in_flight.get(&TOKEN).map(|write| write.from)
    }

    /// Makes the kernel answer the write, which waits for room in the pipe, at once, with an error: it has written
    /// nothing since its last answer.
    fn interrupt(disk: &mut Driver<UringWriter>) {
        let write = types::CancelBuilder::user_data(TOKEN);
        disk.writer.ring.submitter().register_sync_cancel(None, write).unwrap();
    }

    fn outcome(disk: &mut Driver<UringWriter>) -> io::Result<()> {
        let mut events = Vec::new();
        disk.poll(&mut events).unwrap();
        match (events.pop(), events.pop()) {
            (Some(DiskEvent::Written { token: TOKEN, result }), None) => result,
            other => panic!("{other:?}"),
        }
    }

    /// RULES.md W4.
    #[test]
    fn a_write_whose_completions_are_short_or_interrupted_goes_on_until_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let Some((mut disk, mut reader)) = on_a_pipe(dir.path()) else { return };
        let wanted = start(&mut disk);
        // The kernel's answer is the number of bytes the pipe had room for.
        assert_eq!(reap_one(&mut disk), Some(PIPE_BYTES));
        // A write that ended without a byte, but not with the errors that say: again. The rest is the kernel's.
        for errno in [libc::EINTR, libc::EAGAIN] {
            interrupt(&mut disk);
            complete_one(&mut disk);
            let completion = disk.writer.ring.completion().next().unwrap();
            assert_eq!((completion.user_data(), completion.result()), (TOKEN, -libc::ECANCELED));
            assert!(goes_on(&mut disk.writer.in_flight, &mut disk.events, TOKEN, -errno));
            assert_eq!(disk.writer.in_flight[&TOKEN].from, PIPE_BYTES);
            disk.writer.queue(TOKEN).unwrap();
            disk.writer.submit().unwrap();
        }
        let (mut found, mut parts, mut before) = (vec![0; 20 << 10], 1, PIPE_BYTES);
        reader.read_exact(&mut found).unwrap();
        while let Some(from) = reap_one(&mut disk) {
            assert!(disk.events.is_empty(), "{from} bytes of a write counted for all");
            assert!(from > before && from <= found.len() + PIPE_BYTES, "{before}, then {from}");
            (parts, before) = (parts + 1, from);
            let mut more = [0; 20 << 10];
            let read = reader.read(&mut more).unwrap();
            found.extend_from_slice(&more[..read]);
        }
        outcome(&mut disk).unwrap();
        assert!(parts >= 4, "{parts} short completions");
        drop(disk);
        reader.read_to_end(&mut found).unwrap();
        assert!(found == wanted, "other bytes than were to be written");
    }

    /// RULES.md W4.
    #[test]
    fn a_write_that_fails_behind_a_short_completion_has_failed() {
        // Nobody reads any more; or the kernel gives the rest up.
        for (errno, ends) in [(libc::EPIPE, true), (libc::ECANCELED, false)] {
            let dir = tempfile::tempdir().unwrap();
            let Some((mut disk, reader)) = on_a_pipe(dir.path()) else { return };
            start(&mut disk);
            assert_eq!(reap_one(&mut disk), Some(PIPE_BYTES));
            let reader = Some(reader).filter(|_| !ends);
            if reader.is_some() {
                interrupt(&mut disk);
            }
            assert_eq!(reap_one(&mut disk), None, "handed in again");
            let error = outcome(&mut disk).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(errno));
        }
    }

    /// RULES.md W4, W15.
    /// The history that broke it:
    /// 1. Two writes end short. The rest of the first cannot be handed in.
    /// 2. The rest of the second is not handed in either, and counts as in flight.
    /// 3. Dropping the driver waits for an answer to it, for ever.
    #[test]
    fn a_write_that_cannot_be_handed_in_again_takes_no_other_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let Some((disk, reader)) = on_a_pipe(dir.path()) else { return };
        // If this fails, its drop is what waits.
        let mut disk = std::mem::ManuallyDrop::new(disk);
        let (mut other, writer) = std::io::pipe().unwrap();
        disk.writer.keep(SegmentSeq(2), File::from(std::os::fd::OwnedFd::from(writer)));
        start(&mut disk);
        let mut image = disk.image().unwrap();
        image.freeze(BYTES);
        let bytes = image.share(0..BYTES);
        let second = WriteSegment { token: TOKEN + 1, segment: SegmentSeq(2), offset: 0, bytes };
        disk.write(second).unwrap();
        let patience = types::Timespec::new().sec(30);
        let patience = types::SubmitArgs::new().timespec(&patience);
        disk.writer.ring.submitter().submit_with_args(2, &patience).expect("both end short");
        disk.writer.open.retain(|open| open.segment != SegmentSeq(1));
        reap(&mut disk);
        assert!(matches!(&disk.events[..], [DiskEvent::Written { token: TOKEN, result: Err(_) }]));
        assert_eq!(disk.writer.in_flight.keys().collect::<Vec<_>>(), [&(TOKEN + 1)]);
        drop(reader);
        let found = std::thread::scope(|scope| {
            let read = scope.spawn(move || {
                let mut found = Vec::new();
                other.read_to_end(&mut found).map(|_| found.len())
            });
            // Waits for the second write, and closes its pipe.
            drop(std::mem::ManuallyDrop::into_inner(disk));
            read.join().unwrap().unwrap()
        });
        assert_eq!(found, BYTES);
    }
}

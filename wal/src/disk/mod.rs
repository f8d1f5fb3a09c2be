//! The interface between the log, which decides, and a driver, which acts on the disk. Writes are started, and their
//! ends arrive as events, so that the same log runs on io_uring, on plain writes and in the simulator.
//!
//! In:     durable writes of frozen image ranges; orders for further segments; reads while opening.
//! Out:    [`DiskEvent`]s, in any order.
//! Cost:   see the drivers.
//! Fails:  an event with an error; the log decides that it is final. A driver never retries what failed.
//! Source: RULES.md rules 9 (several writes in flight), 17 (no retry).

mod driver;
mod files;
#[cfg(feature = "sim")]
pub mod forgetful;
mod maker;
mod portable;
mod scan;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod steps;
mod uring;

use crate::format::{BLOCK_BYTES, SegmentSeq};
use crate::image::{Frozen, ImageWriter};
use rustix::io::Errno;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) use files::{
    CORRUPT_SUFFIX, MANIFEST_NAME, TEMPORARY_SUFFIX, atomic_write, create, is_nearly_a_segments,
    is_temporary, open_to_read, rename, segment_name, segment_of, sync as sync_file, sync_dir,
};
pub use scan::{Scan, Scanned};
pub(crate) use scan::{first_of, is_unreadable};
#[cfg(test)]
pub(crate) use steps::taken as steps_taken;

/// Which driver writes the log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DriverChoice {
    /// io_uring if the kernel allows it, else plain writes.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// Plain writes and `fdatasync`, on a thread of their own.
    Portable,
}

/// Aborts the process when a thread of the log panics: a panic there is a broken invariant, and the log would wait for
/// that thread for ever.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// The properties that a driver turned out to have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DriverInfo {
    /// `io_uring`, `portable` or `sim`.
    pub driver: &'static str,
    /// True if writes are known to go past the page cache. Else one write is in flight at a time, and what an open reads
    /// proves nothing of what is on the disk.
    pub direct_io: bool,
    /// True if images are registered with the ring.
    pub registered_buffers: bool,
}

/// A segment file found while opening.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SegmentFile {
    /// From its name.
    pub segment: SegmentSeq,
    /// Its size.
    pub bytes: u64,
}

/// The part of a segment to read while opening.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ScanFile {
    /// Which.
    pub segment: SegmentSeq,
    /// How many bytes, from its first on: whole blocks.
    pub bytes: u64,
}

/// An order for the next segment.
#[derive(Clone, Debug)]
pub struct MakeSegment {
    /// Its number.
    pub segment: SegmentSeq,
    /// Its size.
    pub bytes: u64,
    /// Its first block; zeros follow.
    pub header: Box<[u8; BLOCK_BYTES]>,
}

/// An order to give up the oldest segment.
#[derive(Clone, Copy, Debug)]
pub struct RetireSegment {
    /// Its number.
    pub segment: SegmentSeq,
    /// The oldest segment after this one is gone. The manifest says so, durably, before the file is touched.
    pub first: SegmentSeq,
    /// The file's size.
    pub bytes: u64,
    /// The file's fate.
    pub fate: Fate,
}

/// The fate of a segment's file that is not needed any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// Kept to be made another segment.
    Recycle,
    /// Removed.
    Remove,
    /// Kept as `*.corrupt`, for an operator to look at (rule 25). It gets that name before the manifest stops naming
    /// it.
    SetAside,
}

/// The origin of a segment's file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SegmentOrigin {
    /// A new file, written with zeros.
    New,
    /// A file given up before; its old bytes are in it.
    Recycled,
}

/// A durable write.
#[derive(Clone, Debug)]
pub struct WriteSegment {
    /// Names it in its event.
    pub token: u64,
    /// Into which segment; it has been made.
    pub segment: SegmentSeq,
    /// At which byte; whole blocks.
    pub offset: u64,
    /// The bytes to write. The driver keeps these bytes until the write is over.
    pub bytes: Frozen,
}

/// Something finished.
#[derive(Debug)]
pub enum DiskEvent {
    /// A write is durable, whole; or it failed, and nothing is known of its bytes.
    Written {
        /// Which.
        token: u64,
        /// How it went.
        result: io::Result<()>,
    },
    /// A segment can be used, or it could not be made. For lack of room, of file descriptors or of memory the driver keeps
    /// trying, and reports again.
    Made {
        /// Which.
        segment: SegmentSeq,
        /// How it went.
        result: io::Result<SegmentOrigin>,
    },
    /// A segment is given up. For such a lack the driver keeps trying, without a report.
    Retired {
        /// Which.
        segment: SegmentSeq,
        /// How it went.
        result: io::Result<()>,
    },
}

/// Reads a sealed segment, from any thread. May block.
pub trait SegmentReader: Send + Sync {
    /// Fills `out` from byte `offset` on.
    ///
    /// # Errors
    /// Any error that the file gives; bytes behind its end are an error.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// As [`SegmentReader::read`], but past the page cache where that is possible: the first read may have gone wrong
    /// once, or the cached page may be damaged while the disk is not.
    ///
    /// # Errors
    /// As [`SegmentReader::read`].
    fn read_again(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read(offset, out)
    }

    /// The number of bytes that are worth reading at once where fewer are needed; 0 if each read costs what it reads.
    fn window_bytes(&self) -> usize {
        0
    }

    /// Says that the reader will read on from `offset` in order. The reader of the segment may use it to load ahead,
    /// or not.
    fn ahead(&self, _offset: u64) {}
}

/// The storage of one log, which owns it: a driver over real files, or the simulator's disk.
///
/// Dropping it waits for its writes in flight.
pub trait Disk {
    /// The driver's properties.
    fn info(&self) -> DriverInfo;

    /// The name of a segment's file, for errors.
    fn path(&self, segment: SegmentSeq) -> PathBuf;

    /// The name of the manifest's file, for errors.
    fn manifest_path(&self) -> PathBuf;

    /// The manifest, whole; `None` if there is none.
    ///
    /// # Errors
    /// The read's.
    fn manifest(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// The segment files there are, in order.
    ///
    /// # Errors
    /// The directory's; [`io::ErrorKind::InvalidData`] for a name that is nearly a segment's.
    fn segments(&mut self) -> io::Result<Vec<SegmentFile>>;

    /// Fills `out` from byte `offset` of a segment file. Blocks; used while opening.
    ///
    /// # Errors
    /// The read's.
    fn read(&mut self, segment: SegmentSeq, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Reads segments, in this order, ahead of need. Used while opening.
    ///
    /// # Errors
    /// The thread that reads could not be started.
    fn scan(&mut self, wanted: Vec<ScanFile>) -> io::Result<Box<dyn Scan>>;

    /// Makes what was read of a segment durable. Blocks; used while opening (rule 19).
    ///
    /// # Errors
    /// The sync's.
    fn sync(&mut self, segment: SegmentSeq) -> io::Result<()>;

    /// Removes a segment file for good. Blocks; used while opening, on segments that are void.
    ///
    /// # Errors
    /// The removal's, or the directory sync's.
    fn remove(&mut self, segment: SegmentSeq) -> io::Result<()>;

    /// Removes files that are half made, and files that were kept to become segments again. Blocks; used while opening,
    /// before the first order.
    ///
    /// # Errors
    /// The listing's or a removal's.
    fn remove_temporary(&mut self) -> io::Result<()>;

    /// Orders the next segment; a [`DiskEvent::Made`] for it follows. `urgent` says that writes wait for it.
    fn make(&mut self, make: MakeSegment, urgent: bool);

    /// Orders that the oldest segment be given up; a [`DiskEvent::Retired`] for it follows, even while an order for a
    /// segment waits for room on the disk.
    fn retire(&mut self, retire: RetireSegment);

    /// Says that writes wait for the segments ordered.
    fn hurry(&mut self);

    /// The number of chunks written so far to segments that are being made. While it grows, the disk answers.
    fn chunks_made(&self) -> u64;

    /// An image of a segment's size, with whatever bytes are in it.
    ///
    /// # Errors
    /// No memory.
    fn image(&mut self) -> io::Result<ImageWriter>;

    /// Starts a durable write.
    ///
    /// # Errors
    /// It could not be started; no event follows.
    fn write(&mut self, write: WriteSegment) -> io::Result<()>;

    /// Adds what finished to `events`. Never blocks.
    ///
    /// # Errors
    /// The driver's own; nothing is known of the writes in flight.
    fn poll(&mut self, events: &mut Vec<DiskEvent>) -> io::Result<()>;

    /// Blocks until [`Disk::poll`] has something. Used while opening and closing.
    ///
    /// # Errors
    /// The driver's own.
    fn wait(&mut self) -> io::Result<()>;

    /// Becomes readable when [`Disk::poll`] may have something. It must be waited for edge-triggered, because nothing
    /// reads it and so it stays readable.
    fn readiness(&self) -> Option<BorrowedFd<'_>>;

    /// A reader of a sealed segment.
    fn reader(&self, segment: SegmentSeq) -> Arc<dyn SegmentReader>;
}

/// Opens the directory of one stream with the driver chosen.
pub(crate) fn open(
    dir: &std::path::Path,
    segment_bytes: u64,
    in_flight_max: usize,
    choice: DriverChoice,
) -> io::Result<Box<dyn Disk>> {
    let files = files::Files::probe(dir)?;
    if choice != DriverChoice::Portable {
        match uring::open(files.clone(), segment_bytes, in_flight_max) {
            Ok(disk) => return Ok(Box::new(disk)),
            Err(error) if choice == DriverChoice::Uring => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "io_uring cannot be used: the log is written with pwrite and fdatasync")
            }
        }
    }
    Ok(Box::new(portable::open(files, segment_bytes, in_flight_max)?))
}

/// True for errors that mean that something is short now and may be there later: room on the disk, a file descriptor of the
/// process or of the whole system, memory. The file that was being made is begun anew then, so nothing hangs on a sync that failed.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    is_no_space(error)
        || matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

/// True for errors that mean "no room now", which may pass.
fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// The consequence of one write's result (W4).
#[derive(Debug)]
enum Progress {
    /// All bytes are written.
    Whole,
    /// Write again, from this byte of the range on.
    Again(usize),
    /// It failed.
    Failed(io::Error),
}

/// Judges the result of writing `len` bytes from byte `from` on: bytes written, or an error.
fn progress(from: usize, len: usize, result: io::Result<usize>) -> Progress {
    match result {
        Ok(0) => Progress::Failed(io::ErrorKind::WriteZero.into()),
        Ok(written) if from + written >= len => Progress::Whole,
        // Direct writes start on blocks. Rewriting the part of a block that did land is allowed: none of
        // this write has been acknowledged.
        Ok(written) => match (from + written) / BLOCK_BYTES * BLOCK_BYTES {
            again if again > from => Progress::Again(again),
            _ => Progress::Failed(io::ErrorKind::WriteZero.into()),
        },
        Err(error)
            if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) =>
        {
            Progress::Again(from)
        }
        Err(error) => Progress::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RULES.md W4.
    #[test]
    fn a_short_write_goes_on_from_its_last_whole_block() {
        assert!(matches!(progress(0, 16384, Ok(16384)), Progress::Whole));
        assert!(matches!(progress(0, 16384, Ok(8192 + 512)), Progress::Again(8192)));
        assert!(matches!(progress(8192, 16384, Ok(4096)), Progress::Again(12288)));
        assert!(matches!(progress(8192, 16384, Ok(8192)), Progress::Whole));
        assert!(matches!(
            progress(4096, 16384, Err(io::ErrorKind::Interrupted.into())),
            Progress::Again(4096)
        ));
    }

    /// RULES.md W9.
    #[test]
    fn what_is_short_now_is_told_from_what_has_failed() {
        for short in
            [Errno::NOSPC, Errno::DQUOT, Errno::FBIG, Errno::MFILE, Errno::NFILE, Errno::NOMEM]
        {
            assert!(is_shortage(&short.into()), "{short}");
        }
        for failed in [Errno::IO, Errno::ROFS, Errno::NOENT, Errno::ACCESS, Errno::STALE] {
            assert!(!is_shortage(&failed.into()), "{failed}");
        }
    }

    /// RULES.md W4.
    #[test]
    fn a_write_of_nothing_or_a_failed_one_is_never_whole() {
        assert!(matches!(progress(0, 4096, Ok(0)), Progress::Failed(_)));
        assert!(matches!(progress(0, 8192, Ok(512)), Progress::Failed(_)));
        assert!(matches!(progress(0, 4096, Err(io::Error::other("EIO"))), Progress::Failed(_)));
    }
}

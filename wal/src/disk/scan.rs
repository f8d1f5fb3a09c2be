//! Reading whole segments while opening: one thread reads, another looks at what was read before.
//!
//! In:     the files to read, in order.
//! Out:    their bytes, with the ranges the device could not read.
//! Cost:   memory for two segments; large reads, past the page cache where the file system allows it.
//! Fails:  a file that cannot be opened, or ends early, is an error. A range that cannot be read is none: the log
//!         decides what it means. It is tried once more, block by block.
//! Source: RULES.md rule 19, C9.

use super::files::Files;
use super::{AbortOnPanic, ScanFile};
use crate::format::BLOCK_BYTES;
use crate::image::{Image, ImageWriter};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::thread::JoinHandle;

/// A file's first bytes, in memory.
#[derive(Debug)]
pub struct Scanned {
    image: ImageWriter,
    len: usize,
    unreadable: Vec<Range<usize>>,
}

impl Scanned {
    /// Memory for files of up to `capacity` bytes.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn with_capacity(capacity: usize) -> io::Result<Self> {
        let mut image = Image::new(capacity.max(BLOCK_BYTES))?;
        let image = ImageWriter::claim(&mut image).expect("a new image has one owner");
        Ok(Self { image, len: 0, unreadable: Vec::new() })
    }

    /// Fills it with `len` bytes through `read`, in chunks. A chunk that fails is read again block by block; blocks that
    /// fail again are zeros, and noted.
    pub(crate) fn fill(
        &mut self,
        len: usize,
        mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.len = len;
        self.unreadable.clear();
        for chunk in pieces(0..self.len, SCAN_CHUNK_BYTES) {
            match read(chunk.start as u64, self.image.tail_mut(chunk.clone())) {
                Ok(()) => continue,
                Err(error) if !is_unreadable(&error) => return Err(error),
                Err(error) => {
                    tracing::error!(%error, at = chunk.start, "a read of a segment failed: the part is read again block by block")
                }
            }
            for block in pieces(chunk, BLOCK_BYTES) {
                let out = self.image.tail_mut(block.clone());
                match read(block.start as u64, out) {
                    Ok(()) => {}
                    Err(error) if !is_unreadable(&error) => return Err(error),
                    Err(_) => {
                        out.fill(0);
                        self.unreadable.push(block);
                    }
                }
            }
        }
        Ok(())
    }

    /// The bytes. Bytes that could not be read are zeros.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.image.bytes(0..self.len)
    }

    /// True if all of `range` was read.
    pub(crate) fn is_readable(&self, range: Range<usize>) -> bool {
        self.unreadable.iter().all(|bad| bad.end <= range.start || range.end <= bad.start)
    }
}

/// Segments read one after the other.
pub trait Scan {
    /// The next file asked for; the one before is forgotten. Blocks.
    ///
    /// # Errors
    /// The file could not be opened, or is shorter than asked for.
    ///
    /// # Panics
    /// If there is no further one.
    fn next(&mut self) -> io::Result<&Scanned>;
}

/// The first file of a read that may have failed already.
pub(crate) fn first_of(read: &mut io::Result<Box<dyn Scan>>) -> io::Result<&Scanned> {
    match read {
        Ok(scan) => scan.next(),
        Err(error) => Err(std::mem::replace(error, io::ErrorKind::Other.into())),
    }
}

/// Reads ahead on a thread of its own.
pub(super) struct ReadAhead {
    /// Closed by dropping both, which ends the thread.
    ends: Option<(Receiver<io::Result<Scanned>>, Sender<Scanned>)>,
    current: Option<Scanned>,
    thread: Option<JoinHandle<()>>,
}

impl ReadAhead {
    pub(super) fn start(files: Files, wanted: Vec<ScanFile>) -> io::Result<Self> {
        // Nothing waits in between: of two buffers one is read into while the other is looked at.
        let (read_in, read) = bounded(0);
        let (used, used_out) = bounded(2);
        let thread = std::thread::Builder::new().name("wal-scan".to_owned()).spawn(move || {
            let _abort = AbortOnPanic;
            read_all(&files, wanted, &used_out, &read_in);
        })?;
        Ok(Self { ends: Some((read, used)), current: None, thread: Some(thread) })
    }
}

impl Scan for ReadAhead {
    fn next(&mut self) -> io::Result<&Scanned> {
        let (read, back) = self.ends.as_ref().expect("open until dropped");
        if let Some(used) = self.current.take() {
            // Refused if the thread has ended: it needs no more memory.
            let _ = back.try_send(used);
        }
        let scanned = read.recv().expect("nothing is asked for that was not ordered")?;
        Ok(self.current.insert(scanned))
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.ends = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_all(
    files: &Files,
    wanted: Vec<ScanFile>,
    used: &Receiver<Scanned>,
    read: &Sender<io::Result<Scanned>>,
) {
    let capacity = wanted.iter().map(|file| file.bytes).max().unwrap_or(0);
    for (n, file) in wanted.into_iter().enumerate() {
        // The first two are made here; from then on the reader waits for what it gave away.
        let memory = if n < 2 {
            usize::try_from(capacity)
                .map_err(|_| io::ErrorKind::OutOfMemory.into())
                .and_then(Scanned::with_capacity)
        } else {
            let Ok(used) = used.recv() else { return };
            Ok(used)
        };
        let scanned = memory.and_then(|memory| read_one(files, file, memory));
        let failed = scanned.is_err();
        if read.send(scanned).is_err() || failed {
            return;
        }
    }
}

fn read_one(files: &Files, wanted: ScanFile, mut memory: Scanned) -> io::Result<Scanned> {
    let file: File = files.open_to_scan(wanted.segment)?;
    let len = usize::try_from(wanted.bytes).expect("it fits its memory");
    memory.fill(len, |at, out| file.read_exact_at(out, at))?;
    Ok(memory)
}

/// `range` cut at multiples of `size`.
fn pieces(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(size).map(move |at| at..(at + size).min(end))
}

/// True for what a device says of sectors it cannot give back.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let known = [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::BADMSG, Errno::REMOTEIO];
    Errno::from_io_error(error).is_some_and(|errno| known.contains(&errno))
}

/// Bytes of one read.
const SCAN_CHUNK_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// RULES.md C9.
    #[test]
    fn a_range_that_cannot_be_read_is_zeros_and_noted_block_by_block() {
        let mut scanned = Scanned::with_capacity(4 << 20).unwrap();
        let bad = (1 << 20) + 8192;
        let mut reads = 0;
        scanned
            .fill(3 << 20, |at, out| {
                reads += 1;
                let at = usize::try_from(at).unwrap();
                if (at..at + out.len()).contains(&bad) {
                    return Err(io::Error::from(rustix::io::Errno::IO));
                }
                out.fill(7);
                Ok(())
            })
            .unwrap();
        assert_eq!(reads, 3 + 256, "each block of a failed chunk is tried once more");
        assert!(scanned.unreadable.iter().eq([&(bad..bad + BLOCK_BYTES)]));
        assert!(scanned.is_readable(0..bad) && !scanned.is_readable(bad + 5..bad + 6));
        assert!(scanned.is_readable(bad + BLOCK_BYTES..3 << 20));
        let bytes = scanned.bytes();
        assert!(bytes[bad..bad + BLOCK_BYTES].iter().all(|byte| *byte == 0));
        assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), BLOCK_BYTES);
    }

    #[test]
    fn any_other_failure_ends_the_scan() {
        let mut scanned = Scanned::with_capacity(8192).unwrap();
        let failed = scanned.fill(8192, |_, _| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}

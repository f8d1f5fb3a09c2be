//! Large batches through this log, beside raw direct writes of the same size and depth.
//!
//! In:     a directory; the size of a batch, how many are in flight.
//! Out:    bytes a second: [`Raw::round`], [`Large::round`].
//! Cost:   a file of 256 MiB; a log of its own for each size and depth.
//! Fails:  with the first error of the file or the log.
//!
//! The log is always given two batches more than it may have in flight: an embedder with this much to write
//! appends while it waits.

use crate::load::noise;
use crate::ours::create;
use crate::sleeper::Sleeper;
use crate::tenants::{Reader, Tenants};
use bytes::Bytes;
use logdrive_raft::{Entry, EntryKind, GroupId, LogIndex, Term, WriteId};
use logdrive_wal::{Append, BLOCK_BYTES, Home, Wal};
use rustix::fs::OFlags;
use rustix::io::ReadWriteFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A file of blocks already written.
pub(crate) struct Raw {
    file: File,
    /// One block longer than what is written from it: so an aligned range inside is found without unsafe code.
    memory: Vec<u8>,
}

impl Raw {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create_new(path)?;
        let memory = noise(1, MEMORY_BYTES + BLOCK_BYTES);
        for _ in 0..FILE_BYTES / MEMORY_BYTES as u64 {
            file.write_all(&memory[..MEMORY_BYTES])?;
        }
        file.sync_all()?;
        let direct = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        let file = OpenOptions::new().write(true).custom_flags(direct).open(path)?;
        Ok(Self { file, memory })
    }

    /// Writes `bytes` at a time, one behind the other, `depth` at once, each O_DIRECT and RWF_DSYNC, and each from
    /// other memory than the one before, as a log must: one buffer would stay in the processor's cache.
    #[expect(clippy::disallowed_methods, reason = "a clock is what a bench is for")]
    pub(crate) fn round(&self, bytes: usize, depth: usize, seconds: f64) -> io::Result<f64> {
        let aligned = self.memory.as_ptr().align_offset(BLOCK_BYTES);
        let memory = &self.memory[aligned..aligned + MEMORY_BYTES];
        let next = AtomicU64::new(0);
        let before = Instant::now();
        let end = before + Duration::from_secs_f64(seconds);
        let write = || -> io::Result<()> {
            while Instant::now() < end {
                let at = next.fetch_add(bytes as u64, Ordering::Relaxed) % FILE_BYTES;
                let from = usize::try_from(at).expect("fits memory") % MEMORY_BYTES;
                let from = IoSlice::new(&memory[from..from + bytes]);
                let flags = ReadWriteFlags::DSYNC;
                if rustix::io::pwritev2(&self.file, &[from], at, flags)? != bytes {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| -> io::Result<()> {
            let threads: Vec<_> = (0..depth).map(|_| scope.spawn(write)).collect();
            for thread in threads {
                thread.join().map_err(|_| io::Error::other("a writer panicked"))??;
            }
            Ok(())
        })?;
        Ok(next.into_inner() as f64 / before.elapsed().as_secs_f64())
    }
}

/// A log whose batches are all of one size.
pub(crate) struct Large {
    wal: Wal,
    sleeper: Arc<Sleeper>,
    reader: Reader,
    tenants: Tenants,
    entry: Entry,
    depth: usize,
    _home: Home,
}

impl Large {
    pub(crate) fn open(dir: &Path, bytes: usize, depth: usize) -> io::Result<Self> {
        let (home, mut config) = create(dir, Some(depth))?;
        config.batch_bytes_max = u32::try_from(bytes).map_err(io::Error::other)?;
        let (wal, _) = Wal::open(config).map_err(io::Error::other)?;
        let sleeper = Arc::new(Sleeper::new()?);
        sleeper.watch(&wal)?;
        // One block is left for the headers, so that a batch has `bytes` bytes and fills its last block.
        let payload = Bytes::from(noise(2, (bytes - BLOCK_BYTES) / BATCH_ENTRIES));
        let entry = Entry {
            term: Term(1),
            index: LogIndex(1),
            kind: EntryKind::Command,
            checksum: logdrive_wal::checksum(&payload),
            payload,
        };
        let reader = Reader::start(Arc::clone(&sleeper))?;
        Ok(Self { wal, sleeper, reader, tenants: Tenants::default(), entry, depth, _home: home })
    }

    /// Appends entry by entry, always so many that two batches wait for a slot: a batch is closed when it is full.
    /// Returns bytes written a second.
    #[expect(clippy::disallowed_methods, reason = "a clock is what a bench is for")]
    pub(crate) fn round(&mut self, seconds: f64) -> io::Result<f64> {
        let ahead = ((self.depth + 2) * BATCH_ENTRIES) as u64;
        let written = self.wal.metrics().bytes;
        let before = Instant::now();
        let end = before + Duration::from_secs_f64(seconds);
        let mut durable = self.entry.index.0;
        while Instant::now() < end {
            if self.entry.index.0 < durable + ahead {
                let append = Append {
                    group: GroupId(1),
                    write: WriteId(self.entry.index.0),
                    membership: None,
                    hard_state: None,
                    entries: std::slice::from_ref(&self.entry),
                };
                self.wal.append(&append).map_err(io::Error::other)?;
                self.entry.index.0 += 1;
            } else {
                self.sleeper.sleep()?;
            }
            durable = self.take_in()?.unwrap_or(durable);
        }
        self.wal.submit(0).map_err(io::Error::other)?;
        loop {
            self.take_in()?;
            if !self.wal.has_work() {
                break;
            }
            self.sleeper.sleep()?;
        }
        let written = self.wal.metrics().bytes - written;
        Ok(written as f64 / before.elapsed().as_secs_f64())
    }

    fn take_in(&mut self) -> io::Result<Option<u64>> {
        let mut completed = Vec::new();
        self.wal.poll(0, &mut completed).map_err(io::Error::other)?;
        for batch in &completed {
            self.tenants.note(&mut self.wal, batch)?;
        }
        self.reader.tidy(&mut self.wal)?;
        Ok(completed.iter().flat_map(|batch| &batch.durable).map(|durable| durable.upto().0).max())
    }
}

const FILE_BYTES: u64 = 256 << 20;
/// As many bytes as one of the log's images has.
const MEMORY_BYTES: usize = 64 << 20;
const BATCH_ENTRIES: usize = 16;

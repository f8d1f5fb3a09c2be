//! How long a log takes to open: [`fill`] makes one of a given size, [`measure`] opens it. The binary does the second in
//! a process of its own.
//!
//! In:     a directory, bytes, groups, the payload of an entry.
//! Out:    seconds and bytes per second of the open, beside a plain sequential read of the same files in the same
//!         run; the peak memory of the process that opened it.
//! Cost:   the log's size on disk, written once and read three times.
//! Fails:  with what the log or the file system says.

use bytes::Bytes;
use logdrive_raft::{Entry, EntryKind, GroupId, HardState, LogIndex, NodeId, Term, WriteId};
use logdrive_wal::{Append, Config, Home, Image, ImageWriter, Wal};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The log to make.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of segment files, about.
    pub bytes: u64,
    /// Groups in it.
    pub groups: u64,
    /// Bytes of an entry's payload.
    pub payload: usize,
    /// Entries a group appends at a time.
    pub run: u64,
}

/// The cost of opening the log.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Report {
    /// Bytes of batches replayed.
    pub log_bytes: u64,
    /// Bytes of all segment files.
    pub file_bytes: u64,
    /// Groups found.
    pub groups: usize,
    /// Entries found.
    pub entries: u64,
    /// From the call of `Wal::open` until it could be written to.
    pub open_seconds: f64,
    /// Bytes replayed per second, MB/s.
    pub open_mb_s: f64,
    /// A plain sequential read of the files' used bytes, past the page cache: the better of one before and one after.
    pub raw_seconds: f64,
    /// The bytes per second of that read, MB/s.
    pub raw_mb_s: f64,
    /// Peak memory of the process that opened the log, MiB, with the log's images.
    pub peak_mib: f64,
}

/// Writes a log of that shape into `dir`, which must not exist, as a killed process would leave it.
///
/// # Errors
/// An error of the log.
pub fn fill(dir: &Path, shape: &Shape) -> Result<(), Box<dyn Error>> {
    let home = Home::create(dir, "bench", NodeId(1), 1, BTreeMap::new())?;
    let (mut wal, _) = Wal::open(config(&home))?;
    let payload = Bytes::from(vec![b'x'; shape.payload]);
    let checksum = logdrive_wal::checksum(&payload);
    let mut completed = Vec::new();
    let mut write = 0;
    let mut first = 1;
    let mut written = 0;
    while written < shape.bytes {
        for group in 1..=shape.groups {
            write += 1;
            let entries: Vec<Entry> = (first..first + shape.run)
                .map(|index| Entry {
                    term: Term(1),
                    index: LogIndex(index),
                    kind: EntryKind::Command,
                    checksum,
                    payload: payload.clone(),
                })
                .collect();
            let commit = LogIndex(first - 1);
            wal.append(&Append {
                group: GroupId(group),
                write: WriteId(write),
                membership: (first == 1).then_some(b"members"),
                hard_state: Some(HardState {
                    term: Term(1),
                    voted_for: Some(NodeId(1)),
                    commit,
                    marked: false,
                }),
                entries: &entries,
            })?;
            while !wal.has_slot() {
                wal.poll(0, &mut completed)?;
                completed.clear();
            }
        }
        first += shape.run;
        written = wal.metrics().bytes;
    }
    while wal.has_work() {
        wal.submit(0)?;
        wal.poll(0, &mut completed)?;
        completed.clear();
    }
    Ok(())
}

/// Opens the log in `dir`, and reads its files plainly before and after.
///
/// # Errors
/// An error of the log or of the file system.
pub fn measure(dir: &Path) -> Result<Report, Box<dyn Error>> {
    let home = Home::open(dir)?;
    let files = segments(&home.shard_dir(0))?;
    let (file_bytes, before) = read_plainly(&files)?;
    let started = Instant::now();
    let (wal, recovered) = Wal::open(config(&home))?;
    let open_seconds = started.elapsed().as_secs_f64();
    let peak_mib = peak_bytes()? as f64 / f64::from(1 << 20);
    let (again, after) = read_plainly(&files)?;
    assert!(again == file_bytes, "the files have changed: {again} bytes, {file_bytes} before");
    drop(wal);
    let raw_seconds = before.min(after);
    let entries = recovered.groups.iter().map(|group| group.last.get()).sum();
    Ok(Report {
        log_bytes: recovered.bytes,
        file_bytes,
        groups: recovered.groups.len(),
        entries,
        open_seconds,
        open_mb_s: recovered.bytes as f64 / open_seconds / 1e6,
        raw_seconds,
        raw_mb_s: file_bytes as f64 / raw_seconds / 1e6,
        peak_mib,
    })
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "log           {:>10.1} MB in {} groups, {} entries",
            self.log_bytes as f64 / 1e6,
            self.groups,
            self.entries
        )?;
        writeln!(f, "open          {:>10.3} s {:>10.0} MB/s", self.open_seconds, self.open_mb_s)?;
        writeln!(
            f,
            "plain read    {:>10.3} s {:>10.0} MB/s   ({:.1} MB of files, O_DIRECT, 1 MiB at a time)",
            self.raw_seconds,
            self.raw_mb_s,
            self.file_bytes as f64 / 1e6
        )?;
        writeln!(f, "peak memory   {:>10.1} MiB", self.peak_mib)
    }
}

fn config(home: &Home) -> Config {
    Config::new(home.shard_dir(0), home.identity().clone(), 0)
}

fn segments(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    files.sort();
    Ok(files)
}

/// Reads files one after the other; returns their bytes and the seconds.
fn read_plainly(files: &[PathBuf]) -> Result<(u64, f64), Box<dyn Error>> {
    let mut image = Image::new(READ_BYTES)?;
    let mut buffer = ImageWriter::claim(&mut image).ok_or("a new image has one owner")?;
    let started = Instant::now();
    let mut bytes = 0;
    for path in files {
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let len = file.metadata()?.len();
        let mut at = 0;
        while at < len {
            let piece = usize::try_from(len - at)?.min(READ_BYTES);
            file.read_exact_at(buffer.tail_mut(0..piece), at)?;
            at += piece as u64;
        }
        bytes += len;
    }
    Ok((bytes, started.elapsed().as_secs_f64()))
}

/// The most memory this process ever had resident.
fn peak_bytes() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kib * 1024)
}

const READ_BYTES: usize = 1 << 20;

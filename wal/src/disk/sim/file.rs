//! One file of the platter, by sector: what is durable, what reads show, and what is wrong with it.
//!
//! In:     bytes that are written, land or are synced; damage.
//! Out:    the bytes a reader sees.
//! Fails:  reads as the damage says, and behind the end.
//! Source: RULES.md T1.

use super::platter::Inode;
use super::{Damage, SECTOR_BYTES};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

#[derive(Clone, Default)]
pub(super) struct File {
    /// The bytes that a power cut leaves for certain.
    pub(super) durable: Arc<Vec<u8>>,
    /// As the running machine sees it.
    pub(super) size: usize,
    /// Sectors that reads show and a power cut may lose, by byte.
    pub(super) cached: BTreeMap<usize, Cached>,
    /// By sector.
    pub(super) damage: BTreeMap<usize, Damage>,
    /// Reads of a sector that are answered from elsewhere.
    pub(super) astray: BTreeMap<usize, (Inode, usize)>,
}

#[derive(Clone)]
pub(super) struct Cached {
    pub(super) bytes: Vec<u8>,
    /// It never becomes durable: its write or its sync has failed, and the kernel thinks it clean.
    pub(super) doomed: bool,
    /// The disk said that it is durable.
    pub(super) promised: bool,
}

impl File {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self { size: bytes.len(), durable: Arc::new(bytes), ..Self::default() }
    }

    pub(super) fn cache(&mut self, at: usize, bytes: &[u8], doomed: bool, promised: bool) {
        self.size = self.size.max(at + bytes.len());
        for (at, bytes) in sectors(at, bytes) {
            self.heal(at);
            self.cached.insert(at, Cached { bytes: bytes.to_vec(), doomed, promised });
        }
    }

    /// Makes bytes durable. Bytes behind the file's durable end are lost, as the file's size was.
    pub(super) fn land(&mut self, at: usize, bytes: &[u8]) {
        let len = self.durable.len();
        for (at, bytes) in sectors(at, bytes).filter(|(at, bytes)| at + bytes.len() <= len) {
            self.cached.remove(&at);
            self.heal(at);
            Arc::make_mut(&mut self.durable)[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// A write of these bytes, which the cache has and the disk will not get, was said to have succeeded or not.
    pub(super) fn promise(&mut self, bytes: Range<usize>, promised: bool) {
        self.cached.range_mut(bytes).for_each(|(_, cached)| cached.promised |= promised);
    }

    pub(super) fn heal(&mut self, at: usize) {
        self.damage.remove(&at);
        self.astray.remove(&at);
    }

    pub(super) fn sync(&mut self, lying: bool) {
        if lying {
            self.cached.values_mut().for_each(|cached| cached.promised = true);
            return;
        }
        Arc::make_mut(&mut self.durable).resize(self.size, 0);
        for (at, mut cached) in std::mem::take(&mut self.cached) {
            if cached.doomed {
                cached.promised = true;
                self.cached.insert(at, cached);
            } else {
                self.land(at, &cached.bytes);
            }
        }
    }

    pub(super) fn read(&self, start: usize, out: &mut [u8]) -> io::Result<()> {
        let end = start + out.len();
        if end > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let first = start / SECTOR_BYTES * SECTOR_BYTES;
        if self.damage.range(first..end).any(|(_, damage)| *damage == Damage::Unreadable) {
            return Err(rustix::io::Errno::IO.into());
        }
        out.fill(0);
        let durable = self.durable.get(start..end.min(self.durable.len())).unwrap_or_default();
        out[..durable.len()].copy_from_slice(durable);
        for (at, cached) in self.cached.range(first..end) {
            overlay(out, start, *at, &cached.bytes);
        }
        Ok(())
    }
}

/// A byte that the next read of it gets wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Misread {
    pub(super) inode: Inode,
    pub(super) offset: usize,
    pub(super) later: LaterReads,
    pub(super) is_done: bool,
}

/// The outcome of the reads of a byte that follow a wrong one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum LaterReads {
    /// They are right.
    Right,
    /// The device gives an error.
    Fail,
}

impl Misread {
    /// Spoils a read of the bytes from `start` on, if it meets the byte.
    pub(super) fn spoil(
        misread: &mut Option<Self>,
        inode: Inode,
        start: usize,
        out: &mut [u8],
    ) -> io::Result<()> {
        let bytes = start..start + out.len();
        let Some(here) = misread.as_mut().filter(|m| m.inode == inode && bytes.contains(&m.offset))
        else {
            return Ok(());
        };
        if here.is_done {
            return Err(rustix::io::Errno::IO.into());
        }
        out[here.offset - start] ^= 1;
        here.is_done = true;
        if here.later == LaterReads::Right {
            *misread = None;
        }
        Ok(())
    }
}

/// Copies `bytes`, which belong at `at`, over the part of them that `out`, which begins at `start`, holds.
pub(super) fn overlay(out: &mut [u8], start: usize, at: usize, bytes: &[u8]) {
    let (from, to) = (at.max(start), (at + bytes.len()).min(start + out.len()));
    if from < to {
        out[from - start..to - start].copy_from_slice(&bytes[from - at..to - at]);
    }
}

pub(super) fn sectors(at: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    assert!(at.is_multiple_of(SECTOR_BYTES), "byte {at} starts no sector");
    bytes.chunks(SECTOR_BYTES).enumerate().map(move |(n, bytes)| (at + n * SECTOR_BYTES, bytes))
}

//! One process's handle on the platter: the [`Disk`] that the log is given.
//!
//! In:     the log's calls.
//! Out:    what the platter makes of them.
//! Fails:  every call, once the power has failed or another process has the platter.
//! Source: as `sim`.

use super::SimPlatter;
use super::platter::{Event, Inode, Name};
use crate::disk::{
    Disk, DiskEvent, DriverInfo, MakeSegment, RetireSegment, Scan, ScanFile, Scanned, SegmentFile,
    SegmentReader, WriteSegment,
};
use crate::format::SegmentSeq;
use crate::image::{ImagePool, ImageWriter};
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

pub(super) struct SimDisk {
    pub(super) platter: SimPlatter,
    pub(super) era: u64,
    pub(super) pool: ImagePool,
}

impl Disk for SimDisk {
    fn info(&self) -> DriverInfo {
        let direct_io = !self.platter.lock().page_cache;
        DriverInfo { driver: "sim", direct_io, registered_buffers: false }
    }

    fn path(&self, segment: SegmentSeq) -> PathBuf {
        PathBuf::from(format!("sim/{:010}.seg", segment.0))
    }

    fn manifest_path(&self) -> PathBuf {
        PathBuf::from("sim/manifest")
    }

    fn manifest(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut platter = self.platter.lock();
        platter.operate(self.era)?;
        platter.whole(Name::Manifest)
    }

    fn segments(&mut self) -> io::Result<Vec<SegmentFile>> {
        let mut platter = self.platter.lock();
        platter.operate(self.era)?;
        let files = platter.segments();
        Ok(files.map(|(segment, bytes)| SegmentFile { segment, bytes }).collect())
    }

    fn read(&mut self, segment: SegmentSeq, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut platter = self.platter.lock();
        platter.look(self.era)?;
        let inode = platter.inode(Name::Segment(segment)).ok_or(io::ErrorKind::NotFound)?;
        platter.read(inode, offset, out)
    }

    fn scan(&mut self, wanted: Vec<ScanFile>) -> io::Result<Box<dyn Scan>> {
        let (platter, era) = (self.platter.clone(), self.era);
        Ok(Box::new(SimScan { platter, era, wanted: wanted.into(), current: None }))
    }

    fn sync(&mut self, segment: SegmentSeq) -> io::Result<()> {
        let mut platter = self.platter.lock();
        let operated = platter.operate(self.era);
        if operated.is_err() && platter.inode(Name::Segment(segment)).is_some() {
            platter.doom(Name::Segment(segment));
        }
        operated?;
        platter.sync(Name::Segment(segment))
    }

    fn remove(&mut self, segment: SegmentSeq) -> io::Result<()> {
        let mut platter = self.platter.lock();
        platter.operate(self.era)?;
        platter.unlink(Name::Segment(segment))?;
        platter.operate(self.era)?;
        platter.sync_dir();
        Ok(())
    }

    fn remove_temporary(&mut self) -> io::Result<()> {
        let mut platter = self.platter.lock();
        platter.operate(self.era)?;
        for name in platter.names().into_iter().filter(|name| name.is_temporary()) {
            platter.unlink(name)?;
        }
        Ok(())
    }

    fn make(&mut self, make: MakeSegment, urgent: bool) {
        let mut platter = self.platter.lock();
        if platter.era == self.era {
            platter.maker.make(make);
            platter.maker.is_in_a_hurry |= urgent;
        }
    }

    fn retire(&mut self, retire: RetireSegment) {
        let mut platter = self.platter.lock();
        if platter.era == self.era {
            platter.maker.retire(retire);
        }
    }

    fn hurry(&mut self) {
        let mut platter = self.platter.lock();
        if platter.era == self.era {
            platter.maker.is_in_a_hurry = true;
        }
    }

    fn chunks_made(&self) -> u64 {
        self.platter.lock().maker.steps_taken
    }

    fn image(&mut self) -> io::Result<ImageWriter> {
        self.pool.take()
    }

    fn write(&mut self, write: WriteSegment) -> io::Result<()> {
        let mut platter = self.platter.lock();
        platter.operate(self.era)?;
        platter.start_write(write)
    }

    fn poll(&mut self, events: &mut Vec<DiskEvent>) -> io::Result<()> {
        let mut platter = self.platter.lock();
        platter.operate(self.era)?;
        events.extend(platter.events.drain(..).map(|event| match event {
            Event::Written(token, result) => {
                DiskEvent::Written { token, result: result.map_err(io::Error::from) }
            }
            Event::Made(segment, result) => {
                DiskEvent::Made { segment, result: result.map_err(io::Error::from) }
            }
            Event::Retired(segment, result) => {
                DiskEvent::Retired { segment, result: result.map_err(io::Error::from) }
            }
        }));
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        self.platter.lock().operate(self.era)?;
        loop {
            let (has_event, has_write) = {
                let platter = self.platter.lock();
                (!platter.events.is_empty(), !platter.ready().is_empty())
            };
            if has_event {
                return Ok(());
            }
            self.platter.complete_some();
            // A write may take several answers; nothing else takes another look.
            if !has_write && self.platter.lock().events.is_empty() {
                return Err(io::Error::other("nothing to wait for"));
            }
        }
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn reader(&self, segment: SegmentSeq) -> Arc<dyn SegmentReader> {
        let inode = self.platter.lock().inode(Name::Segment(segment));
        Arc::new(SimReader { platter: self.platter.clone(), era: self.era, inode })
    }
}

impl Drop for SimDisk {
    /// Waits for what is in flight, as every driver does; unless the power has failed.
    fn drop(&mut self) {
        let mut platter = self.platter.lock();
        if platter.era == self.era && platter.power_fails_in != Some(0) {
            while !platter.in_flight.is_empty() {
                platter.finish(0);
            }
            platter.forget_process();
        }
    }
}

/// Reads when asked: nothing happens ahead of its time.
struct SimScan {
    platter: SimPlatter,
    era: u64,
    wanted: VecDeque<ScanFile>,
    current: Option<Scanned>,
}

impl Scan for SimScan {
    fn next(&mut self) -> io::Result<&Scanned> {
        let wanted = self.wanted.pop_front().expect("nothing is asked for that was not ordered");
        let len = usize::try_from(wanted.bytes).expect("segments fit memory");
        let mut scanned = Scanned::with_capacity(len)?;
        scanned.fill(len, |at, out| {
            let mut platter = self.platter.lock();
            platter.operate(self.era)?;
            let inode = platter.inode(Name::Segment(wanted.segment));
            platter.read(inode.ok_or(io::ErrorKind::NotFound)?, at, out)
        })?;
        Ok(self.current.insert(scanned))
    }
}

/// An open file: it stays readable when its name is gone.
struct SimReader {
    platter: SimPlatter,
    era: u64,
    inode: Option<Inode>,
}

impl SegmentReader for SimReader {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.platter.lock();
        if platter.era != self.era {
            return Err(io::Error::other("the power has failed"));
        }
        platter.read(self.inode.ok_or(io::ErrorKind::NotFound)?, offset, out)
    }
}

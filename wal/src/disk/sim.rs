//! A disk in memory that forgets what was not synced, tears what was in flight, and fails when told to.
//!
//! In:     a seed; the same calls a real driver takes; faults from the test.
//! Out:    the same events, when the test lets them happen. Everything follows from the seed and the calls.
//! Cost:   memory for every segment.
//! Fails:  as ordered: writes, reads, room, a power cut at the n-th operation.
//! Source: FAULTS §3 L1; W1-W3, W6-W9, W11, W12; rule 8 (writes of a dead process land late), rule 19 (what was
//!         read after a crash need not be durable).
//!
//! The model. The platter is a [`SimPlatter`], which outlives the processes that open it. A write is in
//! flight until [`SimPlatter::complete_some`] makes it durable, whole. [`SimPlatter::crash`] (power) keeps a
//! random subset of the 512-byte sectors in flight. [`SimPlatter::kill`] (process) lets each sector in flight be
//! readable but not durable, or land later, or never.

use super::{Disk, DiskEvent, DriverInfo, MakeSegment, SegmentFile, SegmentReader, WriteSegment};
use crate::format::{FORMAT_VERSION, Manifest, SegmentSeq};
use crate::home::Identity;
use crate::image::{Image, ImagePool, ImageWriter};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

/// The platter: what survives. Clones are the same platter.
#[derive(Clone)]
pub struct SimPlatter(Arc<Mutex<Platter>>);

#[derive(Clone)]
struct Platter {
    random: u64,
    files: BTreeMap<SegmentSeq, Vec<u8>>,
    manifest: Option<Vec<u8>>,
    /// Sectors that reads show and a power cut may lose.
    cached: BTreeMap<(SegmentSeq, usize), Vec<u8>>,
    /// Sectors of a killed process that have not landed yet.
    late: Vec<(SegmentSeq, usize, Vec<u8>)>,
    in_flight: Vec<WriteSegment>,
    orders: VecDeque<MakeSegment>,
    events: Vec<Event>,
    /// Which process has the platter; older ones get errors.
    era: u64,
    segments_left: Option<u32>,
    no_space_reported: bool,
    fail_write_in: Option<u64>,
    fail_read: Option<SegmentSeq>,
    power_fails_in: Option<u64>,
    writes: u64,
}

/// An event whose error can be cloned.
#[derive(Clone)]
enum Event {
    Written(u64, Option<io::ErrorKind>),
    Made(SegmentSeq, Option<io::ErrorKind>),
}

impl SimPlatter {
    /// A platter with the empty stream that [`crate::Home::create`] makes.
    #[must_use]
    pub fn new(seed: u64, identity: &Identity, shard: u32) -> Self {
        let manifest = Manifest {
            version: FORMAT_VERSION,
            shard,
            store: identity.store,
            node: identity.node,
            first: SegmentSeq(1),
            made: SegmentSeq(0),
        };
        Self(Arc::new(Mutex::new(Platter {
            random: seed,
            files: BTreeMap::new(),
            manifest: Some(manifest.encode()),
            cached: BTreeMap::new(),
            late: Vec::new(),
            in_flight: Vec::new(),
            orders: VecDeque::new(),
            events: Vec::new(),
            era: 0,
            segments_left: None,
            no_space_reported: false,
            fail_write_in: None,
            fail_read: None,
            power_fails_in: None,
            writes: 0,
        })))
    }

    /// Opens it for a new process. What an older one had in flight is as [`SimPlatter::crash`] or
    /// [`SimPlatter::kill`] left it; call one of them first.
    #[must_use]
    pub fn disk(&self, segment_bytes: u64) -> Box<dyn Disk> {
        let mut platter = self.lock();
        platter.era += 1;
        assert!(
            platter.in_flight.is_empty(),
            "crash or kill the process before the next one opens"
        );
        let bytes = usize::try_from(segment_bytes).expect("segments fit memory");
        let mut pool = ImagePool::new(bytes, 2);
        pool.add(Image::new(bytes).expect("memory"));
        Box::new(SimDisk { platter: self.clone(), era: platter.era, pool })
    }

    /// A platter with the same bytes and its own future, drawn from `seed`. Nothing is in flight on it: what was
    /// is lost.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        let mut copy = self.lock().clone();
        copy.random = seed;
        copy.forget_process();
        Self(Arc::new(Mutex::new(copy)))
    }

    /// Finishes some of what is in flight, at least one thing if there is any, in random order.
    pub fn complete_some(&self) {
        let mut platter = self.lock();
        if platter.in_flight.is_empty() {
            platter.make_next();
            return;
        }
        let waiting = platter.in_flight.len();
        for _ in 0..=platter.draw(waiting) {
            platter.finish_any();
        }
        if platter.draw(2) == 0 {
            platter.make_next();
        }
    }

    /// Finishes everything in flight, writes in random order.
    pub fn complete_all(&self) {
        let mut platter = self.lock();
        while !platter.in_flight.is_empty() {
            platter.finish_any();
        }
        while platter.make_next() {}
    }

    /// The power fails: of each write in flight, and of what was readable but never synced, any sectors may be there.
    pub fn crash(&self) {
        let mut random = self.lock().random;
        self.crash_keeping(|_, _| {
            random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(random) & 1 == 0
        });
        self.lock().random = random;
    }

    /// The power fails, and `keep` says which sectors in flight are there, by segment and byte.
    pub fn crash_keeping(&self, mut keep: impl FnMut(SegmentSeq, u64) -> bool) {
        let mut platter = self.lock();
        let mut sectors = Vec::new();
        for write in std::mem::take(&mut platter.in_flight) {
            sectors.extend(sectors_of(&write));
        }
        sectors.extend(std::mem::take(&mut platter.late));
        let cached = std::mem::take(&mut platter.cached);
        sectors.extend(cached.into_iter().map(|((segment, at), bytes)| (segment, at, bytes)));
        for (segment, at, bytes) in sectors {
            if keep(segment, at as u64) {
                platter.land(segment, at, &bytes);
            }
        }
        platter.half_make();
        platter.forget_process();
    }

    /// The process dies, the machine lives: of each write in flight, any sector is readable but not durable, or
    /// lands at a later moment, or never.
    pub fn kill(&self) {
        let mut platter = self.lock();
        for write in std::mem::take(&mut platter.in_flight) {
            for (segment, at, bytes) in sectors_of(&write) {
                match platter.draw(3) {
                    0 => {
                        platter.cached.insert((segment, at), bytes);
                    }
                    1 => platter.late.push((segment, at, bytes)),
                    _ => {}
                }
            }
        }
        platter.half_make();
        platter.forget_process();
    }

    /// The late writes of killed processes land now.
    pub fn land_late(&self) {
        let mut platter = self.lock();
        for (segment, at, bytes) in std::mem::take(&mut platter.late) {
            platter.land(segment, at, &bytes);
        }
    }

    /// Writes in flight.
    #[must_use]
    pub fn writes_in_flight(&self) -> usize {
        self.lock().in_flight.len()
    }

    /// Segments ordered and not yet made.
    #[must_use]
    pub fn orders(&self) -> usize {
        self.lock().orders.len()
    }

    /// Writes ever started.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// The `n`-th write from now on fails, the next one being 0; nothing of it lands.
    pub fn fail_write(&self, n: u64) {
        self.lock().fail_write_in = Some(n);
    }

    /// Every read of a segment fails from now on; `None` heals.
    pub fn fail_reads_of(&self, segment: Option<SegmentSeq>) {
        self.lock().fail_read = segment;
    }

    /// Room for this many further segments; `None` for any number.
    pub fn set_segments_left(&self, left: Option<u32>) {
        let mut platter = self.lock();
        platter.segments_left = left;
        platter.no_space_reported = false;
    }

    /// The power fails at the `n`-th operation from now on: it and all later ones are errors. [`SimPlatter::crash`]
    /// must follow. `None` for never.
    pub fn set_power_fails_in(&self, n: Option<u64>) {
        self.lock().power_fails_in = n;
    }

    /// The segments there are.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentSeq> {
        self.lock().files.keys().copied().collect()
    }

    /// A segment's durable bytes. Panics if there is no such segment.
    #[must_use]
    pub fn segment(&self, segment: SegmentSeq) -> Vec<u8> {
        self.lock().files[&segment].clone()
    }

    /// Puts a file in place of a segment, or takes it away.
    pub fn set_segment(&self, segment: SegmentSeq, bytes: Option<Vec<u8>>) {
        let mut platter = self.lock();
        match bytes {
            Some(bytes) => platter.files.insert(segment, bytes),
            None => platter.files.remove(&segment),
        };
    }

    /// Changes bits of one byte. Panics if there is no such byte.
    pub fn flip(&self, segment: SegmentSeq, offset: usize, mask: u8) {
        let mut platter = self.lock();
        platter.files.get_mut(&segment).expect("a segment")[offset] ^= mask;
    }

    /// The manifest's bytes.
    #[must_use]
    pub fn manifest(&self) -> Option<Vec<u8>> {
        self.lock().manifest.clone()
    }

    /// Replaces the manifest.
    pub fn set_manifest(&self, manifest: Option<Vec<u8>>) {
        self.lock().manifest = manifest;
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().expect("no test panics inside the platter")
    }
}

impl Platter {
    /// A number below `bound`.
    fn draw(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        usize::try_from(mix(self.random) % bound as u64).expect("below a usize")
    }

    fn land(&mut self, segment: SegmentSeq, at: usize, bytes: &[u8]) {
        // A write may outlive its file: then it lands in nothing.
        if let Some(file) = self.files.get_mut(&segment) {
            file[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn finish_any(&mut self) {
        let waiting = self.in_flight.len();
        let at = self.draw(waiting);
        self.finish(at);
    }

    fn finish(&mut self, at: usize) {
        let write = self.in_flight.remove(at);
        let offset = usize::try_from(write.offset).expect("inside a segment");
        self.land(write.segment, offset, &write.bytes);
        self.events.push(Event::Written(write.token, None));
    }

    /// Makes the next segment ordered; false if there is none, or no room.
    fn make_next(&mut self) -> bool {
        let Some(order) = self.orders.front() else { return false };
        let segment = order.segment;
        if self.segments_left == Some(0) {
            if !self.no_space_reported {
                self.no_space_reported = true;
                self.events.push(Event::Made(segment, Some(io::ErrorKind::StorageFull)));
            }
            return false;
        }
        self.segments_left = self.segments_left.map(|left| left - 1);
        let order = self.orders.pop_front().expect("looked at above");
        self.files.insert(segment, new_file(&order));
        self.manifest = Some(order.manifest);
        self.events.push(Event::Made(segment, None));
        true
    }

    /// What a crash leaves of the segment in the making: nothing, a file the manifest does not know, or all.
    fn half_make(&mut self) {
        let Some(order) = self.orders.pop_front() else { return };
        let stage = self.draw(3);
        if stage >= 1 {
            self.files.insert(order.segment, new_file(&order));
        }
        if stage == 2 {
            self.manifest = Some(order.manifest);
        }
    }

    fn forget_process(&mut self) {
        self.in_flight.clear();
        self.orders.clear();
        self.events.clear();
        self.era += 1;
        self.power_fails_in = None;
        self.fail_write_in = None;
        self.no_space_reported = false;
    }

    /// Counts an operation of process `era`.
    fn operate(&mut self, era: u64) -> io::Result<()> {
        let power = match &mut self.power_fails_in {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        };
        if era != self.era || !power {
            return Err(io::Error::other("the power has failed"));
        }
        Ok(())
    }

    fn read(&self, segment: SegmentSeq, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.fail_read == Some(segment) {
            return Err(io::Error::other("simulated read error"));
        }
        let file = self.files.get(&segment).ok_or(io::ErrorKind::NotFound)?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(file.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        let sectors = (segment, start.saturating_sub(SECTOR_BYTES - 1))..(segment, end);
        for ((_, at), bytes) in self.cached.range(sectors) {
            let (from, to) = ((*at).max(start), (at + bytes.len()).min(end));
            if from < to {
                out[from - start..to - start].copy_from_slice(&bytes[from - at..to - at]);
            }
        }
        Ok(())
    }
}

fn new_file(order: &MakeSegment) -> Vec<u8> {
    let mut file = vec![0u8; usize::try_from(order.bytes).expect("segments fit memory")];
    file[..order.header.len()].copy_from_slice(order.header.as_slice());
    file
}

fn sectors_of(write: &WriteSegment) -> impl Iterator<Item = (SegmentSeq, usize, Vec<u8>)> + '_ {
    let offset = usize::try_from(write.offset).expect("inside a segment");
    let sectors = write.bytes.chunks(SECTOR_BYTES).enumerate();
    sectors.map(move |(n, bytes)| (write.segment, offset + n * SECTOR_BYTES, bytes.to_vec()))
}

/// The finaliser of SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One process's handle on the platter.
struct SimDisk {
    platter: SimPlatter,
    era: u64,
    pool: ImagePool,
}

impl Disk for SimDisk {
    fn info(&self) -> DriverInfo {
        DriverInfo { driver: "sim", direct_io: true, registered_buffers: false }
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
        Ok(platter.manifest.clone())
    }

    fn segments(&mut self) -> io::Result<Vec<SegmentFile>> {
        let mut platter = self.platter.lock();
        platter.operate(self.era)?;
        let file = |(segment, bytes): (&SegmentSeq, &Vec<u8>)| SegmentFile {
            segment: *segment,
            bytes: bytes.len() as u64,
        };
        Ok(platter.files.iter().map(file).collect())
    }

    fn read(&mut self, segment: SegmentSeq, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut platter = self.platter.lock();
        platter.operate(self.era)?;
        platter.read(segment, offset, out)
    }

    fn sync(&mut self, segment: SegmentSeq) -> io::Result<()> {
        let mut platter = self.platter.lock();
        platter.operate(self.era)?;
        let synced = platter.cached.extract_if(.., |(of, _), _| *of == segment).collect::<Vec<_>>();
        for ((segment, at), bytes) in synced {
            platter.land(segment, at, &bytes);
        }
        Ok(())
    }

    fn remove(&mut self, segment: SegmentSeq) -> io::Result<()> {
        let mut platter = self.platter.lock();
        platter.operate(self.era)?;
        platter.files.remove(&segment).ok_or(io::ErrorKind::NotFound)?;
        platter.cached.retain(|(of, _), _| *of != segment);
        Ok(())
    }

    fn make(&mut self, make: MakeSegment, _urgent: bool) {
        let mut platter = self.platter.lock();
        if platter.operate(self.era).is_ok() {
            platter.orders.push_back(make);
        }
    }

    fn hurry(&mut self) {}

    fn image(&mut self) -> io::Result<ImageWriter> {
        self.pool.take()
    }

    fn write(&mut self, write: WriteSegment) -> io::Result<()> {
        let mut platter = self.platter.lock();
        platter.operate(self.era)?;
        platter.writes += 1;
        let file = platter.files.get(&write.segment).ok_or(io::ErrorKind::NotFound)?;
        let end = write.offset + write.bytes.len() as u64;
        assert!(end <= file.len() as u64, "write up to {end} in a file of {}", file.len());
        for other in &platter.in_flight {
            assert!(
                other.segment == write.segment,
                "{:?} is written while {:?} has writes in flight (rule 8)",
                write.segment,
                other.segment
            );
        }
        match &mut platter.fail_write_in {
            Some(0) => {
                platter.fail_write_in = None;
                platter.events.push(Event::Written(write.token, Some(io::ErrorKind::Other)));
                return Ok(());
            }
            Some(left) => *left -= 1,
            None => {}
        }
        platter.in_flight.push(write);
        Ok(())
    }

    fn poll(&mut self, events: &mut Vec<DiskEvent>) -> io::Result<()> {
        let mut platter = self.platter.lock();
        platter.operate(self.era)?;
        events.extend(platter.events.drain(..).map(|event| {
            let outcome =
                |kind: Option<io::ErrorKind>| kind.map_or(Ok(()), |kind| Err(kind.into()));
            match event {
                Event::Written(token, kind) => DiskEvent::Written { token, result: outcome(kind) },
                Event::Made(segment, kind) => DiskEvent::Made { segment, result: outcome(kind) },
            }
        }));
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        self.platter.lock().operate(self.era)?;
        if self.platter.lock().events.is_empty() {
            self.platter.complete_some();
        }
        if self.platter.lock().events.is_empty() {
            return Err(io::Error::other("nothing to wait for"));
        }
        Ok(())
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn reader(&self, segment: SegmentSeq) -> Arc<dyn SegmentReader> {
        Arc::new(SimReader { platter: self.platter.clone(), era: self.era, segment })
    }
}

impl Drop for SimDisk {
    fn drop(&mut self) {
        let mut platter = self.platter.lock();
        if platter.era == self.era {
            while !platter.in_flight.is_empty() {
                platter.finish(0);
            }
            platter.forget_process();
        }
    }
}

struct SimReader {
    platter: SimPlatter,
    era: u64,
    segment: SegmentSeq,
}

impl SegmentReader for SimReader {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.platter.lock();
        if platter.era != self.era {
            return Err(io::Error::other("the power has failed"));
        }
        platter.read(self.segment, offset, out)
    }
}

/// What a disk writes at once, whatever else fails.
pub const SECTOR_BYTES: usize = 512;

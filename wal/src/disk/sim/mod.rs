//! A disk in memory that forgets what was not synced, tears what was in flight, lies, rots and stalls when told to.
//!
//! In:     a seed; the same calls a real driver takes; faults from the test.
//! Out:    the same events, when the test lets them happen; where the disk holds other bytes than it said it
//!         does ([`SimPlatter::damage`]). Everything follows from the seed and the calls.
//! Cost:   memory for every segment; a copy of the platter shares it.
//! Fails:  as ordered, per write ([`WriteFate`]), per operation, per place, or with the power.
//! Source: RULES.md T1; W1-W9, W11, W12, C1, C9, C10, D3; rule 8 (writes of a dead process land late), rule 19
//!         (what was read after a crash need not be durable), rule 26 (names need a sync of their own).
//!
//! The model. The platter is a [`SimPlatter`], which outlives the processes that open it. It has files, each with
//! durable bytes and the sectors that reads show and a power cut may lose, and a directory, with durable
//! names and the changes since it was synced. A log write is in flight until [`SimPlatter::complete_some`] makes it
//! durable. Segments are made and given up step by step, as `maker.rs` does it. [`SimPlatter::crash`] (power) keeps a random subset
//! of all that was not durable: 512-byte sectors, sizes, names. [`SimPlatter::kill`] (process) lets each sector
//! in flight be readable but not durable, or land later, or never. With a page cache ([`SimPlatter::set_page_cache`]) a write
//! is readable from its start, in this process and later ones, and what fails stays readable, clean, until the power fails.

mod file;
mod platter;
mod process;
mod steps;

use super::Disk;
use crate::format::{FORMAT_VERSION, Manifest, SegmentSeq};
use crate::home::Identity;
use crate::image::{Image, ImagePool};
use file::{File, LaterReads};
use platter::{Name, Platter, Random};
use process::SimDisk;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The platter: what survives. Clones are the same platter.
#[derive(Clone)]
pub struct SimPlatter(Arc<Mutex<Platter>>);

/// A copy of a platter's directory.
#[derive(Clone)]
pub struct PlatterImage(Vec<(Name, File)>);

/// The fate of one write, other than success.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WriteFate {
    /// An error; nothing of it lands. With a page cache: [`SimPlatter::set_page_cache`].
    Error(io::ErrorKind),
    /// An error, though all of it landed.
    ErrorButThere(io::ErrorKind),
    /// An error once; from then on reads show the bytes and syncs succeed, but they are lost with the power.
    ErrorThenLies(io::ErrorKind),
    /// Success, but the bytes are somewhere else: in this segment, at this byte.
    Misdirected(SegmentSeq, u64),
    /// Success, but nothing was written.
    Lost,
    /// It does not finish until [`SimPlatter::release_stalled`], or until its process is gone.
    Stalled,
    /// The kernel's answers to it, one after the other; then it goes on as usual.
    Answers(Vec<Answer>),
}

/// The kernel's answer to a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// So many bytes were written; perhaps not all, perhaps none.
    Bytes(usize),
    /// An error.
    Error(io::ErrorKind),
}

/// Why a sector does not hold what the disk said it does.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Damage {
    /// Bits changed.
    Rotten,
    /// Reads of it are errors.
    Unreadable,
    /// It was said to be durable, and is not.
    Lost,
    /// A write that belonged elsewhere went here.
    Overwritten,
    /// Reads of it are answered from somewhere else.
    Astray,
}

/// Something that a power cut keeps or loses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unsynced {
    /// A sector, by its segment (`None`: a file that is no segment) and its byte.
    Sector(Option<SegmentSeq>, u64),
    /// A file's new size.
    Size,
    /// A name made, changed or removed.
    Name,
}

/// A write that is on the platter, whole.
#[derive(Clone, Debug)]
pub struct LandedWrite {
    /// The segment.
    pub segment: SegmentSeq,
    /// Where in it.
    pub offset: u64,
    /// The bytes written.
    pub bytes: Vec<u8>,
}

impl SimPlatter {
    /// A platter with the empty stream that [`crate::Home::create`] makes.
    #[must_use]
    pub fn new(seed: u64, identity: &Identity, shard: u32) -> Self {
        let mut platter = Platter::new(seed);
        platter.put_file(Name::Manifest, Some(fresh_manifest(identity, shard)));
        Self(Arc::new(Mutex::new(platter)))
    }

    /// Opens the platter for a new process. An older process's writes in flight are as [`SimPlatter::crash`] or
    /// [`SimPlatter::kill`] left them; call one of the two first.
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
        copy.random = Random(seed);
        copy.forget_process();
        Self(Arc::new(Mutex::new(copy)))
    }

    /// A platter in the same state, with the same in flight and the same future: to crash it in several ways.
    #[must_use]
    pub fn twin(&self) -> Self {
        Self(Arc::new(Mutex::new(self.lock().clone())))
    }

    // --- copies ---

    /// A copy of the directory as it is now, with the damage in its files. Writes in flight are not in the copy.
    #[must_use]
    pub fn image(&self) -> PlatterImage {
        PlatterImage(self.lock().copy_files())
    }

    /// Replaces the directory by a copy of it from earlier, or of another one: all of it is durable. The process that
    /// had the platter loses it, and what it had in flight is lost.
    pub fn restore(&self, image: &PlatterImage) {
        self.lock().replace_files(image.0.clone());
    }

    /// Replaces the directory by the empty stream that [`crate::Home::create`] makes for `identity`.
    pub fn wipe(&self, identity: &Identity, shard: u32) {
        let manifest = File::of(fresh_manifest(identity, shard));
        self.lock().replace_files(vec![(Name::Manifest, manifest)]);
    }

    // --- what happens next ---

    /// Finishes some of what is in flight, at least one thing if there is any, in random order.
    pub fn complete_some(&self) {
        let mut platter = self.lock();
        let waiting = platter.ready().len();
        if waiting == 0 {
            platter.make_next();
            return;
        }
        for _ in 0..=platter.random.below(waiting) {
            platter.finish_any();
        }
        if platter.random.below(2) == 0 {
            platter.make_next();
        }
    }

    /// Finishes everything in flight that is not stalled, writes in random order.
    pub fn complete_all(&self) {
        let mut platter = self.lock();
        while platter.finish_any() {}
        while platter.make_next() {}
    }

    /// The `n`-th of the writes in flight gets its answer. Panics if there is none.
    pub fn complete_nth(&self, n: usize) {
        self.lock().finish(n);
    }

    /// Takes the next step of what was ordered, a segment to be made or given up: a creation, a sync, a rename ... False
    /// if nothing is ordered, or there is no room.
    pub fn make_step(&self) -> bool {
        self.lock().make_step()
    }

    /// The power fails. Any of what was not durable may be there: sectors in flight, sectors that were readable,
    /// sizes and names; and the segment in the making may have come any number of steps further.
    pub fn crash(&self) {
        self.crash_keeping_randomly(|_, random| random.below(2) == 0);
    }

    /// The power fails, and `keep` says which sectors are there, by segment and byte. The rest is random.
    pub fn crash_keeping(&self, mut keep: impl FnMut(SegmentSeq, u64) -> bool) {
        self.crash_keeping_randomly(|what, random| match what {
            Unsynced::Sector(Some(segment), at) => keep(segment, at),
            _ => random.below(2) == 0,
        });
    }

    /// The power fails now, and `keep` says what of all that was not durable is there.
    pub fn crash_choosing(&self, mut keep: impl FnMut(Unsynced) -> bool) {
        self.lock().power_cut(&mut keep);
    }

    fn crash_keeping_randomly(&self, mut keep: impl FnMut(Unsynced, &mut Random) -> bool) {
        let mut platter = self.lock();
        platter.make_on();
        let mut random = platter.random;
        platter.power_cut(&mut |what| keep(what, &mut random));
        platter.random = random;
    }

    /// The process dies, the machine lives: of each write in flight, any sector is readable but not durable, or
    /// lands at a later moment, or never.
    pub fn kill(&self) {
        let mut platter = self.lock();
        platter.make_on();
        platter.scatter_in_flight();
        platter.forget_process();
    }

    /// The late writes of killed processes land now.
    pub fn land_late(&self) {
        self.lock().land_late();
    }

    // --- faults ---

    /// The `n`-th write from now on, the next one being 0, meets this fate.
    pub fn set_fate(&self, n: u64, fate: WriteFate) {
        let mut platter = self.lock();
        let write = platter.writes + n;
        platter.fates.insert(write, fate);
    }

    /// The `n`-th write from now on fails, the next one being 0; nothing of it lands.
    pub fn fail_write(&self, n: u64) {
        self.set_fate(n, WriteFate::Error(io::ErrorKind::Other));
    }

    /// Nothing further fails that was told to.
    pub fn clear_failures(&self) {
        let mut platter = self.lock();
        platter.fates.clear();
        platter.operation_fails_in = None;
    }

    /// Operations that were told to fail, and have.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.lock().failures
    }

    /// Writes that landed whole since the last call, in the order they did. The first call starts the list.
    #[must_use]
    pub fn take_landed(&self) -> Vec<LandedWrite> {
        self.lock().landed.replace(Vec::new()).unwrap_or_default()
    }

    /// While true, no write finishes.
    pub fn set_stalled(&self, stalled: bool) {
        self.lock().stalled = stalled;
    }

    /// Writes that stalled may finish.
    pub fn release_stalled(&self) {
        self.lock().release_stalled();
    }

    /// While true, whatever the disk says is durable, bytes or names, is lost with the power if luck has it so. A
    /// sync that comes after the lies makes good what it covers.
    pub fn set_lying(&self, lying: bool) {
        self.lock().lying = lying;
    }

    /// True while it lies.
    #[must_use]
    pub fn is_lying(&self) -> bool {
        self.lock().lying
    }

    /// The `n`-th operation from now on is an error, once: a read, listing, sync, removal, the start of a write, a poll,
    /// a step of making a segment. Bytes that a failed sync should have covered never become durable.
    pub fn fail_operation(&self, n: u64) {
        self.lock().operation_fails_in = Some(n);
    }

    /// The power fails at the `n`-th operation from now on: it and all later ones are errors. [`SimPlatter::crash`]
    /// must follow. `None` for never.
    pub fn set_power_fails_in(&self, n: Option<u64>) {
        self.lock().power_fails_in = n;
    }

    /// Room for this many further segments, more as segments are removed; `None` for any number. There is always room
    /// for the manifest's successor.
    pub fn set_segments_left(&self, left: Option<u32>) {
        self.set_room(left, false);
    }

    /// As [`SimPlatter::set_segments_left`], but a process's first file for the manifest's successor needs room as a segment
    /// does: with none left the disk is full to its last block.
    pub fn set_files_left(&self, left: Option<u32>) {
        self.set_room(left, true);
    }

    fn set_room(&self, left: Option<u32>, counts_small: bool) {
        let left = left.map(|left| usize::try_from(left).expect("a few"));
        self.lock().set_room(left, counts_small);
    }

    /// While true, writes go through a page cache. A write is in the cache from its start, and this and later processes
    /// read it there until the power fails. The pages of a write that fails ([`WriteFate::Error`]) count as clean: no
    /// later sync writes them, or fails. The error is told once, to any one of the writes that are in flight
    /// when the failed one ends: the failed one may be told that it succeeded. A write that is [`WriteFate::Lost`] has
    /// pages of the same kind, and nobody is told. Panics while writes are in flight.
    pub fn set_page_cache(&self, page_cache: bool) {
        let mut platter = self.lock();
        assert!(platter.in_flight.is_empty(), "writes in flight are of one kind");
        platter.page_cache = page_cache;
    }

    /// Every read of a segment fails from now on; `None` heals all reads.
    pub fn fail_reads_of(&self, segment: Option<SegmentSeq>) {
        self.lock().fail_reads_of(segment);
    }

    /// Reads of these bytes of a segment fail until they are written again. Panics if there is no such segment.
    pub fn fail_reads_in(&self, segment: SegmentSeq, bytes: Range<usize>) {
        self.lock().mark(segment, bytes.start as u64..bytes.end as u64, Damage::Unreadable);
    }

    /// The next read of a byte gets a bit of it wrong; later ones do not. Panics if there is no such segment.
    pub fn misread(&self, segment: SegmentSeq, offset: usize) {
        self.lock().misread(segment, offset, LaterReads::Right);
    }

    /// The next read of a byte gets a bit of it wrong, and all later ones fail. Panics if there is no such segment.
    pub fn misread_then_fail(&self, segment: SegmentSeq, offset: usize) {
        self.lock().misread(segment, offset, LaterReads::Fail);
    }

    /// Reads of the sector at byte `at` of a segment are answered with the one at byte `from_at` of `from`, until it is
    /// written again. Panics if there is no such sector.
    pub fn misdirect_reads(&self, segment: SegmentSeq, at: u64, from: SegmentSeq, from_at: u64) {
        self.lock().misdirect_reads(segment, at, from, from_at);
    }

    /// Changes bits of one byte, on the disk and in the cache. Panics if there is no such byte.
    pub fn flip(&self, segment: SegmentSeq, offset: usize, mask: u8) {
        self.lock().flip(segment, offset, mask);
    }

    /// All sectors of a segment from `offset` on are zeros now, and whole; the others stay as they are, damage and all.
    pub fn zero_from(&self, segment: SegmentSeq, offset: usize) {
        self.lock().zero_from(segment, offset);
    }

    /// Puts a file in place of a segment, or takes it away. Damage goes with the file that was there.
    pub fn set_segment(&self, segment: SegmentSeq, bytes: Option<Vec<u8>>) {
        self.lock().put_file(Name::Segment(segment), bytes);
    }

    /// Replaces the manifest.
    pub fn set_manifest(&self, manifest: Option<Vec<u8>>) {
        self.lock().put_file(Name::Manifest, manifest);
    }

    // --- questions ---

    /// Writes in flight, stalled ones included.
    #[must_use]
    pub fn writes_in_flight(&self) -> usize {
        self.lock().in_flight.len()
    }

    /// Segments ordered and not yet made.
    #[must_use]
    pub fn orders(&self) -> usize {
        self.lock().maker.segments_ordered()
    }

    /// True if what is at hand is made without pauses.
    #[must_use]
    pub fn is_in_a_hurry(&self) -> bool {
        self.lock().maker.is_in_a_hurry
    }

    /// Segments that are to be given up and have not been.
    #[must_use]
    pub fn retirements(&self) -> usize {
        self.lock().maker.segments_to_retire()
    }

    /// Writes ever started.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// Sectors that are not what the disk said they are, by segment and byte: the fault atlas. Writing a sector again
    /// heals it.
    #[must_use]
    pub fn damage(&self) -> Vec<(SegmentSeq, u64, Damage)> {
        self.lock().damage()
    }

    /// Sectors that a power cut may lose or keep now, by segment and byte; in flight, cached, or yet to land. One whose
    /// bytes are on the disk already is left out.
    #[must_use]
    pub fn undurable(&self) -> Vec<(SegmentSeq, u64)> {
        self.lock().undurable()
    }

    /// The segments there are.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentSeq> {
        self.lock().segments().map(|(segment, _)| segment).collect()
    }

    /// The bytes of all segments' files.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.lock().segments().map(|(_, bytes)| bytes).sum()
    }

    /// The segments set aside as damaged.
    #[must_use]
    pub fn set_aside(&self) -> Vec<SegmentSeq> {
        let names = self.lock().names();
        let aside = |name| if let Name::Corrupt(segment) = name { Some(segment) } else { None };
        names.into_iter().filter_map(aside).collect()
    }

    /// The durable bytes of a segment set aside as damaged; `None` if there is none.
    #[must_use]
    pub fn set_aside_segment(&self, segment: SegmentSeq) -> Option<Vec<u8>> {
        self.lock().durable_bytes(Name::Corrupt(segment))
    }

    /// The first bytes of a segment, as reads show them. Panics if there is no such segment, or they cannot be read.
    #[must_use]
    pub fn segment_head(&self, segment: SegmentSeq, bytes: usize) -> Vec<u8> {
        let platter = self.lock();
        let mut head = vec![0; bytes];
        let inode = platter.inode(Name::Segment(segment)).expect("a segment");
        platter.read(inode, 0, &mut head).expect("it can be read");
        head
    }

    /// A segment's durable bytes. Panics if there is no such segment.
    #[must_use]
    pub fn segment(&self, segment: SegmentSeq) -> Vec<u8> {
        self.lock().durable_bytes(Name::Segment(segment)).expect("a segment")
    }

    /// The manifest's durable bytes.
    #[must_use]
    pub fn manifest(&self) -> Option<Vec<u8>> {
        self.lock().durable_bytes(Name::Manifest)
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        // A test that fails inside the platter still has to drop it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fresh_manifest(identity: &Identity, shard: u32) -> Vec<u8> {
    let manifest = Manifest {
        version: FORMAT_VERSION,
        shard,
        store: identity.store,
        node: identity.node,
        first: SegmentSeq(1),
        made: SegmentSeq(0),
    };
    manifest.encode()
}

/// The size of the unit that a disk writes at once, whatever else fails.
pub const SECTOR_BYTES: usize = 512;

//! The platter's state: files, names, what is in flight, and what a power cut makes of it.
//!
//! In:     writes, syncs, names; choices at a power cut.
//! Out:    the bytes a reader sees, and those that would survive.
//! Fails:  reads as the faults say; a file that is not there, or a byte behind its end, as a kernel would.
//! Source: RULES.md T1.

use super::file::{File, LaterReads, Misread, overlay, sectors};
use super::steps::Maker;
use super::{Answer, Damage, LandedWrite, SECTOR_BYTES, Unsynced, WriteFate};
use crate::disk::{
    CORRUPT_SUFFIX, MANIFEST_NAME, Progress, SegmentOrigin, TEMPORARY_SUFFIX, WriteSegment,
    progress, segment_name,
};
use crate::format::{BLOCK_BYTES, FIRST_BATCH_AT, SegmentSeq};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Splitmix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Copy)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).expect("below a usize")
    }
}

/// A name in the directory.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Name {
    Segment(SegmentSeq),
    /// A segment in the making.
    Making(SegmentSeq),
    /// One that was given up, to be made another.
    Free(SegmentSeq),
    /// One that was given up, and was damaged.
    Corrupt(SegmentSeq),
    Manifest,
    /// The manifest's successor.
    ManifestMaking,
}

impl Name {
    /// True for what the next open removes.
    pub(super) fn is_temporary(self) -> bool {
        matches!(self, Self::Making(_) | Self::Free(_) | Self::ManifestMaking)
    }
}

/// As in a real directory.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => write!(f, "{}", segment_name(*segment)),
            Self::Making(segment) => write!(f, "{:010}{TEMPORARY_SUFFIX}", segment.0),
            Self::Free(segment) => write!(f, "{:010}.free{TEMPORARY_SUFFIX}", segment.0),
            Self::Corrupt(segment) => write!(f, "{:010}{CORRUPT_SUFFIX}", segment.0),
            Self::Manifest => write!(f, "{MANIFEST_NAME}"),
            Self::ManifestMaking => write!(f, "{MANIFEST_NAME}{TEMPORARY_SUFFIX}"),
        }
    }
}

/// A file, whatever its name.
pub(super) type Inode = u64;

#[derive(Clone, Copy)]
enum NameChange {
    Link(Name, Inode),
    Rename(Name, Name, Inode),
    Exchange([(Name, Inode); 2]),
    Unlink(Name),
}

type Names = BTreeMap<Name, Inode>;

impl NameChange {
    fn apply(self, names: &mut Names) {
        match self {
            Self::Link(name, inode) => {
                names.insert(name, inode);
            }
            Self::Rename(from, to, inode) => {
                names.remove(&from);
                names.insert(to, inode);
            }
            Self::Exchange(changed) => names.extend(changed),
            Self::Unlink(name) => {
                names.remove(&name);
            }
        }
    }
}

/// A write under way.
#[derive(Clone)]
pub(super) struct InFlight {
    write: WriteSegment,
    /// Where it goes.
    inode: Inode,
    at: usize,
    /// Bytes of it that are done with.
    from: usize,
    answers: VecDeque<Answer>,
    stalled: bool,
    lost: bool,
    writeback: Writeback,
    /// The error of a write that was in flight with this one, and that this one is told.
    told: Option<io::ErrorKind>,
}

/// The fate of a buffered write's pages.
#[derive(Clone, Copy)]
enum Writeback {
    /// They are written.
    Written,
    /// They are not, and count as clean.
    Failed(io::ErrorKind),
    /// They are not, count as clean, and nobody is told.
    Lost,
}

/// How many files there may be.
#[derive(Clone, Copy)]
struct Room {
    files_max: usize,
    /// The manifest and its successor count as well.
    counts_small: bool,
}

/// An event whose error can be cloned.
#[derive(Clone)]
pub(super) enum Event {
    Written(u64, Result<(), io::ErrorKind>),
    Made(SegmentSeq, Result<SegmentOrigin, io::ErrorKind>),
    Retired(SegmentSeq, Result<(), io::ErrorKind>),
}

#[derive(Clone)]
pub(super) struct Platter {
    pub(super) random: Random,
    files: BTreeMap<Inode, File>,
    newest_file: Inode,
    /// As the running machine sees them.
    names: Names,
    durable_names: Names,
    name_changes: Vec<NameChange>,
    /// Sectors of killed processes that have not landed yet.
    late: Vec<(Inode, usize, Vec<u8>)>,
    pub(super) in_flight: Vec<InFlight>,
    pub(super) maker: Maker,
    pub(super) events: Vec<Event>,
    /// Which process has the platter; older ones get errors.
    pub(super) era: u64,
    /// The range of each segment that this process has written.
    written: BTreeMap<SegmentSeq, Range<u64>>,
    /// The landed part of the newest segment's first batch, but for its first block, which comes last.
    behind_first_block: Option<(SegmentSeq, Vec<u8>)>,
    room: Option<Room>,
    /// Writes go through a page cache.
    pub(super) page_cache: bool,
    pub(super) lying: bool,
    pub(super) stalled: bool,
    pub(super) fates: BTreeMap<u64, WriteFate>,
    fail_read: Option<SegmentSeq>,
    /// A byte that the next read of it gets wrong.
    misread: RefCell<Option<Misread>>,
    pub(super) power_fails_in: Option<u64>,
    pub(super) operation_fails_in: Option<u64>,
    pub(super) writes: u64,
    pub(super) failures: u64,
    /// Writes that landed whole since they were last asked for, if anyone wants to know.
    pub(super) landed: Option<Vec<LandedWrite>>,
}

impl Platter {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            files: BTreeMap::new(),
            newest_file: 0,
            names: Names::new(),
            durable_names: Names::new(),
            name_changes: Vec::new(),
            late: Vec::new(),
            in_flight: Vec::new(),
            maker: Maker::default(),
            events: Vec::new(),
            era: 0,
            written: BTreeMap::new(),
            behind_first_block: None,
            room: None,
            page_cache: false,
            lying: false,
            stalled: false,
            fates: BTreeMap::new(),
            fail_read: None,
            misread: RefCell::new(None),
            power_fails_in: None,
            operation_fails_in: None,
            writes: 0,
            failures: 0,
            landed: None,
        }
    }

    /// Counts an operation of the process of `era`: it may be the one that fails, or the power may have.
    pub(super) fn operate(&mut self, era: u64) -> io::Result<()> {
        let fails = self.operation_fails_in == Some(0);
        let operated = self.look(era);
        self.failures += u64::from(fails && self.operation_fails_in.is_none());
        operated
    }

    /// Counts, as [`Self::operate`] does, an operation that the process repeats if it fails: its failure is not
    /// counted.
    pub(super) fn look(&mut self, era: u64) -> io::Result<()> {
        if era != self.era || !self.count_power() {
            return Err(io::Error::other("the power has failed"));
        }
        match &mut self.operation_fails_in {
            Some(0) => {
                logdrive_raft::reached!("operation failed");
                self.operation_fails_in = None;
                Err(io::Error::other("simulated input/output error"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn count_power(&mut self) -> bool {
        match &mut self.power_fails_in {
            Some(0) => return false,
            Some(left) => *left -= 1,
            None => {}
        }
        true
    }

    // --- files and names ---

    fn new_inode(&mut self, file: File) -> Inode {
        self.newest_file += 1;
        self.files.insert(self.newest_file, file);
        self.newest_file
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }

    pub(super) fn create(&mut self, name: Name) {
        let inode = self.new_inode(File::default());
        self.change_name(NameChange::Link(name, inode));
    }

    pub(super) fn rename(&mut self, from: Name, to: Name) {
        let inode = self.names[&from];
        self.change_name(NameChange::Rename(from, to, inode));
    }

    pub(super) fn exchange(&mut self, a: Name, b: Name) {
        let changed = [(b, self.names[&a]), (a, self.names[&b])];
        self.change_name(NameChange::Exchange(changed));
    }

    pub(super) fn link(&mut self, from: Name, to: Name) {
        let inode = self.names[&from];
        if self.inode(to) != Some(inode) {
            self.change_name(NameChange::Link(to, inode));
        }
    }

    pub(super) fn unlink(&mut self, name: Name) -> io::Result<()> {
        if !self.names.contains_key(&name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change_name(NameChange::Unlink(name));
        Ok(())
    }

    pub(super) fn sync_dir(&mut self) {
        if !self.lying {
            self.durable_names.clone_from(&self.names);
            self.name_changes.clear();
        }
    }

    pub(super) fn cache(&mut self, name: Name, at: usize, bytes: &[u8]) {
        self.file_mut(name).cache(at, bytes, false, false);
    }

    pub(super) fn sync(&mut self, name: Name) -> io::Result<()> {
        let lying = self.lying;
        let inode = self.inode(name).ok_or(io::ErrorKind::NotFound)?;
        self.files.get_mut(&inode).expect("named").sync(lying);
        Ok(())
    }

    /// The bytes that a failed sync should have covered count as clean from now on.
    pub(super) fn doom(&mut self, name: Name) {
        self.file_mut(name).cached.values_mut().for_each(|cached| cached.doomed = true);
    }

    /// Puts a whole, durable file under a name, or takes it away.
    pub(super) fn put_file(&mut self, name: Name, bytes: Option<Vec<u8>>) {
        let change = match bytes {
            Some(bytes) => NameChange::Link(name, self.new_inode(File::of(bytes))),
            None => NameChange::Unlink(name),
        };
        change.apply(&mut self.names);
        change.apply(&mut self.durable_names);
    }

    /// The files by name, as reads show them, with their damage.
    pub(super) fn copy_files(&self) -> Vec<(Name, File)> {
        self.names.iter().map(|(name, inode)| (*name, self.copy_of(*inode))).collect()
    }

    fn copy_of(&self, inode: Inode) -> File {
        let file = &self.files[&inode];
        let mut bytes = file.durable.to_vec();
        bytes.resize(file.size, 0);
        for (at, cached) in &file.cached {
            overlay(&mut bytes, 0, *at, &cached.bytes);
        }
        for (at, (other, from)) in &file.astray {
            if let Some(there) = self.files.get(other).and_then(|f| f.durable.get(*from..)) {
                overlay(&mut bytes, 0, *at, &there[..there.len().min(SECTOR_BYTES)]);
            }
        }
        File { damage: file.damage.clone(), ..File::of(bytes) }
    }

    /// The directory has these files and no others, all of them durable, and no process has it.
    pub(super) fn replace_files(&mut self, files: Vec<(Name, File)>) {
        self.names = files.into_iter().map(|(name, file)| (name, self.new_inode(file))).collect();
        self.durable_names.clone_from(&self.names);
        self.name_changes.clear();
        self.late.clear();
        self.forget_process();
    }

    pub(super) fn inode(&self, name: Name) -> Option<Inode> {
        self.names.get(&name).copied()
    }

    fn file_mut(&mut self, name: Name) -> &mut File {
        self.files.get_mut(&self.names[&name]).expect("named")
    }

    fn file_mut_of(&mut self, segment: SegmentSeq) -> &mut File {
        self.file_mut(Name::Segment(segment))
    }

    pub(super) fn size_of(&self, name: Name) -> u64 {
        self.inode(name).map_or(0, |inode| self.files[&inode].size as u64)
    }

    pub(super) fn names(&self) -> Vec<Name> {
        self.names.keys().copied().collect()
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = (SegmentSeq, u64)> + '_ {
        self.names.iter().filter_map(|(name, inode)| match name {
            Name::Segment(segment) => Some((*segment, self.files[inode].size as u64)),
            _ => None,
        })
    }

    pub(super) fn durable_bytes(&self, name: Name) -> Option<Vec<u8>> {
        self.inode(name).map(|inode| self.files[&inode].durable.to_vec())
    }

    pub(super) fn whole(&self, name: Name) -> io::Result<Option<Vec<u8>>> {
        let Some(inode) = self.inode(name) else { return Ok(None) };
        let mut bytes = vec![0; self.files[&inode].size];
        self.read(inode, 0, &mut bytes)?;
        Ok(Some(bytes))
    }

    pub(super) fn read(&self, inode: Inode, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.fail_read.is_some() && self.segment_of(inode) == self.fail_read {
            return Err(rustix::io::Errno::IO.into());
        }
        let file = self.files.get(&inode).ok_or(io::ErrorKind::NotFound)?;
        let start = usize::try_from(offset)
            .ok()
            .filter(|start| start.checked_add(out.len()).is_some())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        file.read(start, out)?;
        let first = start / SECTOR_BYTES * SECTOR_BYTES;
        for (at, (other, from)) in file.astray.range(first..start + out.len()) {
            let mut bytes = [0; SECTOR_BYTES];
            self.files.get(other).ok_or(io::ErrorKind::NotFound)?.read(*from, &mut bytes)?;
            overlay(out, start, *at, &bytes);
        }
        Misread::spoil(&mut self.misread.borrow_mut(), inode, start, out)
    }

    pub(super) fn misread(&mut self, segment: SegmentSeq, offset: usize, later: LaterReads) {
        let inode = self.names[&Name::Segment(segment)];
        self.misread.replace(Some(Misread { inode, offset, later, is_done: false }));
    }

    fn segment_of(&self, inode: Inode) -> Option<SegmentSeq> {
        self.names.iter().find_map(|(name, of)| match name {
            Name::Segment(segment) if *of == inode => Some(*segment),
            _ => None,
        })
    }

    // --- faults ---

    fn files(&self, counts_small: bool) -> usize {
        let is_small = |name: &Name| matches!(name, Name::Manifest | Name::ManifestMaking);
        let counted = self.names.iter().filter(|(name, _)| counts_small || !is_small(name));
        // A file may have two names.
        counted.map(|(_, inode)| inode).collect::<BTreeSet<_>>().len()
    }

    /// Room for a segment.
    pub(super) fn has_room(&self) -> bool {
        self.room.is_none_or(|room| self.files(room.counts_small) < room.files_max)
    }

    /// Room for the manifest's successor.
    pub(super) fn has_small_room(&self) -> bool {
        self.room.is_none_or(|room| !room.counts_small) || self.has_room()
    }

    pub(super) fn set_room(&mut self, left: Option<usize>, counts_small: bool) {
        let max = |left| Room { files_max: self.files(counts_small) + left, counts_small };
        self.room = left.map(max);
        self.maker.try_again();
    }

    pub(super) fn mark(&mut self, segment: SegmentSeq, bytes: Range<u64>, damage: Damage) {
        let start = usize::try_from(bytes.start).expect("inside a segment");
        let end = usize::try_from(bytes.end).expect("inside a segment");
        let file = self.file_mut_of(segment);
        for at in (start / SECTOR_BYTES * SECTOR_BYTES..end).step_by(SECTOR_BYTES) {
            file.damage.insert(at, damage);
        }
    }

    pub(super) fn fail_reads_of(&mut self, segment: Option<SegmentSeq>) {
        self.fail_read = segment;
        if segment.is_none() {
            for file in self.files.values_mut() {
                file.damage.retain(|_, damage| *damage != Damage::Unreadable);
            }
        }
    }

    pub(super) fn misdirect_reads(
        &mut self,
        segment: SegmentSeq,
        at: u64,
        from: SegmentSeq,
        from_at: u64,
    ) {
        self.mark(segment, at..at + 1, Damage::Astray);
        let sector = |at: u64| {
            let at = usize::try_from(at).expect("inside a segment");
            assert!(at.is_multiple_of(SECTOR_BYTES), "byte {at} starts no sector");
            at
        };
        let source = (self.names[&Name::Segment(from)], sector(from_at));
        self.file_mut_of(segment).astray.insert(sector(at), source);
    }

    pub(super) fn flip(&mut self, segment: SegmentSeq, offset: usize, mask: u8) {
        let file = self.file_mut_of(segment);
        let at = offset / SECTOR_BYTES * SECTOR_BYTES;
        // A disk that lied may not have so much of the file.
        if let Some(byte) = Arc::make_mut(&mut file.durable).get_mut(offset) {
            *byte ^= mask;
        }
        if let Some(cached) = file.cached.get_mut(&at) {
            cached.bytes[offset - at] ^= mask;
        }
        file.damage.insert(at, Damage::Rotten);
    }

    pub(super) fn zero_from(&mut self, segment: SegmentSeq, offset: usize) {
        assert!(offset.is_multiple_of(SECTOR_BYTES), "byte {offset} starts no sector");
        let file = self.file_mut_of(segment);
        if let Some(end) = Arc::make_mut(&mut file.durable).get_mut(offset..) {
            end.fill(0);
        }
        file.cached.retain(|at, _| *at < offset);
        file.astray.retain(|at, _| *at < offset);
        file.damage.retain(|at, _| *at < offset);
    }

    pub(super) fn release_stalled(&mut self) {
        self.in_flight.iter_mut().for_each(|write| write.stalled = false);
    }

    pub(super) fn damage(&self) -> Vec<(SegmentSeq, u64, Damage)> {
        let mut found = Vec::new();
        for (name, inode) in &self.names {
            if let Name::Segment(segment) = name {
                let damage = self.files[inode].damage.iter();
                found.extend(damage.map(|(at, damage)| (*segment, *at as u64, *damage)));
            }
        }
        found
    }

    pub(super) fn undurable(&self) -> Vec<(SegmentSeq, u64)> {
        let mut found = BTreeSet::new();
        let mut add = |inode: Inode, at: usize, bytes: &[u8]| {
            let Some(segment) = self.segment_of(inode) else { return };
            let there = self.files[&inode].durable.get(at..at + bytes.len());
            if there != Some(bytes) {
                found.insert((segment, at as u64));
            }
        };
        for write in &self.in_flight {
            let rest = &write.write.bytes[write.from..];
            sectors(write.at + write.from, rest)
                .for_each(|(at, bytes)| add(write.inode, at, bytes));
        }
        self.late.iter().for_each(|(inode, at, bytes)| add(*inode, *at, bytes));
        for (inode, file) in &self.files {
            file.cached.iter().for_each(|(at, cached)| add(*inode, *at, &cached.bytes));
        }
        found.into_iter().collect()
    }

    // --- writes ---

    pub(super) fn start_write(&mut self, write: WriteSegment) -> io::Result<()> {
        let inode = self.inode(Name::Segment(write.segment)).ok_or(io::ErrorKind::NotFound)?;
        let file = &self.files[&inode];
        let end = write.offset + write.bytes.len() as u64;
        assert!(end <= file.size as u64, "write up to {end} in a file of {}", file.size);
        for other in self.in_flight.iter().map(|other| other.write.segment) {
            assert!(
                other == write.segment,
                "{:?} is written while {other:?} has writes in flight (rule 8)",
                write.segment
            );
        }
        let before = self.written.get(&write.segment).cloned().unwrap_or(write.offset..end);
        let is_first_block =
            end <= before.start && end == u64::from(FIRST_BATCH_AT) + BLOCK_BYTES as u64;
        assert!(
            before == (write.offset..end) || before.end <= write.offset || is_first_block,
            "{:?} is written at {} though {before:?} was written of it (rule 6)",
            write.segment,
            write.offset
        );
        let written = before.start.min(write.offset)..before.end.max(end);
        self.written.insert(write.segment, written);
        let fate = self.fates.remove(&self.writes);
        self.writes += 1;
        let at = usize::try_from(write.offset).expect("inside a segment");
        let (token, bytes) = (write.token, write.bytes.clone());
        let mut in_flight = InFlight {
            write,
            inode,
            at,
            from: 0,
            answers: VecDeque::new(),
            stalled: false,
            lost: false,
            writeback: Writeback::Written,
            told: None,
        };
        if self.page_cache {
            let misses = matches!(fate, Some(WriteFate::Misdirected(..)));
            in_flight.writeback = match fate {
                Some(WriteFate::Error(kind) | WriteFate::ErrorThenLies(kind)) => {
                    Writeback::Failed(kind)
                }
                Some(WriteFate::Lost) => Writeback::Lost,
                _ => Writeback::Written,
            };
            let doomed = !matches!(in_flight.writeback, Writeback::Written);
            if !misses {
                self.files.get_mut(&inode).expect("named").cache(at, &bytes, doomed, false);
            }
            if doomed {
                logdrive_raft::reached!("write failed, and reads show it all the same");
                self.in_flight.push(in_flight);
                return Ok(());
            }
        }
        let mut failed = None;
        match fate {
            None => {}
            Some(WriteFate::Error(kind)) => {
                logdrive_raft::reached!("write failed, and none of it is there");
                failed = Some(kind);
            }
            Some(WriteFate::ErrorButThere(kind)) => {
                logdrive_raft::reached!("write failed, and all of it is there");
                self.land(inode, at, &bytes);
                failed = Some(kind);
            }
            Some(WriteFate::ErrorThenLies(kind)) => {
                logdrive_raft::reached!("write failed, and reads show it all the same");
                self.files.get_mut(&inode).expect("named").cache(at, &bytes, true, false);
                failed = Some(kind);
            }
            Some(WriteFate::Misdirected(segment, offset)) => {
                logdrive_raft::reached!("write went elsewhere");
                // Where there is no file, it went nowhere.
                match self.inode(Name::Segment(segment)) {
                    Some(there) => {
                        in_flight.inode = there;
                        in_flight.at = usize::try_from(offset).expect("inside a segment");
                    }
                    None => in_flight.lost = true,
                }
            }
            Some(WriteFate::Lost) => {
                logdrive_raft::reached!("write went nowhere");
                in_flight.lost = true;
            }
            Some(WriteFate::Stalled) => in_flight.stalled = true,
            Some(WriteFate::Answers(answers)) => in_flight.answers = answers.into(),
        }
        match failed {
            Some(kind) => {
                self.failures += 1;
                self.events.push(Event::Written(token, Err(kind)));
            }
            None => self.in_flight.push(in_flight),
        }
        Ok(())
    }

    /// The writes that may finish, by their place among those in flight.
    pub(super) fn ready(&self) -> Vec<usize> {
        if self.stalled || self.power_fails_in == Some(0) {
            return Vec::new();
        }
        let writes = self.in_flight.iter().enumerate();
        writes.filter(|(_, write)| !write.stalled).map(|(at, _)| at).collect()
    }

    pub(super) fn finish_any(&mut self) -> bool {
        let ready = self.ready();
        if ready.is_empty() {
            return false;
        }
        let at = ready[self.random.below(ready.len())];
        self.finish(at);
        true
    }

    pub(super) fn finish(&mut self, n: usize) {
        let InFlight { write, inode, at, from, answers, lost, writeback, .. } =
            &mut self.in_flight[n];
        let (inode, start, token, lost) = (*inode, *at + *from, write.token, *lost);
        let doomed = !matches!(writeback, Writeback::Written);
        let rest = write.bytes[*from..].to_vec();
        let answer = answers.pop_front().unwrap_or(Answer::Bytes(rest.len()));
        let result = match answer {
            Answer::Bytes(written) => Ok(written.min(rest.len())),
            Answer::Error(kind) => Err(kind.into()),
        };
        let landed = *result.as_ref().unwrap_or(&0);
        let (intended, at_home) = (write.segment, start as u64 == write.offset + *from as u64);
        let outcome = match progress(*from, write.bytes.len(), result) {
            Progress::Again(again) => {
                logdrive_raft::reached!("write went on after a short or interrupted one");
                *from = again;
                None
            }
            Progress::Whole => Some(Ok(())),
            Progress::Failed(error) => {
                logdrive_raft::reached!("write failed after a part of it");
                self.failures += 1;
                Some(Err(error.kind()))
            }
        };
        let home = self.inode(Name::Segment(intended));
        if home.is_some() && (lost || home != Some(inode) || !at_home) {
            let write = &self.in_flight[n].write;
            let bytes = write.offset..write.offset + write.bytes.len() as u64;
            self.mark(intended, bytes, Damage::Lost);
        }
        let outcome = match outcome {
            Some(Ok(())) => Some(self.tell(n)),
            outcome => outcome,
        };
        if doomed {
            let promised = matches!(outcome, Some(Ok(())));
            self.files.get_mut(&inode).expect("open").promise(start..start + landed, promised);
        } else if !lost {
            self.land(inode, start, &rest[..landed]);
            if let Some(there) = self.segment_of(inode)
                && (there != intended || !at_home)
            {
                self.mark(there, start as u64..(start + landed) as u64, Damage::Overwritten);
            }
        }
        if let Some(outcome) = outcome {
            let InFlight { write, .. } = self.in_flight.remove(n);
            if outcome.is_ok() {
                self.note_landed(&write);
            }
            self.events.push(Event::Written(token, outcome));
        }
    }

    /// Keeps a batch that landed whole, if anyone wants to know of it.
    fn note_landed(&mut self, write: &WriteSegment) {
        let (segment, offset, mut bytes) = (write.segment, write.offset, write.bytes.to_vec());
        let first = u64::from(FIRST_BATCH_AT);
        if offset > first && self.written.get(&segment).is_some_and(|all| all.start > first) {
            self.behind_first_block = Some((segment, bytes));
            return;
        }
        if offset == first
            && let Some((_, rest)) = self.behind_first_block.take_if(|(of, _)| *of == segment)
        {
            bytes.extend(rest);
        }
        if let Some(landed) = &mut self.landed {
            landed.push(LandedWrite { segment, offset, bytes });
        }
    }

    /// The result that the `n`-th write in flight, which is over, is told. The error of a failed writeback belongs to
    /// the open file: one of the writes that share the file takes the error, and the others succeed.
    fn tell(&mut self, n: usize) -> Result<(), io::ErrorKind> {
        if let Writeback::Failed(kind) = self.in_flight[n].writeback {
            let taker = self.random.below(self.in_flight.len());
            self.in_flight[taker].told.get_or_insert(kind);
        }
        match self.in_flight[n].told {
            Some(kind) => {
                self.failures += 1;
                Err(kind)
            }
            None => Ok(()),
        }
    }

    /// Bytes that the disk says are durable, whether they are or not.
    fn land(&mut self, inode: Inode, at: usize, bytes: &[u8]) {
        let lying = self.lying;
        // A write may outlive its file: then it lands in nothing.
        if let Some(file) = self.files.get_mut(&inode) {
            // A part of a sector that was written is not on the disk yet.
            let bytes = &bytes[..bytes.len() / SECTOR_BYTES * SECTOR_BYTES];
            if lying {
                file.cache(at, bytes, false, true);
            } else {
                // The file size that is needed to find the bytes again becomes durable with them.
                let size = file.size;
                if file.durable.len() < size {
                    Arc::make_mut(&mut file.durable).resize(size, 0);
                }
                file.land(at, bytes);
            }
        }
    }

    pub(super) fn land_late(&mut self) {
        for (inode, at, bytes) in std::mem::take(&mut self.late) {
            logdrive_raft::reached!("write of a dead process landed late");
            self.land(inode, at, &bytes);
        }
    }

    // --- ends of processes ---

    /// False for a write that is misdirected: whole or not at all, so that the atlas knows what it went over.
    fn goes_home(&self, write: &InFlight) -> bool {
        let home = self.inode(Name::Segment(write.write.segment));
        home.is_none_or(|home| home == write.inode) && write.at as u64 == write.write.offset
    }

    /// Decides how much a killed process leaves of its writes.
    pub(super) fn scatter_in_flight(&mut self) {
        let page_cache = self.page_cache;
        for write in std::mem::take(&mut self.in_flight) {
            // Bytes that the page cache has stay there.
            if page_cache || write.lost || !self.goes_home(&write) {
                continue;
            }
            let rest = &write.write.bytes[write.from..];
            for (at, bytes) in sectors(write.at + write.from, rest) {
                match self.random.below(3) {
                    0 => {
                        let file = self.files.get_mut(&write.inode).expect("open");
                        file.cache(at, bytes, false, false);
                    }
                    1 => self.late.push((write.inode, at, bytes.to_vec())),
                    _ => {}
                }
            }
        }
    }

    /// The power fails: of all that is not durable there is what `keep` says.
    pub(super) fn power_cut(&mut self, keep: &mut dyn FnMut(Unsynced) -> bool) {
        let mut flying = Vec::new();
        for write in std::mem::take(&mut self.in_flight) {
            // The fate of a write through the page cache is decided with the rest of that cache.
            if !self.page_cache && !write.lost && self.goes_home(&write) {
                let rest = &write.write.bytes[write.from..];
                let parts = sectors(write.at + write.from, rest);
                flying.extend(parts.map(|(at, bytes)| (write.inode, at, bytes.to_vec())));
            }
        }
        flying.append(&mut self.late);
        for (inode, at, bytes) in flying {
            if !keep(Unsynced::Sector(self.segment_of(inode), at as u64)) {
                logdrive_raft::reached!("unsynced sector lost with the power");
            } else if let Some(file) = self.files.get_mut(&inode) {
                file.land(at, &bytes);
            }
        }
        for inode in self.files.keys().copied().collect::<Vec<_>>() {
            let segment = self.segment_of(inode);
            let file = self.files.get_mut(&inode).expect("listed");
            if file.size > file.durable.len() && keep(Unsynced::Size) {
                let size = file.size;
                Arc::make_mut(&mut file.durable).resize(size, 0);
            }
            file.size = file.durable.len();
            for (at, cached) in std::mem::take(&mut file.cached) {
                let kept = !cached.doomed && keep(Unsynced::Sector(segment, at as u64));
                // A sector that was kept behind an end that was not is lost, too.
                if kept && at + cached.bytes.len() <= file.durable.len() {
                    file.land(at, &cached.bytes);
                } else if cached.promised {
                    logdrive_raft::reached!("sector lost that was said to be durable");
                    file.damage.insert(at, Damage::Lost);
                }
            }
        }
        for change in std::mem::take(&mut self.name_changes) {
            if keep(Unsynced::Name) {
                change.apply(&mut self.durable_names);
            }
        }
        self.names.clone_from(&self.durable_names);
        self.forget_process();
    }

    /// Nobody has the platter any more.
    pub(super) fn forget_process(&mut self) {
        self.in_flight.clear();
        self.maker = Maker::default();
        self.events.clear();
        self.written.clear();
        self.behind_first_block = None;
        self.fates.clear();
        self.era += 1;
        self.power_fails_in = None;
        self.operation_fails_in = None;
        self.stalled = false;
        let mut named: BTreeSet<Inode> = self.names.values().copied().collect();
        named.extend(self.durable_names.values());
        for change in &self.name_changes {
            match change {
                NameChange::Link(_, inode) | NameChange::Rename(_, _, inode) => {
                    named.insert(*inode);
                }
                NameChange::Exchange(changed) => named.extend(changed.map(|(_, inode)| inode)),
                NameChange::Unlink(_) => {}
            }
        }
        self.files.retain(|inode, _| named.contains(inode));
    }
}

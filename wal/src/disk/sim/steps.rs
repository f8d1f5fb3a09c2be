//! How segments come and go, step by step, so that a crash can come between any two of them.
//!
//! In:     the log's orders.
//! Out:    files, names and the manifest, in the order in which `maker.rs` and `files.rs` make them.
//! Fails:  no room, before a segment's or a manifest's first step; an error at any step.
//! Source: RULES.md rules 7, 8, 26, 28; W11, W12.

use super::platter::{Event, Name, Platter};
use crate::disk::{Fate, MakeSegment, RetireSegment, SegmentOrigin, steps};
use crate::format::{BLOCK_BYTES, Manifest, SegmentSeq};
use std::{fmt, io};

/// An order from the log.
#[derive(Clone)]
enum Order {
    Make(MakeSegment),
    Retire(RetireSegment),
}

/// One system call's worth of it.
#[derive(Clone)]
enum Step {
    Create(Name),
    Write(Name, Vec<u8>),
    Sync(Name),
    Rename(Name, Name),
    /// Each gets the other's name.
    Exchange(Name, Name),
    /// A second name, unless it has it.
    Link(Name, Name),
    Remove(Name),
    SyncDir,
}

/// As `files.rs` says it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(name) => write!(f, "create {name}"),
            Self::Write(name, _) => write!(f, "write {name}"),
            Self::Sync(name) => write!(f, "sync {name}"),
            Self::Rename(from, to) => write!(f, "rename {from} {to}"),
            Self::Exchange(from, to) => write!(f, "exchange {from} {to}"),
            Self::Link(from, to) => write!(f, "link {from} {to}"),
            Self::Remove(name) => write!(f, "remove {name}"),
            Self::SyncDir => write!(f, "sync the directory"),
        }
    }
}

/// The maker's thread.
#[derive(Clone, Default)]
pub(super) struct Maker {
    orders: Vec<Order>,
    /// The steps left to do of the first order.
    steps: std::collections::VecDeque<Step>,
    pub(super) steps_taken: u64,
    origin: Option<SegmentOrigin>,
    /// Files to be made new segments.
    free: Vec<SegmentSeq>,
    /// The segment at hand has its file, but there is no room for the manifest that says so.
    named: bool,
    /// The order at hand has met with no room, and nothing has happened since that the real maker tries again after.
    no_space_reported: bool,
    /// Something failed: nothing further is made.
    failed: bool,
    /// The real maker makes no pauses until the order at hand is done.
    pub(super) is_in_a_hurry: bool,
}

impl Maker {
    pub(super) fn make(&mut self, make: MakeSegment) {
        self.orders.push(Order::Make(make));
        self.try_again();
    }

    /// Given up before anything further is made.
    pub(super) fn retire(&mut self, retire: RetireSegment) {
        let is_retire = |order: &Order| matches!(order, Order::Retire(_));
        let busy = usize::from(!self.steps.is_empty());
        let behind = self.orders.iter().rposition(is_retire).map_or(busy, |at| at + 1);
        self.orders.insert(behind.max(busy), Order::Retire(retire));
        self.try_again();
    }

    pub(super) fn segments_ordered(&self) -> usize {
        self.orders.iter().filter(|order| matches!(order, Order::Make(_))).count()
    }

    pub(super) fn segments_to_retire(&self) -> usize {
        self.orders.len() - self.segments_ordered()
    }

    /// The next try may report again that there is no room. The real maker tries, and reports, with every order it
    /// takes and each second, for which a change of the room stands here.
    pub(super) fn try_again(&mut self) {
        if !logdrive_raft::bug!("no_room_told_once") {
            self.no_space_reported = false;
        }
    }
}

impl Platter {
    /// Plans the first order; false if there is no room for it.
    fn begin_order(&mut self, order: &Order) -> bool {
        let steps = match order {
            Order::Make(make) if self.maker.named => {
                self.steps_to_change_manifest(|manifest| manifest.made = make.segment)
            }
            Order::Make(make) => {
                let recycled = self.take_free(make.bytes);
                if recycled.is_none() && !self.has_room() {
                    return self.no_room();
                }
                self.maker.origin = Some(match recycled {
                    Some(_) => SegmentOrigin::Recycled,
                    None => SegmentOrigin::New,
                });
                self.steps_to_make(make, recycled)
            }
            Order::Retire(retire) => self.steps_to_retire(retire),
        };
        self.maker.steps.extend(steps);
        true
    }

    /// A file of this size to be made a new segment. Those of other sizes are left to the next open to remove.
    fn take_free(&mut self, bytes: u64) -> Option<SegmentSeq> {
        while let Some(old) = self.maker.free.pop() {
            if self.size_of(Name::Free(old)) == bytes {
                return Some(old);
            }
        }
        None
    }

    /// The order at hand waits for room, and gives way to those that could give room back; false. The log hears that the
    /// next segment cannot be made now, also if what waits for room is a file that is to be given up.
    fn no_room(&mut self) -> bool {
        self.maker.steps.clear();
        let next = self.maker.orders.iter().find_map(|order| match order {
            Order::Make(make) => Some(make.segment),
            Order::Retire(_) => None,
        });
        if let Some(segment) = next
            && !std::mem::replace(&mut self.maker.no_space_reported, true)
        {
            self.events.push(Event::Made(segment, Err(io::ErrorKind::StorageFull)));
        }
        false
    }

    fn steps_to_make(&self, make: &MakeSegment, recycled: Option<SegmentSeq>) -> Vec<Step> {
        let mut bytes = make.header.to_vec();
        let (from, mut steps) = match recycled {
            Some(old) => {
                bytes.resize(2 * BLOCK_BYTES, 0);
                (Name::Free(old), Vec::new())
            }
            None => {
                bytes.resize(usize::try_from(make.bytes).expect("segments fit memory"), 0);
                (Name::Making(make.segment), vec![Step::Create(Name::Making(make.segment))])
            }
        };
        steps.extend([
            Step::Write(from, bytes),
            Step::Sync(from),
            Step::Rename(from, Name::Segment(make.segment)),
            Step::SyncDir,
        ]);
        steps.extend(self.steps_to_change_manifest(|manifest| manifest.made = make.segment));
        steps
    }

    fn steps_to_retire(&self, retire: &RetireSegment) -> Vec<Step> {
        let name = Name::Segment(retire.segment);
        let mut steps = Vec::new();
        if retire.fate == Fate::SetAside {
            steps.extend([Step::Link(name, Name::Corrupt(retire.segment)), Step::SyncDir]);
        }
        steps.extend(self.steps_to_change_manifest(|manifest| manifest.first = retire.first));
        steps.push(match retire.fate {
            Fate::Recycle => Step::Rename(name, Name::Free(retire.segment)),
            Fate::Remove | Fate::SetAside => Step::Remove(name),
        });
        steps.push(Step::SyncDir);
        steps
    }

    fn steps_to_change_manifest(&self, change: impl FnOnce(&mut Manifest)) -> Vec<Step> {
        let bytes = self.whole(Name::Manifest).ok().flatten().expect("the log has opened with it");
        let mut manifest = Manifest::decode(&bytes).expect("the log has opened with it");
        change(&mut manifest);
        let is_new = self.inode(Name::ManifestMaking).is_none();
        let takes_room = is_new || logdrive_raft::bug!("manifest_takes_room");
        let create = takes_room.then_some(Step::Create(Name::ManifestMaking));
        let change = [
            Step::Write(Name::ManifestMaking, manifest.encode()),
            Step::Sync(Name::ManifestMaking),
            Step::Exchange(Name::ManifestMaking, Name::Manifest),
            Step::SyncDir,
        ];
        create.into_iter().chain(change).collect()
    }

    /// Takes one step of the order at hand; false if there is none, or no room, or no power.
    pub(super) fn make_step(&mut self) -> bool {
        let Some(order) = self.maker.orders.first().cloned() else { return false };
        if self.maker.failed
            || self.power_fails_in == Some(0)
            || (self.maker.steps.is_empty() && !self.begin_order(&order))
        {
            return false;
        }
        let step = self.maker.steps.pop_front().expect("an order has steps");
        if matches!(step, Step::Create(Name::ManifestMaking)) && !self.has_small_room() {
            self.maker.named |= matches!(order, Order::Make(_));
            return self.no_room();
        }
        if let Err(error) = self.operate(self.era) {
            if let Step::Sync(name) = step {
                self.doom(name);
            }
            self.end_order(&order, Err(error.kind()));
            return true;
        }
        self.maker.steps_taken += 1;
        steps::take(|| step.to_string());
        match step {
            Step::Create(name) => self.create(name),
            Step::Write(name, bytes) => self.cache(name, 0, &bytes),
            Step::Sync(_) if logdrive_raft::bug!("new_file_not_synced") => {}
            Step::Sync(name) => self.sync(name).expect("made by a step before"),
            Step::Rename(from, to) => self.rename(from, to),
            Step::Exchange(from, to) => self.exchange(from, to),
            Step::Link(from, to) => self.link(from, to),
            Step::Remove(name) => self.unlink(name).expect("the log's own"),
            Step::SyncDir if logdrive_raft::bug!("directory_not_synced") => {}
            Step::SyncDir => self.sync_dir(),
        }
        if self.maker.steps.is_empty() {
            self.end_order(&order, Ok(()));
        }
        true
    }

    fn end_order(&mut self, order: &Order, outcome: Result<(), io::ErrorKind>) {
        self.maker.orders.remove(0);
        self.maker.is_in_a_hurry = false;
        self.maker.steps.clear();
        self.maker.failed = outcome.is_err();
        self.events.push(match order {
            Order::Make(make) => {
                self.maker.named = false;
                let origin = self.maker.origin.take().expect("set when it began");
                Event::Made(make.segment, outcome.map(|()| origin))
            }
            Order::Retire(retire) => {
                if outcome.is_ok() && retire.fate == Fate::Recycle {
                    self.maker.free.push(retire.segment);
                }
                Event::Retired(retire.segment, outcome)
            }
        });
    }

    /// Finishes the order at hand; false if there is none, or no room, or no power.
    pub(super) fn make_next(&mut self) -> bool {
        let left = self.maker.orders.len();
        while self.maker.orders.len() == left {
            if !self.make_step() {
                return false;
            }
        }
        true
    }

    /// Any number of steps of the order at hand: how far it came by itself when its process ended.
    pub(super) fn make_on(&mut self) {
        let left = self.maker.orders.len();
        for _ in 0..self.random.below(STEPS_MAX + 1) {
            if self.maker.orders.len() < left || !self.make_step() {
                return;
            }
        }
    }
}

/// Of one order.
const STEPS_MAX: usize = 10;

//! A disk for machines that are durable by themselves: small, and it loses what was not synced.
//!
//! In:     writes and syncs of a machine; the ends of its node's process, with the power or without it.
//! Out:    what the machine reads back, in this process and in the next one.
//! Cost:   a map entry a write; a copy of the map when the power fails.
//! Fails:  a process may end within an operation: the call unwinds, and the machine never returns from it.
//! Source: RULES.md T1; Pillai et al. 2014 (what applications take for durable).

use super::random::Random;
use crate::{GroupId, NodeId};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The disk of one group's machine on one simulated node. It outlives the process.
///
/// It keeps values under keys. Writing one value is atomic; nothing is promised about two. A write is visible to
/// the process at once, and durable when a later [`MachineDisk::sync`] returns. If only the process ends, all that
/// was written stays; if the power fails, each write that was not synced stays or is lost by chance, whatever
/// becomes of the writes before and behind it. Both may happen within any write and any sync.
#[derive(Clone, Debug)]
pub struct MachineDisk {
    disk: Arc<Mutex<Disk>>,
    /// The process this handle was given to: when it has ended, the handle does nothing.
    process: u64,
}

#[derive(Debug)]
struct Disk {
    random: Random,
    /// The process that runs now.
    process: u64,
    /// As the process sees it.
    written: BTreeMap<Bytes, Bytes>,
    /// As the platter has it for certain.
    durable: BTreeMap<Bytes, Bytes>,
    /// The writes between the two, oldest first; without a value the key is removed.
    unsynced: Vec<(Bytes, Option<Bytes>)>,
    /// The machine is open. Before that no process ends, so that a machine that does not open is at fault.
    open: bool,
    ends: Ends,
}

/// When the process ends within an operation of a machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ends {
    Never,
    /// After so many more operations.
    After(u64, End),
    /// It has: nothing that this process does reaches the disk any more.
    Now(End),
}

/// How a process ends within an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct End {
    /// Steps until its node starts again.
    pub(super) down: u64,
    /// The power fails too.
    pub(super) power: bool,
}

impl MachineDisk {
    /// A disk for a test of a machine alone: no process ever ends on it.
    #[must_use]
    pub fn new() -> Self {
        Self::drawn(Random::new(0))
    }

    fn drawn(random: Random) -> Self {
        let disk = Disk {
            random,
            process: 0,
            written: BTreeMap::new(),
            durable: BTreeMap::new(),
            unsynced: Vec::new(),
            open: false,
            ends: Ends::Never,
        };
        Self { disk: Arc::new(Mutex::new(disk)), process: 0 }
    }

    /// The value last written under a key.
    #[must_use]
    pub fn read(&self, key: &[u8]) -> Option<Bytes> {
        self.lock().written.get(key).cloned()
    }

    /// All keys and their values, by key.
    #[must_use]
    pub fn read_all(&self) -> BTreeMap<Bytes, Bytes> {
        self.lock().written.clone()
    }

    /// Writes a value.
    pub fn write(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.set(key.into(), Some(value.into()));
    }

    /// Removes a key. That too is lost with the power unless it is synced.
    pub fn remove(&self, key: impl Into<Bytes>) {
        self.set(key.into(), None);
    }

    /// Makes durable all that was written.
    pub fn sync(&self) {
        self.operate(|disk| {
            for (key, value) in std::mem::take(&mut disk.unsynced) {
                put(&mut disk.durable, key, value);
            }
        });
    }

    fn set(&self, key: Bytes, value: Option<Bytes>) {
        self.operate(|disk| {
            put(&mut disk.written, key.clone(), value.clone());
            disk.unsynced.push((key, value));
        });
    }

    fn operate(&self, operation: impl FnOnce(&mut Disk)) {
        let mut disk = self.lock();
        // A machine that is dropped after its process has ended may still try.
        if self.process != disk.process || matches!(disk.ends, Ends::Now(_)) {
            return;
        }
        if let Ends::After(operations, end) = disk.ends
            && disk.open
        {
            if operations == 0 {
                disk.ends = Ends::Now(end);
                drop(disk);
                logdrive_raft::reached!("process ended within a machine's write");
                std::panic::resume_unwind(Box::new("the process ended within this operation"));
            }
            disk.ends = Ends::After(operations - 1, end);
        }
        operation(&mut disk);
    }

    /// The process ends, perhaps with the power.
    fn end(&self, power: bool) {
        let mut disk = self.lock();
        disk.process += 1;
        disk.open = false;
        if matches!(disk.ends, Ends::Now(_)) {
            disk.ends = Ends::Never;
        }
        if !power {
            return;
        }
        for (key, value) in std::mem::take(&mut disk.unsynced) {
            if disk.random.once_in(2) {
                put(&mut disk.durable, key, value);
            } else {
                logdrive_raft::reached!("machine's write lost with the power");
            }
        }
        disk.written = disk.durable.clone();
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MachineDisk {
    fn default() -> Self {
        Self::new()
    }
}

fn put(map: &mut BTreeMap<Bytes, Bytes>, key: Bytes, value: Option<Bytes>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

/// The disks of all machines of a node.
pub(super) struct MachineDisks {
    random: Random,
    disks: BTreeMap<GroupId, MachineDisk>,
}

impl MachineDisks {
    /// Empty disks. The losses of these disks are drawn from `seed` alone.
    pub(super) fn new(seed: u64, node: NodeId) -> Self {
        Self { random: Random::stream(seed, node.get()), disks: BTreeMap::new() }
    }

    /// A group's disk, for the process that starts now.
    pub(super) fn open(&mut self, group: GroupId) -> MachineDisk {
        let random = &mut self.random;
        let drawn = || MachineDisk::drawn(Random::new(random.any()));
        let disk = self.disks.entry(group).or_insert_with(drawn);
        MachineDisk { disk: disk.disk.clone(), process: disk.lock().process }
    }

    /// A group's machine is open in the process that runs now.
    pub(super) fn opened(&self, group: GroupId) {
        self.disks[&group].lock().open = true;
    }

    /// The process ends, perhaps with the power.
    pub(super) fn end(&self, power: bool) {
        self.disks.values().for_each(|disk| disk.end(power));
    }

    /// This process or a later one will end within an operation of a machine, after so many others of that machine.
    pub(super) fn end_within(&self, end: End, operations: u64) {
        for disk in self.disks.values() {
            disk.lock().ends = Ends::After(operations, end);
        }
    }

    /// No process will end within an operation any more.
    pub(super) fn calm(&self) {
        for disk in self.disks.values() {
            let mut disk = disk.lock();
            if let Ends::After(..) = disk.ends {
                disk.ends = Ends::Never;
            }
        }
    }

    /// The process has ended within an operation, and the run has to carry that out.
    pub(super) fn has_ended(&self) -> bool {
        self.ended().is_some()
    }

    /// How the process that runs now has ended within an operation of a machine, if it has.
    pub(super) fn ended(&self) -> Option<End> {
        self.disks.values().find_map(|disk| match disk.lock().ends {
            Ends::Now(end) => Some(end),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disks: &mut MachineDisks) -> Vec<u8> {
        let all = disks.open(GroupId(7)).read_all();
        all.into_keys().map(|key| key[0]).collect()
    }

    fn disks(seed: u64) -> MachineDisks {
        MachineDisks::new(seed, NodeId(1))
    }

    #[test]
    fn a_power_loss_keeps_what_was_synced_and_any_part_of_the_rest() {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut disks = disks(seed);
            let disk = disks.open(GroupId(7));
            disk.write(vec![1], "synced");
            disk.sync();
            disk.write(vec![2], "early");
            disk.write(vec![3], "late");
            disk.remove(vec![1]);
            assert_eq!(written(&mut disks), [2, 3], "the process sees its own writes");
            disks.end(true);
            outcomes.insert(written(&mut disks));
        }
        assert_eq!(outcomes.len(), 8, "each write is kept or lost by itself: {outcomes:?}");
    }

    #[test]
    fn the_end_of_a_process_loses_nothing_and_makes_nothing_durable() {
        let mut lost = 0;
        for seed in 0..100 {
            let mut disks = disks(seed);
            disks.open(GroupId(7)).write(vec![1], "");
            disks.end(false);
            assert_eq!(written(&mut disks), [1]);
            disks.end(true);
            lost += usize::from(written(&mut disks).is_empty());
        }
        assert!((30..70).contains(&lost), "{lost} of 100");
    }

    #[test]
    fn nothing_of_a_process_that_has_ended_reaches_the_disk() {
        let mut disks = disks(0);
        let disk = disks.open(GroupId(7));
        disk.write(vec![1], "");
        disks.end(false);
        disk.write(vec![2], "");
        disk.sync();
        assert_eq!(written(&mut disks), [1]);
        disks.open(GroupId(7)).write(vec![3], "");
        assert_eq!(written(&mut disks), [1, 3]);
    }

    #[test]
    fn a_process_that_ends_within_an_operation_has_done_those_before_it() {
        let mut disks = disks(0);
        let disk = disks.open(GroupId(7));
        let end = End { down: 5, power: false };
        disks.end_within(end, 2);
        disks.opened(GroupId(7));
        let work = || (1..5).for_each(|key| disk.write(vec![key], ""));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err());
        assert_eq!(disks.ended(), Some(end));
        disk.write(vec![9], "a guard that is dropped writes in vain");
        disks.end(false);
        assert_eq!((written(&mut disks), disks.ended()), (vec![1, 2], None));
    }
}

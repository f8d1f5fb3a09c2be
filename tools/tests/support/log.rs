//! A log alone, without a node: groups that append, and remember what was reported durable.
//!
//! In:     a directory on the disk under test; a driver.
//! Out:    [`BareLog`]: appends and waits; after a failure, [`Left::reopen`] reads back what was acknowledged.
//! Fails:  by panicking when an acknowledged entry is gone or has changed, or a failed log acknowledges anything more.
#![allow(dead_code, reason = "each test binary uses its part")]

use crate::support::eventually;
use bytes::Bytes;
use logdrive_raft::{Entry, EntryKind, GroupId, LogIndex, NodeId, Term, WriteId};
use logdrive_wal::{Append, Config, DriverChoice, Home, Wal, WalError};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// A log, its directory's lock, and what it has acknowledged.
pub(crate) struct BareLog {
    home: Home,
    driver: DriverChoice,
    wal: Option<Wal>,
    /// By group: how many entries were appended, and how many acknowledged.
    groups: BTreeMap<u64, (u64, u64)>,
    writes: u64,
}

impl BareLog {
    pub(crate) fn create(dir: &Path, driver: DriverChoice) -> Self {
        let home = Home::create(dir, "bare", NodeId(1), 1, BTreeMap::new()).unwrap();
        let mut log = Self { home, driver, wal: None, groups: BTreeMap::new(), writes: 0 };
        log.open();
        log
    }

    fn open(&mut self) -> logdrive_wal::Recovered {
        let mut config = Config::new(self.home.shard_dir(0), self.home.identity().clone(), 0);
        config.segment_bytes = SEGMENT_BYTES;
        config.batch_bytes_max = 64 << 10;
        config.driver = self.driver;
        let (wal, recovered) = Wal::open(config).unwrap();
        self.wal = Some(wal);
        recovered
    }

    pub(crate) fn driver(&self) -> &'static str {
        self.wal.as_ref().expect("open").describe().disk.driver
    }

    /// The file that is written now, and the first byte of it that is not on disk yet.
    pub(crate) fn active(&self) -> (PathBuf, u64) {
        let durable = self.wal.as_ref().expect("open").durable();
        let name = format!("{:010}.seg", durable.segment().0);
        (self.home.shard_dir(0).join(name), durable.offset().into())
    }

    /// Waits until the three segments ahead are made, so that a fault from then on meets the log's own writes.
    pub(crate) fn wait_spare(&mut self) {
        let manifest = self.home.shard_dir(0).join("manifest");
        let wal = self.wal.as_mut().expect("open");
        let is_made = eventually(Duration::from_secs(30), || {
            wal.poll(0, &mut Vec::new()).unwrap();
            let manifest = std::fs::read(&manifest).unwrap();
            let newest = u32::from_le_bytes(manifest[44..48].try_into().unwrap());
            newest > wal.durable().segment().0 + 2
        });
        assert!(is_made, "no segment is made ahead");
    }

    /// Appends to every group and waits until that is durable, `rounds` times.
    ///
    /// # Errors
    /// The log's; what was acknowledged before is remembered.
    pub(crate) fn run(&mut self, rounds: u64) -> Result<(), WalError> {
        for _ in 0..rounds {
            self.writes += 1;
            for group in 1..=GROUPS {
                let (appended, _) = self.groups.entry(group).or_default();
                *appended += 1;
                let entry = entry(group, *appended);
                let append = Append {
                    group: GroupId(group),
                    write: WriteId(self.writes),
                    membership: None,
                    hard_state: None,
                    entries: &[entry],
                };
                self.wal.as_mut().expect("open").append(&append)?;
            }
            self.settle()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), WalError> {
        let wal = self.wal.as_mut().expect("open");
        while wal.has_work() {
            let mut completed = Vec::new();
            let polled = wal.submit(0).and_then(|()| wal.poll(0, &mut completed));
            for durable in completed.iter().flat_map(|batch| &batch.durable) {
                let (appended, acknowledged) =
                    self.groups.get_mut(&durable.group().get()).expect("appended to");
                // Each write appended one entry, and every write before it is durable with it.
                let left = self.writes - durable.upto().0;
                *acknowledged = (*acknowledged).max(*appended - left);
            }
            polled?;
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Checks that a log that has failed goes on failing, whatever the disk says by now.
    pub(crate) fn assert_poisoned(&mut self) {
        let before = self.groups.clone();
        for _ in 0..5 {
            let again = self.run(1);
            assert!(matches!(again, Err(WalError::Poisoned { .. })), "{again:?}");
            let polled = self.wal.as_mut().expect("open").poll(0, &mut Vec::new());
            assert!(matches!(polled, Err(WalError::Poisoned { .. })), "{polled:?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        for (group, (_, acknowledged)) in &self.groups {
            assert_eq!(*acknowledged, before[group].1, "acknowledged after the first failure");
        }
    }

    /// Lets go of every file. A log that has not failed is left as a killed process leaves it.
    pub(crate) fn drop_log(&mut self) {
        self.wal = None;
    }

    /// Gives the directory's lock back too, so that its file system can be unmounted; gives what [`Self::reopen`] needs.
    pub(crate) fn leave(mut self) -> Left {
        self.drop_log();
        Left { dir: self.home.dir().to_owned(), driver: self.driver, groups: self.groups }
    }
}

/// A log that is not open.
pub(crate) struct Left {
    dir: PathBuf,
    driver: DriverChoice,
    groups: BTreeMap<u64, (u64, u64)>,
}

impl Left {
    /// Opens it again: every acknowledged entry is there as it was written, and nothing else but entries that were
    /// appended behind them. Entries that are there count as acknowledged from now on.
    pub(crate) fn reopen(self) -> BareLog {
        let home = Home::open(&self.dir).unwrap();
        let mut log =
            BareLog { home, driver: self.driver, wal: None, groups: self.groups, writes: 0 };
        let recovered = log.open();
        let found: BTreeMap<u64, u64> =
            recovered.groups.iter().map(|group| (group.group.get(), group.last.get())).collect();
        let wal = log.wal.as_ref().expect("open");
        for (group, (appended, acknowledged)) in &mut log.groups {
            let last = found.get(group).copied().unwrap_or(0);
            assert!(
                (*acknowledged..=*appended).contains(&last),
                "group {group} ends at {last}; {acknowledged} were acknowledged, {appended} written"
            );
            let mut next = 1;
            while next <= last {
                let plan = wal
                    .plan_read(GroupId(*group), LogIndex(next), LogIndex(last), 1 << 16)
                    .unwrap();
                for read in plan.run().unwrap().into_entries() {
                    assert_eq!(read, entry(*group, next), "group {group}");
                    next += 1;
                }
            }
            (*appended, *acknowledged) = (last, last);
        }
        log
    }

    /// Entries acknowledged, over all groups.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.groups.values().map(|(_, acknowledged)| acknowledged).sum()
    }
}

/// An entry whose payload is its group and index, over and over.
fn entry(group: u64, index: u64) -> Entry {
    let text = format!("{group}/{index};");
    let payload: Vec<u8> = text.bytes().cycle().take(300).collect();
    Entry {
        term: Term(1),
        index: LogIndex(index),
        kind: EntryKind::Command,
        checksum: logdrive_wal::checksum(&payload),
        payload: Bytes::from(payload),
    }
}

const GROUPS: u64 = 5;
const SEGMENT_BYTES: u64 = 2 << 20;

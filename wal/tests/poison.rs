//! A segment that cannot be made, for another reason than a full disk, poisons the log: on real files (RULES.md rule 17,
//! W11).
//!
//! Writes and syncs that fail are in `trouble.rs`, and on a real kernel in the tools' `thin.rs` and `power_loss.rs`.

#![forbid(unsafe_code)]

mod common;

use common::*;
use logdrive_raft::LogIndex;
use logdrive_wal::{DriverChoice, Wal, WalError};
use std::{fs, path::Path};

/// RULES.md W11.
#[test]
fn a_segment_that_cannot_be_named_poisons_the_log() {
    fn away(dir: &Path) -> std::path::PathBuf {
        dir.with_extension("away")
    }
    fails_in_the_making(
        |dir| fs::rename(dir, away(dir)).unwrap(),
        |dir| fs::rename(away(dir), dir).unwrap(),
    );
}

/// RULES.md W11.
#[test]
fn a_manifest_that_cannot_be_written_poisons_the_log() {
    fn name(dir: &Path) -> std::path::PathBuf {
        dir.join("manifest.tmp")
    }
    fails_in_the_making(
        // The manifest before the current one is kept under this name.
        |dir| {
            fs::remove_file(name(dir)).unwrap();
            fs::create_dir(name(dir)).unwrap();
        },
        |dir| fs::remove_dir(name(dir)).unwrap(),
    );
}

/// Calls `break_it`, and appends until the log fails. The first error must name the cause, all later ones must say that
/// the log is poisoned, and nothing may be reported durable after the first. Writes that were reported durable before must
/// be there when the log is opened again.
fn fails_in_the_making(break_it: impl Fn(&Path), mend: impl Fn(&Path)) {
    for driver in [DriverChoice::Uring, DriverChoice::Portable] {
        let dir = tempfile::tempdir().unwrap();
        let home = new_home(&dir.path().join("node"));
        let config = config(&home, driver);
        let Some(mut wal) = open_or_skip(&config) else { continue };
        // Waits until the segments ahead are made, or the log would fail before anything is durable. Making a segment ends
        // with the manifest that names it.
        let made = || {
            let manifest = fs::read(config.dir.join("manifest")).unwrap();
            u32::from_le_bytes(manifest[44..48].try_into().unwrap())
        };
        while made() < 4 {
            std::thread::yield_now();
        }
        break_it(&config.dir);
        let mut durable = 0;
        let error = (1..).find_map(|index| append(&mut wal, index, &mut durable).err()).unwrap();
        assert!(matches!(error, WalError::Io { what: "making", .. }), "{driver:?}: {error}");
        let before = durable;
        for index in 1..5 {
            let again = append(&mut wal, durable + index, &mut durable);
            assert!(matches!(again, Err(WalError::Poisoned { .. })), "{driver:?}: {again:?}");
        }
        assert_eq!(durable, before, "{driver:?}: durable after the failure");
        assert!(matches!(wal.close(), Err(WalError::Poisoned { .. })));
        mend(&config.dir);
        let (wal, recovered) = Wal::open(config).unwrap();
        assert!(recovered.groups[0].last >= LogIndex(before), "{driver:?}: {before} were durable");
        assert_eq!(read_all(&wal, &recovered.groups[0])[0], entries(1, 1, 1, 1, 500)[0]);
    }
}

/// Appends one entry and waits until it is durable; `durable` keeps the last write that was reported so.
fn append(wal: &mut Wal, index: u64, durable: &mut u64) -> Result<(), WalError> {
    wal.append(&write(1, index, &entries(1, 1, index, 1, 500)))?;
    while wal.has_work() {
        let mut completed = Vec::new();
        let polled = wal.submit(0).and_then(|()| wal.poll(0, &mut completed));
        for said in completed.iter().flat_map(|completed| &completed.durable) {
            *durable = (*durable).max(said.upto().0);
        }
        polled?;
        std::thread::yield_now();
    }
    Ok(())
}

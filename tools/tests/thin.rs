//! A sync that fails once and then claims success, on a real kernel (RULES.md W6, W7, T6).
//!
//! The disk is a sparse file on a small file system in memory. The log's blocks are punched out of that file and the
//! memory is filled, so that the next write to them finds no room, below a file system that has plenty. With direct
//! writes the write fails; with cached ones (an encrypted ext4 takes no others) the write succeeds, the sync after it
//! fails, and every later sync succeeds over lost bytes. The tests need root and a loop device; without them they say
//! SKIPPED.

#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "one ioctl that no safe crate offers")]
#[path = "support/ioctl.rs"]
mod ioctl;
#[path = "support/log.rs"]
mod log;
#[path = "support/mount.rs"]
mod mount;
#[path = "support/room.rs"]
mod room;
mod support;

use log::BareLog;
use logdrive::DriverChoice;
use logdrive_wal::WalError;
use mount::{Disk, Writes};
use room::{Ballast, Memory};
use std::{fs::File, path::Path};
use support::{cluster::directory, process::run, report, skipped};

/// RULES.md W6, W7.
#[test]
fn the_first_write_or_sync_that_fails_ends_the_log_and_what_it_acknowledged_is_there() {
    for writes in [Writes::Direct, Writes::Encrypted] {
        for driver in [DriverChoice::Uring, DriverChoice::Portable] {
            if let Err(why) = fail_once(writes, driver) {
                skipped(
                    "the_first_write_or_sync_that_fails_ends_the_log_and_what_it_acknowledged_is_there",
                    format_args!("{writes:?}, {driver:?}: {why}"),
                );
            }
        }
    }
}

/// RULES.md W7.
/// A process that starts again after the failure reads the failed write out of the page cache, where it is clean. It
/// promises the bytes that it finds, so they have to survive the power cut that follows. A short log is written again
/// as a whole, and of a longer one only the batches that nothing vouches for.
#[test]
fn what_an_open_finds_after_a_failed_sync_is_there_after_a_power_cut() {
    for rounds in [50, 400] {
        for driver in [DriverChoice::Uring, DriverChoice::Portable] {
            if let Err(why) = fail_then_cut_power(rounds, driver) {
                skipped(
                    "what_an_open_finds_after_a_failed_sync_is_there_after_a_power_cut",
                    format_args!("{driver:?}: {why}"),
                );
            }
        }
    }
}

fn fail_then_cut_power(rounds: u64, driver: DriverChoice) -> Result<(), String> {
    let dir = directory();
    let memory = Memory::new(dir.path(), MEMORY_BYTES)?;
    let mut disk = Disk::with(memory.path(), DISK_BYTES, Writes::Encrypted)?;
    let (log, ballast) = failed(&memory, &disk, Writes::Encrypted, driver, rounds);
    let left = log.leave();
    let acknowledged = left.acknowledged();
    drop(ballast);
    let log = left.reopen();
    disk.cut_power();
    let left = log.leave();
    let found = left.acknowledged();
    assert!(found > acknowledged, "nothing of the failed write was found: the test shows nothing");
    disk.power_on(Writes::Encrypted);
    // All that was found is there, and nothing else.
    let mut log = left.reopen();
    log.run(10).unwrap();
    let left = log.leave();
    disk.power_on(Writes::Encrypted);
    left.reopen().leave();
    report(format_args!("  thin, {driver:?}: {acknowledged} acknowledged, {found} found and kept"));
    Ok(())
}

fn fail_once(writes: Writes, driver: DriverChoice) -> Result<(), String> {
    let dir = directory();
    let memory = Memory::new(dir.path(), MEMORY_BYTES)?;
    let mut disk = Disk::with(memory.path(), DISK_BYTES, writes)?;
    let (log, ballast) = failed(&memory, &disk, writes, driver, 50);
    let left = log.leave();
    assert!(left.acknowledged() >= 250, "{} entries acknowledged", left.acknowledged());
    drop(ballast);
    disk.power_on(writes);
    let mut log = left.reopen();
    log.run(50).unwrap();
    let left = log.leave();
    disk.power_on(writes);
    left.reopen().leave();
    Ok(())
}

/// Makes a poisoned log: `rounds` rounds are acknowledged, and then its disk has no room below the next blocks.
fn failed(
    memory: &Memory,
    disk: &Disk,
    writes: Writes,
    driver: DriverChoice,
    rounds: u64,
) -> (BareLog, Ballast) {
    let mut log = BareLog::create(&disk.path().join("log"), driver);
    log.run(rounds).unwrap();
    log.wait_spare();

    let (file, durable) = log.active();
    // The next blocks lose their room below the file system, and so do all behind them, because it is not known how
    // much is in flight.
    take_back(memory, &file, durable.next_multiple_of(BLOCK_BYTES));
    let ballast = Ballast::fill(memory.path());
    let error = log.run(1_000).expect_err("the disk has no room below the log's blocks");
    assert!(matches!(error, WalError::Io { what: "write", .. }), "{error}");
    // Today's kernel reports the error once, and then that all is well: a log that synced again would be deceived.
    let lies = File::options().write(true).open(&file).unwrap().sync_data().is_ok();
    log.assert_poisoned();
    report(format_args!(
        "  thin, {writes:?}, {}: {error}; a second sync {}",
        log.driver(),
        if lies { "claims success" } else { "fails too" }
    ));
    if matches!(writes, Writes::Encrypted) {
        assert!(lies, "the kernel told the truth twice: this test no longer shows what it is for");
    }
    (log, ballast)
}

/// Punches a file's blocks, from `offset` on, out of the sparse file that its file system is in: there they are zeros now,
/// and a write to them must find new room.
fn take_back(memory: &Memory, file: &Path, offset: u64) {
    let table = run("filefrag", &["-v", "-b1", &file.to_string_lossy()]).unwrap();
    let mut punched = 0;
    for line in table.lines() {
        // `ext: logical..logical: physical..physical: length: flags`, in bytes.
        let numbers: Vec<u64> = line
            .split([':', '.', ' '])
            .filter(|word| !word.is_empty())
            .map_while(|word| word.parse().ok())
            .collect();
        let [_, first, last, physical, ..] = numbers[..] else { continue };
        let from = offset.max(first);
        if from > last {
            continue;
        }
        let place = (physical + (from - first)).to_string();
        let length = (last + 1 - from).to_string();
        let image = memory.path().join("disk.img");
        let words =
            ["--punch-hole", "--offset", &place, "--length", &length, &image.to_string_lossy()];
        run("fallocate", &words).unwrap();
        punched += last + 1 - from;
    }
    assert!(punched > 0, "nothing of {} was found:\n{table}", file.display());
}

const MEMORY_BYTES: u64 = 48 << 20;
const DISK_BYTES: u64 = 256 << 20;
const BLOCK_BYTES: u64 = 4_096;

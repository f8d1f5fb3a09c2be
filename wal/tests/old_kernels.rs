//! Older kernels, which this one is made to imitate: an `fallocate` that is interrupted, and an io_uring without
//! operations that write (RULES.md rule 7, W21).
//!
//! A filter of system calls (seccomp) gives the answers, for one thread and those that it starts, so each test has a
//! thread of its own. No rights are needed; where the kernel has no filters, a test says SKIPPED.

#![deny(unsafe_code)]

mod common;
#[allow(unsafe_code, reason = "two calls that no safe crate offers")]
mod filter;

use common::*;
use filter::Call;
use logdrive_wal::{DriverChoice, Wal};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Runs a test in a thread of its own, behind a filter that refuses calls.
fn behind(refused: Call, errno: Errno, test: fn()) {
    let run = move || match filter::refuse(refused, errno) {
        Ok(()) => test(),
        Err(error) => skipped(format_args!("no filter of system calls: {error}")),
    };
    std::thread::scope(|scope| {
        scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// RULES.md rule 7.
/// On some file systems a signal interrupts `fallocate`, which then begins anew each time. The log finds its room by
/// writing zeros instead.
#[test]
fn a_log_is_made_and_written_though_every_fallocate_is_interrupted() {
    behind(Call::Fallocate, Errno::INTR, || {
        for driver in [DriverChoice::Auto, DriverChoice::Portable] {
            let dir = tempfile::tempdir().unwrap();
            let file = std::fs::File::create(dir.path().join("file")).unwrap();
            assert_eq!(fallocate(&file, FallocateFlags::empty(), 0, 1), Err(Errno::INTR));
            let home = new_home(&dir.path().join("node"));
            let (mut wal, _) = Wal::open(config(&home, driver)).unwrap();
            wal.append(&write(1, 1, &entries(1, 1, 1, 200, 1000))).unwrap();
            settle(&mut wal);
            assert!(wal.metrics().rotations > 2, "{:?}", wal.metrics());
            wal.close().unwrap();
            let (wal, recovered) = Wal::open(config(&home, driver)).unwrap();
            assert_eq!(read_all(&wal, &recovered.groups[0]), entries(1, 1, 1, 200, 1000));
        }
    });
}

/// RULES.md W21.
/// Linux 5.1 to 5.5 has rings without operations that write from memory. Behind the filter this kernel answers like
/// such a one: it cannot be asked which operations it has, and takes no later kind of registration either.
#[test]
fn a_kernel_whose_ring_cannot_say_that_it_writes_is_written_plainly() {
    behind(Call::RegisterBehind(REGISTER_FILES_UPDATE), Errno::INVAL, || {
        let dir = tempfile::tempdir().unwrap();
        let home = new_home(&dir.path().join("node"));
        let (mut wal, _) = Wal::open(config(&home, DriverChoice::Auto)).unwrap();
        assert_eq!(wal.describe().disk.driver, "portable");
        wal.append(&write(1, 1, &entries(1, 1, 1, 200, 1000))).unwrap();
        settle(&mut wal);
        wal.close().unwrap();
        // If only the ring may be used, the open fails with an error that names the missing operation.
        let error = Wal::open(config(&home, DriverChoice::Uring)).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("no operation that writes"), "{error}");
    });
}

/// The newest kind of registration that is older than the question which operations a ring has.
const REGISTER_FILES_UPDATE: u32 = 6;

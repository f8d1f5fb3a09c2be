//! The one harness of the tests that start processes: clusters of real `logdrive serve` processes, a plain client, and a
//! record of what clients were told.
//!
//! In:     the binary under test, which cargo names.
//! Out:    [`cluster`] starts, kills and restarts nodes; [`client`] speaks RESP to them; [`load`] writes from several
//!         threads and remembers what was acknowledged; [`process`] keeps a child from outliving its test. Beside them,
//!         for the tests that name them: `mount.rs` and `ioctl.rs`, a disk whose power can be cut; `throttle.rs`, one
//!         that stops answering.
//! Fails:  by panicking, with what the nodes wrote: these are tests.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod load;
pub(crate) mod process;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Takes this binary's turn: a cluster under load leaves no room on a small machine for a second one.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says why a test was not run: it must not look as if it had passed.
pub(crate) fn skipped(test: &str, reason: impl std::fmt::Display) {
    use std::io::Write;
    // Written past libtest's capture, which hides what a passing test prints.
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED: {test}: {reason}");
}

/// Says what was measured, also if the test passes.
pub(crate) fn report(line: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// The tests' clock. They bound how long they wait, and print how long it took; they judge nothing by it.
#[allow(clippy::disallowed_methods, reason = "tests wait for other processes")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Asks until `so` holds; false if it does not hold within the time.
pub(crate) fn eventually(within: Duration, mut so: impl FnMut() -> bool) -> bool {
    let start = now();
    loop {
        if so() {
            return true;
        }
        if start.elapsed() > within {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

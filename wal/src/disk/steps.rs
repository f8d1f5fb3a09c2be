//! The steps taken in a log's directory, one by one: the real maker and the simulated one are held against each other.
//!
//! In:     each step, as it is taken; kept only in unit tests.
//! Out:    the steps of this thread.
//! Fails:  in unit tests that say so, files that are created, as on a full disk.

/// Keeps a step.
#[cfg(not(test))]
pub(super) fn take(_: impl FnOnce() -> String) {}

/// Fails if a unit test has it that there is no room for a file of this name.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "it fails in unit tests")]
pub(super) fn find_room(_: impl FnOnce() -> String) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use kept::taken;
#[cfg(test)]
pub(super) use kept::{find_room, refuse_room, take};

#[cfg(test)]
mod kept {
    use std::cell::{Cell, RefCell};
    use std::io;

    thread_local! {
        static STEPS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
        static REFUSED: Cell<fn(&str) -> bool> = const { Cell::new(|_| false) };
    }

    /// Fails for names that this thread has refused room.
    pub(in crate::disk) fn find_room(name: impl FnOnce() -> String) -> io::Result<()> {
        if REFUSED.get()(&name()) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// On this thread there is no room for new files of these names from now on.
    pub(in crate::disk) fn refuse_room(names: fn(&str) -> bool) {
        REFUSED.set(names);
    }

    /// Keeps a step.
    pub(in crate::disk) fn take(step: impl FnOnce() -> String) {
        STEPS.with_borrow_mut(|steps| steps.push(step()));
    }

    /// The steps since this was last asked.
    pub(crate) fn taken() -> Vec<String> {
        STEPS.take()
    }
}

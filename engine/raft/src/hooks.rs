//! Hooks for simulations: the branches that a run reached, and mutations that are switched on by name.
//!
//! [`crate::reached!`] counts; [`crate::bug!`] is true where a mutation is switched on. Without the features
//! `coverage` and `bug-bank` both compile to nothing and `false`: no release has either.
//!
//! In:     names, as literals at their place.
//! Out:    counts per thread; whether a mutation is on, per thread.
//! Cost:   none in a release; a map's entry per reached branch in a simulation.

#[cfg(all(feature = "bug-bank", not(debug_assertions)))]
compile_error!("the bug bank is never built for a release");

/// Counts that a branch was reached. Nothing without the feature `coverage`.
#[cfg(feature = "coverage")]
#[macro_export]
macro_rules! reached {
    ($name:literal) => {
        $crate::hooks::reached($name)
    };
}

/// Counts that a branch was reached. Nothing without the feature `coverage`.
#[cfg(not(feature = "coverage"))]
#[macro_export]
macro_rules! reached {
    ($name:literal) => {};
}

/// True if the mutation of that name is switched on. `false` without the feature `bug-bank`.
#[cfg(feature = "bug-bank")]
#[macro_export]
macro_rules! bug {
    ($name:literal) => {
        $crate::hooks::is_on($name)
    };
}

/// True if the mutation of that name is switched on. `false` without the feature `bug-bank`.
#[cfg(not(feature = "bug-bank"))]
#[macro_export]
macro_rules! bug {
    ($name:literal) => {
        false
    };
}

#[cfg(feature = "coverage")]
pub use coverage::{reached, take_reached};

#[cfg(feature = "coverage")]
mod coverage {
    extern crate std;
    use alloc::collections::BTreeMap;
    use core::cell::RefCell;

    std::thread_local! {
        static COUNTS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// See [`crate::reached!`].
    pub fn reached(name: &'static str) {
        COUNTS.with_borrow_mut(|counts| *counts.entry(name).or_default() += 1);
    }

    /// The places that this thread has reached since it was last asked.
    #[must_use]
    pub fn take_reached() -> BTreeMap<&'static str, u64> {
        COUNTS.take()
    }
}

#[cfg(feature = "bug-bank")]
pub use bank::{is_on, switch_on};

#[cfg(feature = "bug-bank")]
mod bank {
    extern crate std;
    use core::cell::Cell;

    std::thread_local! {
        static ON: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// See [`crate::bug!`].
    #[must_use]
    pub fn is_on(name: &str) -> bool {
        ON.get().is_some_and(|on| on == name)
    }

    /// Switches one mutation on in this thread, or all off.
    pub fn switch_on(name: Option<&'static str>) {
        ON.set(name);
    }
}

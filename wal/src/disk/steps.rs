//! What is done to a log's directory, step by step: the real maker and the simulated one are held against each other.
//!
//! In:     each step, as it is taken; kept only in unit tests.
//! Out:    the steps of this thread.

/// Keeps a step.
#[cfg(not(test))]
pub(super) fn take(_: impl FnOnce() -> String) {}

#[cfg(test)]
pub(super) use kept::{take, taken};

#[cfg(test)]
mod kept {
    use std::cell::RefCell;

    thread_local! {
        static STEPS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// Keeps a step.
    pub(in crate::disk) fn take(step: impl FnOnce() -> String) {
        STEPS.with_borrow_mut(|steps| steps.push(step()));
    }

    /// The steps since this was last asked.
    pub(in crate::disk) fn taken() -> Vec<String> {
        STEPS.take()
    }
}

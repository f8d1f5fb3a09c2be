//! Answers that clients were given and have not looked at.
//!
//! In:     outcomes, from a shard's turn.
//! Out:    the same, when the clients look.

use crate::{Completions, Outcome};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Answers that clients were given and have not looked at.
#[derive(Default)]
pub(super) struct Answers(Mutex<Vec<(u64, Outcome)>>);

impl Answers {
    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<(u64, Outcome)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Completions for Answers {
    fn complete(&self, outcomes: &mut Vec<(u64, Outcome)>) {
        self.lock().append(outcomes);
    }
}

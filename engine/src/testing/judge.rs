//! The judge sees every event of a run: the trace tells it, the invariants judge it, the ghost remembers it.
//!
//! In:     [`Event`]s, in the order they happen.
//! Out:    an unwinding [`Broken`], if an event breaks an invariant; else the ghost after it.
//! Source: RULES.md, the invariants.

use super::{
    event::Event,
    ghost::Ghost,
    invariants::{self, Broken},
    trace::Trace,
};

/// The state that a run has come to so far.
pub(super) struct Judge {
    pub(super) ghost: Ghost,
    pub(super) trace: Trace,
}

impl Judge {
    /// Checks an event against every invariant, then remembers it.
    pub(super) fn see(&mut self, event: &Event<'_>) {
        self.trace.see(event, &self.ghost.commands);
        if event.replica().is_some_and(|replica| self.ghost.apart.contains_key(&replica)) {
            return self.ghost.remember_apart(event);
        }
        let group = event.group(&self.ghost.commands);
        let is_judged = group.is_none_or(|group| !self.ghost.unjudged.contains(&group));
        for invariant in invariants::ALL.iter().filter(|_| is_judged) {
            if let Err(what) = (invariant.check)(&self.ghost, event) {
                Broken { invariant: invariant.name.to_owned(), what }.throw();
            }
        }
        self.ghost.remember(event);
    }
}

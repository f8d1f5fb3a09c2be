//! The invariants, which must always hold: one file each.
//!
//! In:     the ghost's state before an event, and the event.
//! Out:    `Err` with both sides of the contradiction.
//! Source: RULES.md, the invariants, whose numbers and names these are.
//!
//! To add one: a file with a `check` and an `INVARIANT`, and its line in [`ALL`].

mod bounds;
mod client_durability;
mod commit_rule;
mod committed_immutable;
mod durable_ack;
mod election_safety;
mod fence;
mod foundings;
mod gc_safety;
mod group_isolation;
mod identity;
mod leader_append_only;
mod leader_completeness;
mod leader_without_quorum;
mod liveness;
mod log_matching;
mod mark;
mod monotone;
mod no_holes;
mod patience;
mod poison;
mod prefix_recovery;
mod reopened_machine;
mod room;
mod single_vote;
mod state_machine_safety;
mod state_order;

use super::event::Event;
use super::ghost::Ghost;

/// A rule over a whole run.
pub(super) struct Invariant {
    /// Its number and name in `engine/RULES.md`; 28 and 35 stand in `connections.rs`,
    /// 30, 32, 33 and 37 in `sim.rs`.
    pub(super) name: &'static str,
    /// Says what `event` would break.
    pub(super) check: fn(&Ghost, &Event<'_>) -> Check,
}

/// `Err` says what contradicts what.
pub(super) type Check = Result<(), String>;

pub(super) const ALL: &[Invariant] = &[
    election_safety::INVARIANT,
    single_vote::INVARIANT,
    leader_append_only::INVARIANT,
    log_matching::INVARIANT,
    leader_completeness::INVARIANT,
    state_machine_safety::INVARIANT,
    reopened_machine::INVARIANT,
    committed_immutable::INVARIANT,
    commit_rule::INVARIANT,
    durable_ack::INVARIANT,
    client_durability::INVARIANT,
    monotone::INVARIANT,
    state_order::INVARIANT,
    no_holes::INVARIANT,
    prefix_recovery::INVARIANT,
    fence::INVARIANT,
    mark::INVARIANT,
    poison::INVARIANT,
    identity::INVARIANT,
    group_isolation::INVARIANT,
    gc_safety::INVARIANT,
    bounds::INVARIANT,
    room::INVARIANT,
    leader_without_quorum::INVARIANT,
    patience::INVARIANT,
    liveness::INVARIANT,
    foundings::INVARIANT,
];

/// An invariant that does not hold. It ends the run by unwinding: later events would prove nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Broken {
    pub(super) invariant: String,
    pub(super) what: String,
}

impl Broken {
    /// Ends the run.
    pub(super) fn throw(self) -> ! {
        std::panic::resume_unwind(Box::new(self))
    }
}

/// `Ok` if `holds`.
pub(super) fn require(holds: bool, what: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(what()) }
}

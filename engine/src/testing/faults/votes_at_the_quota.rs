//! Clients fill the logs up to their quota, and then the leaders of a group pause one after the other, so that votes
//! use up their reserve (RULES.md W16). Arguments: the group, for how many steps leaders get a command in every step.

use super::{Added, Fault, When, node};
use crate::testing::sim::Later;

/// So many times the group's leader pauses, each time for less than two election timeouts.
const ROUNDS: u64 = 10;

const FAULT: Fault = Fault {
    name: "votes at the quota",
    often: 1,
    draw: |random, shape| [random.below(shape.groups.len() as u64), random.between(100, 200), 0],
    inject: |sim, [group, eager, _]| {
        sim.eager_until = sim.now() + eager;
        let timeout = sim.shape.election_ticks;
        for round in 0..ROUNDS {
            let pause = Later::PauseLeader(node(group), 3 * timeout / 2);
            sim.in_a_while(eager + round * 2 * timeout, pause);
        }
    },
};

/// Only the smallest logs can be filled within a run.
pub(super) const ADDED: Added = Added {
    fault: FAULT,
    once_in: 1,
    strikes: |shape| shape.log_bytes_max.is_some() && shape.segment_bytes == 64 << 10,
    when: When::Staged(|[_, eager, _], shape| eager + ROUNDS * 2 * shape.election_ticks),
};

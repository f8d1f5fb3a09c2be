//! Clients fill the logs until no disk has room for a further segment, and then the leaders of the groups pause one after
//! the other, so that votes use up their reserve (RULES.md W16). Arguments: for how many steps leaders get a command in
//! every step.

use super::{Added, Fault, When, node};
use crate::testing::sim::Later;

/// The disks are full for so many steps.
const STEPS: u64 = 550;

const FAULT: Fault = Fault {
    name: "votes on full disks",
    often: 1,
    draw: |random, _| [random.between(30, 60), 0, 0],
    inject: |sim, [eager, _, _]| {
        sim.eager_until = sim.now() + eager;
        (0..sim.nodes.len()).for_each(|at| sim.fill_disk(at, 0, STEPS));
        let (timeout, groups) = (sim.shape.election_ticks, sim.shape.groups.len() as u64);
        for round in 0..(STEPS - eager) / (2 * timeout) {
            let pause = Later::PauseLeader(node(round % groups), 3 * timeout / 2);
            sim.in_a_while(eager + round * 2 * timeout, pause);
        }
    },
};

/// Only the smallest segments can be filled within a run.
pub(super) const ADDED: Added = Added {
    fault: FAULT,
    once_in: 3,
    strikes: |shape| {
        shape.nodes.len() >= 3 && shape.log_bytes_max.is_none() && shape.segment_bytes == 64 << 10
    },
    when: When::Staged(|_, _| STEPS),
};

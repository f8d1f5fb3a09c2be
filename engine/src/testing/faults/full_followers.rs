//! For a while the disks of all nodes but a leader's have no room for further segments: the leader's own log takes
//! commands, and no majority does (RULES.md W10, B2). When the disks have room again the leader hears nobody for a
//! while, so that the followers' notices of room may be lost. Arguments: the group, for how many steps.

use super::{Added, Fault, When, node};
use crate::testing::sim::Later;

const FAULT: Fault = Fault {
    name: "full followers",
    often: 1,
    draw: |random, shape| {
        [random.below(shape.groups.len() as u64), *random.pick(&[100, 150, 200]), 0]
    },
    inject: |sim, [group, steps, _]| {
        let Some(leader) = sim.newest_leader(node(group)) else { return };
        for at in (0..sim.nodes.len()).filter(|at| *at != leader) {
            sim.fill_disk(at, 0, steps);
        }
        let deaf = Later::DeafenLeader(node(group), 3 * sim.shape.election_ticks / 4);
        sim.in_a_while(steps - 1, deaf);
    },
};

pub(super) const ADDED: Added = Added {
    fault: FAULT,
    once_in: 6,
    strikes: |shape| shape.nodes.len() >= 3,
    when: When::Anytime,
};

//! A disk has no room for further segments, then has room, and then has none for long, while leaders get a command in
//! every step: the disk's log must learn of each change (RULES.md W9). Arguments: the node, steps with room in
//! between.

use super::{Added, Fault, When, node};
use crate::testing::sim::Later;

/// Steps without room, before and after.
const FIRST: u64 = 60;
const SECOND: u64 = 300;

const FAULT: Fault = Fault {
    name: "full again",
    often: 1,
    draw: |random, shape| [shape.any_node(random), random.between(10, 50), 0],
    inject: |sim, [at, between, _]| {
        sim.eager_until = sim.now() + FIRST + between + SECOND / 2;
        sim.fill_disk(node(at), 0, FIRST);
        sim.in_a_while(FIRST + between, Later::FillDisk(node(at), SECOND));
    },
};

pub(super) const ADDED: Added =
    Added { fault: FAULT, once_in: 4, strikes: |_| true, when: When::Anytime };

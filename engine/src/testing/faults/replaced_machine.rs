//! A group's machine fails or panics within a batch, when it has applied none of it, half of it or all of it; after a
//! while the group gets another machine there, while its node runs on (RULES.md P9). Arguments: the node, the group,
//! and six times the steps until the replacement, plus the way of failing.

use super::{Added, Fault, When, node};

const FAULT: Fault = Fault {
    name: "replaced machine",
    often: 5,
    draw: |random, shape| {
        let way = 6 * *random.pick(&[1, 5, 5, 30]) + random.below(6);
        [shape.any_node(random), random.below(shape.groups.len() as u64), way]
    },
    inject: |sim, [at, group, way]| {
        let group = sim.shape.groups[node(group)];
        sim.replace_machine(node(at), group, way / 6, way % 6);
    },
};

pub(super) const ADDED: Added =
    Added { fault: FAULT, once_in: 3, strikes: |_| true, when: When::Anytime };

//! A group is created with other members on one node than on the others, or with another first leader (RULES.md M14).
//! Arguments: the node, the group, and the way: this node as only member, one other member left out, or another first
//! leader.

use super::{Added, Fault, When, node};

const FAULT: Fault = Fault {
    name: "other founding",
    often: 1,
    draw: |random, shape| {
        let nodes = shape.nodes.len() as u64;
        // Three times the number of another node, plus the kind of difference.
        let way = 3 * random.below(nodes) + *random.pick(&[0, 0, 1, 2]);
        [shape.any_node(random), random.below(shape.groups.len() as u64), way]
    },
    inject: |sim, [at, group, way]| sim.found_otherwise(node(at), node(group), way),
};

/// If two nodes have two lists of members, no majority decides which list is right.
pub(super) const ADDED: Added =
    Added { fault: FAULT, once_in: 8, strikes: |shape| shape.nodes.len() >= 3, when: When::First };

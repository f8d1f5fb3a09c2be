//! The network falls into parts (RULES.md N1, N4, N5, N6). Arguments: the kind, for how many steps, the node that is
//! alone or in the middle.

use super::{Fault, node};
use crate::NodeId;

pub(super) const FAULT: Fault = Fault {
    name: "partition",
    often: 8,
    draw: |random, shape| {
        let steps = *random.pick(&[20, 60, 150, 250]);
        [random.below(4), steps, shape.any_node(random)]
    },
    inject: |run, [kind, steps, about]| {
        let nodes = run.shape.nodes.clone();
        let about = node(about);
        let place = |id: NodeId| nodes.iter().position(|node| *node == id).expect("a node");
        let distance = |a, b| place(a).abs_diff(place(b));
        let is_cut = |a: NodeId, b: NodeId| match kind {
            // One node is alone.
            0 => (place(a) == about) != (place(b) == about),
            // One node is connected to all others, and they are not connected to each other.
            1 => place(a) != about && place(b) != about,
            // Two halves that both see one node, the bridge.
            2 => place(a) != about && place(b) != about && (place(a) < about) != (place(b) < about),
            // A chain.
            _ => distance(a, b) > 1,
        };
        for &a in &nodes {
            for &b in &nodes {
                if a != b && is_cut(a, b) {
                    run.cut(a, b, steps);
                }
            }
        }
    },
};

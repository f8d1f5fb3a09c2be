//! The manifest or a segment's header is damaged while the power is off (RULES.md C4, C8): the node must refuse to
//! start and change nothing, and must start once the damage is mended. Arguments: the node; the damage, which is 0 for
//! a bit of the manifest, 1 for its end, else a bit of a header; which bit.

use super::{Fault, node};

pub(super) const FAULT: Fault = Fault {
    name: "damaged metadata",
    often: 1,
    draw: |random, shape| [shape.any_node(random), random.below(4), random.any()],
    inject: |run, [at, what, bit]| run.damage_metadata(node(at), what, bit),
};

//! A bit of a batch that later batches record as durable flips while the process is down (RULES.md C1, C2).
//! The node must not start on it as if nothing were missing. Arguments: the node, which batch, which bit.

use super::{Fault, node};
use crate::testing::disks::Decay;

pub(super) const FAULT: Fault = Fault {
    name: "damage at rest",
    often: 1,
    draw: |random, shape| [shape.any_node(random), random.any(), random.any()],
    inject: |run, [at, batch, bit]| run.decay(node(at), batch, bit, &Decay::Bit),
};

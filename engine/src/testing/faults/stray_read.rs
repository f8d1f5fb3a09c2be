//! Reads of a sector of a durable batch return another sector (RULES.md C10). Arguments: the node, which batch, which
//! of its bits lies in the sector.

use super::{Fault, node};
use crate::testing::disks::Decay;

pub(super) const FAULT: Fault = Fault {
    name: "stray read",
    often: 1,
    draw: |random, shape| [shape.any_node(random), random.any(), random.any()],
    inject: |run, [at, batch, bit]| run.decay(node(at), batch, bit, &Decay::Astray),
};

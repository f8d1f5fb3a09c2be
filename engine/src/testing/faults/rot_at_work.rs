//! A durable batch rots while its node runs. Then a group of the batch gets another machine there, which is given the
//! log again: the read that meets the damage fences the group (RULES.md rule 24, C1). Arguments: the node, the batch,
//! the bit.

use super::{Added, Fault, When, node};

const FAULT: Fault = Fault {
    name: "rot at work",
    often: 4,
    draw: |random, shape| [shape.any_node(random), random.any(), random.any()],
    inject: |sim, [at, batch, bit]| sim.rot_at_work(node(at), batch, bit),
};

pub(super) const ADDED: Added =
    Added { fault: FAULT, once_in: 3, strikes: |_| true, when: When::Anytime };

//! A leader, whose disk is slow, loses its last entries with its power when only one follower has them. When it leads
//! again, acknowledgements of its earlier term reach it once more (RULES.md N8). Arguments: the group and one of its
//! followers, steps until the power fails.

use super::{Fault, Staged, node};

pub(super) const FAULT: Fault = Fault {
    name: "forgetful leader",
    often: 3,
    draw: |random, shape| [random.below(shape.groups.len() as u64 * 8), random.between(8, 30), 0],
    inject: |run, [whom, after, _]| run.forget(node(whom / 8), whom % 8, after),
};

pub(super) const STAGED: Staged =
    Staged { fault: FAULT, steps: |[_, after, _], shape| after + 5 * shape.election_ticks };

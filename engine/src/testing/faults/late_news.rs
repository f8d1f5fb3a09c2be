//! A follower has entries of an old leader that nobody committed; then it is away while two leaders are elected, one
//! after the other, and others are committed in their place. It hears of all that in one turn: one write has the new
//! term, the new entries and their commit index. Its power fails when that write has landed in part (RULES.md rule 11).
//! Arguments: the group and the node beside its leader, steps until the leader's power fails, batches that land.

use super::{Fault, Staged, node};

pub(super) const FAULT: Fault = Fault {
    name: "late news",
    often: 2,
    draw: |random, shape| {
        let whom = random.below(shape.groups.len() as u64 * 8);
        [whom, random.between(8, 30), *random.pick(&[1, 1, 2, 3])]
    },
    inject: |run, [whom, after, batches]| run.late_news(node(whom / 8), whom % 8, after, batches),
};

pub(super) const STAGED: Staged =
    Staged { fault: FAULT, steps: |[_, after, _], shape| after + 9 * shape.election_ticks };

//! A follower has uncommitted entries of an old leader. Then it is paused while two leaders are elected, one after the
//! other, and other entries are committed in the place of its own. The follower hears of all this in one turn: one
//! write has the new term, the new entries and their commit index. Its power fails when part of that write has landed
//! (RULES.md rule 11). Arguments: the group and one of its followers, steps until the leader's power fails, batches
//! that land.

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

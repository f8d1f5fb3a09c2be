//! Majorities: what enough voters have said or reached.
//!
//! Every rule that counts voters asks here, by what each voter has (a vote, a matched index, a
//! moment), never by how many there are. A joint configuration is then the same three questions
//! asked of both halves and combined: the lower of two indexes, a vote won only in both.
//!
//! In:     the voters, and a function from a voter to what it has.
//! Out:    [`reached`]: the most that a majority has; [`vote_result`].
//! Cost:   a small sort; no allocation up to [`INLINE_VOTERS`] voters.
//! Source: paper §5.2 (elections), §5.3 (commitment), thesis §4.3 (joint, for later).

use crate::{NodeId, rules};
use alloc::vec::Vec;

/// The result of a vote so far.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum VoteResult {
    /// A majority has granted.
    Won,
    /// A majority can no longer grant.
    Lost,
    /// Neither yet.
    Open,
}

/// The highest value that a majority of `voters` has reached.
pub(crate) fn reached<T: Copy + Default + Ord>(
    voters: &[NodeId],
    value_of: impl Fn(NodeId) -> T,
) -> T {
    assert!(!voters.is_empty(), "a quorum of nobody: {voters:?}");
    let mut inline = [T::default(); INLINE_VOTERS];
    let mut spilled = Vec::new();
    let values = if voters.len() <= INLINE_VOTERS {
        &mut inline[..voters.len()]
    } else {
        spilled.resize(voters.len(), T::default());
        &mut spilled[..]
    };
    for (value, &voter) in values.iter_mut().zip(voters) {
        *value = value_of(voter);
    }
    values.sort_unstable();
    values[rules::majority_place(values.len())]
}

/// Whether a vote is won, lost or open; `vote_of` is `None` for a voter that has not answered.
pub(crate) fn vote_result(
    voters: &[NodeId],
    vote_of: impl Fn(NodeId) -> Option<bool>,
) -> VoteResult {
    let majority = voters.len() / 2 + 1;
    let count = |wanted: Option<bool>| voters.iter().filter(|&&v| vote_of(v) == wanted).count();
    if count(Some(true)) >= majority {
        VoteResult::Won
    } else if count(Some(true)) + count(None) < majority {
        VoteResult::Lost
    } else {
        VoteResult::Open
    }
}

/// Groups of up to this many voters are counted without an allocation.
const INLINE_VOTERS: usize = 7;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn voters(count: u64) -> Vec<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    #[test]
    fn what_is_reached_is_what_brute_force_finds() {
        // Every assignment of 0..=3 to up to five voters, and a spilled one.
        for count in 1..=5u64 {
            let voters = voters(count);
            for code in 0..4u64.pow(u32::try_from(count).unwrap()) {
                let value_of = |v: NodeId| (code / 4u64.pow(u32::try_from(v.0 - 1).unwrap())) % 4;
                let expected = (0..=3)
                    .filter(|&x| {
                        voters.iter().filter(|&&v| value_of(v) >= x).count() * 2 > voters.len()
                    })
                    .max()
                    .unwrap();
                assert_eq!(reached(&voters, value_of), expected, "{count} voters, code {code}");
            }
        }
        assert_eq!(reached(&voters(9), |v| v.0), 5);
        assert_eq!(reached(&voters(8), |v| v.0), 4);
    }

    #[test]
    fn a_vote_is_lost_only_when_it_cannot_be_won() {
        let voters = voters(4);
        let result = |votes: Vec<Option<bool>>| {
            vote_result(&voters, |v| votes[usize::try_from(v.0 - 1).unwrap()])
        };
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(result(vec![yes, yes, None, None]), VoteResult::Open);
        assert_eq!(result(vec![yes, yes, no, None]), VoteResult::Open);
        assert_eq!(result(vec![yes, yes, no, no]), VoteResult::Lost);
        assert_eq!(result(vec![yes, yes, yes, None]), VoteResult::Won);
        assert_eq!(result(vec![no, no, None, None]), VoteResult::Lost);
    }
}
